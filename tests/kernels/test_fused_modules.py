"""Fused layers as PyTorch's tools see them: hooks, copies, files, sharding, compiler, profiler, gradients."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.kernels import fused_decoder
from logratio.kernels.chunked_lm_head import token_logprobs, token_logprobs_and_entropy
from logratio.kernels.fused_layers import is_accumulable
from logratio.models.lora import POLICY, adapter_parameters, add_adapter
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from tiny_models import exact_of, random_groups, tiny_llama

TESTS = Path(__file__).parents[1]

VOCABULARY = 50
MODELS = {
    "llama": lambda: tiny_llama(VOCABULARY, layers=3, tied=False),
    "qwen 3": lambda: exact_of(Qwen3ForCausalLM, Qwen3Config, VOCABULARY, head_dim=12),
    "smollm 3": lambda: exact_of(
        *(SmolLM3ForCausalLM, SmolLM3Config, VOCABULARY), no_rope_layers=[1, 0], tie_word_embeddings=False
    ),
}


def untrained_padding(model):
    """The model with embeddings that are all trained, so that they are looked up by our own function."""
    model.model.embed_tokens.padding_idx = None
    return model


def one_row(policy, num=4):
    (row,) = policy.pack(random_groups(num, vocab_size=VOCABULARY))
    return row


def gradients(policy, rows):
    """Of the sum of all log-probabilities, by `backward`."""
    policy.model.zero_grad()
    for row in rows:
        policy.evaluate(row).sum().backward()
    return [weight.grad for weight in policy.model.parameters()]


# --- hooks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_hooks_of_a_layer_are_called_once_a_pass(name, recompute):
    policy = LanguagePolicy(untrained_padding(MODELS[name]()), None)
    policy.set_compute(recompute_activations=recompute)
    row, seen = one_row(policy), []
    body = policy.model.model
    width, count = body.config.hidden_size, row.input_ids.shape[1]
    for module in (body.embed_tokens, *body.layers, body.norm):
        module.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0].shape)))
        module.register_forward_hook(lambda module, _, output: seen.append((module, output.shape)))
    for layer in body.layers:
        layer.register_full_backward_hook(
            lambda module, inner, outer: seen.append((module, inner[0].shape, outer[0].shape))
        )
    logprobs = policy.evaluate(row)
    *first, last = body.layers
    read, whole, wanted = torch.Size([count]), torch.Size([count, width]), torch.Size([len(logprobs), width])
    expected = [(body.embed_tokens, read), (body.embed_tokens, whole)]
    expected += [(layer, whole) for layer in first for _ in range(2)]
    expected += [(last, whole), (last, wanted), (body.norm, wanted), (body.norm, wanted)]
    assert seen == expected
    seen.clear()
    logprobs.sum().backward()
    assert seen == [(last, whole, wanted), *((layer, whole, whole) for layer in reversed(first))]


def test_a_hook_changes_what_the_next_layer_reads():
    policy = LanguagePolicy(MODELS["llama"](), None)
    row = one_row(policy)
    before = policy.evaluate(row)
    handle = policy.model.model.layers[0].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    assert not torch.allclose(policy.evaluate(row), before)
    handle.remove()
    assert torch.equal(policy.evaluate(row), before)


def test_backward_hooks_change_no_gradient():
    policy = LanguagePolicy(MODELS["llama"](), None)
    rows = [one_row(policy)]
    expected = gradients(policy, rows)
    for layer in policy.model.model.layers:
        layer.register_full_backward_hook(lambda *_: None)
    for mine, theirs in zip(gradients(policy, rows), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_checkpointing_of_transformers_computes_a_layer_again():
    policy = LanguagePolicy(MODELS["llama"](), None)
    rows, calls = [one_row(policy)], []
    expected = gradients(policy, rows)
    policy.model.train()
    for layer in policy.model.model.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = lambda *inputs: (
            calls.append(1) or checkpoint(*inputs, use_reentrant=False)
        )
    found = gradients(policy, rows)
    assert len(calls) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


# --- what a model is ---------------------------------------------------------------------------------


def test_a_fused_model_is_the_model_that_it_was(tmp_path):
    model, plain = MODELS["llama"](), MODELS["llama"]()
    policy = LanguagePolicy(model, None)
    assert policy.decoder is not None
    assert [type(layer).__name__ for layer in model.model.layers] == ["FusedLlamaDecoderLayer"] * 3
    assert all(isinstance(layer, LlamaDecoderLayer) for layer in model.model.layers)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
        longer = model.generate(ids, max_new_tokens=5, do_sample=False)
        assert torch.equal(longer, plain.generate(ids, max_new_tokens=5, do_sample=False))
    for one, name in ((model, "fused"), (plain, "plain")):
        one.save_pretrained(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert sorted(path.name for path in (tmp_path / "fused").iterdir()) == files
    for file in files:
        assert (tmp_path / "fused" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    assert json.loads((tmp_path / "fused" / "config.json").read_text())["architectures"] == [
        "LlamaForCausalLM"
    ]
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "fused")
    assert type(loaded.model.layers[0]) is LlamaDecoderLayer


def through_a_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, through_a_pickle, through_a_file])
def test_a_copy_computes_the_same_with_weights_of_its_own(copy_of):
    policy = LanguagePolicy(untrained_padding(MODELS["llama"]()), None)
    row = one_row(policy)
    expected = policy.evaluate(row)
    twin = copy_of(policy.model)
    assert [type(one) for one in twin.modules()] == [type(one) for one in policy.model.modules()]
    with torch.no_grad():
        policy.model.model.layers[0].mlp.down_proj.weight.zero_()
    assert torch.equal(LanguagePolicy(twin, None).evaluate(row), expected)
    assert not torch.allclose(policy.evaluate(row), expected)


def test_names_that_no_pickle_can_have_are_not_there():
    assert fused_decoder.FusedEmbedding.__mro__[2] is torch.nn.Embedding
    assert fused_decoder.FusedLlamaDecoderLayer.__mro__[2] is LlamaDecoderLayer
    with pytest.raises(AttributeError, match="FusedGemmaDecoderLayer"):
        _ = fused_decoder.FusedGemmaDecoderLayer


class OtherLayer(LlamaDecoderLayer):
    """A layer with a forward pass of its own."""

    def forward(self, hidden_states, *arguments, **settings):
        return 2 * super().forward(hidden_states, *arguments, **settings)


def other_class(layer):
    layer.__class__ = OtherLayer


def own_forward(layer):
    layer.forward = layer.forward


def own_forward_inside(layer):
    layer.self_attn.q_proj.forward = layer.self_attn.q_proj.forward


@pytest.mark.parametrize("change", [other_class, own_forward, own_forward_inside])
@pytest.mark.parametrize("fused_before", [False, True])
def test_a_layer_with_a_forward_pass_of_its_own_is_left_to_it(change, fused_before):
    policy = LanguagePolicy(MODELS["llama"](), None)
    assert not fused_before or policy.decoder is not None
    change(policy.model.model.layers[1])
    assert policy.decoder is None
    policy.evaluate(one_row(policy)).sum().backward()


# --- gradients in place ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_found_by_the_graph_unless_somebody_asks_otherwise(name):
    policy = LanguagePolicy(untrained_padding(MODELS[name]()), None)
    row, weights = one_row(policy), list(policy.model.parameters())
    expected = gradients(policy, [row])
    policy.model.zero_grad()
    found = torch.autograd.grad(policy.evaluate(row).sum(), weights)
    assert all(weight.grad is None for weight in weights)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)
    with policy.accumulate_in_place():
        logprobs = policy.evaluate(row)
    assert not policy.accumulates_in_place
    assert torch.autograd.grad(logprobs.sum(), weights[1], allow_unused=True) == (None,)
    assert torch.equal(weights[1].grad, expected[1])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_in_place_is_the_graph_s_gradient_bit_for_bit(name, recompute):
    policy = LanguagePolicy(untrained_padding(MODELS[name]()), None)
    policy.set_compute(recompute_activations=recompute)
    row = one_row(policy)
    expected = gradients(policy, [row])
    with policy.accumulate_in_place():
        found = gradients(policy, [row])
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("after", [False, True])
def test_a_weight_that_somebody_waits_for_has_its_gradient_by_the_graph(after):
    policy = LanguagePolicy(untrained_padding(MODELS["llama"]()), None)
    row, called = one_row(policy), []
    expected = gradients(policy, [row])
    matrices = {name: one for name, one in policy.model.named_parameters() if one.ndim == 2}
    for name, weight in matrices.items():
        if after:
            weight.register_post_accumulate_grad_hook(
                lambda weight, name=name: called.append((name, weight.grad))
            )
        else:
            weight.register_hook(lambda gradient, name=name: called.append((name, gradient)))
    with policy.accumulate_in_place():
        found = gradients(policy, [row])
    assert sorted(name for name, _ in called) == sorted(matrices)
    for name, gradient in called:
        assert torch.equal(gradient, matrices[name].grad)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_only_plain_leaves_without_hooks_are_added_to():
    class Own(torch.Tensor):
        pass

    weight = torch.nn.Parameter(torch.ones(2, 2))
    assert is_accumulable(weight)
    assert not is_accumulable(2 * weight)
    assert not is_accumulable(torch.ones(2, 2).as_subclass(Own))
    for register in (weight.register_hook, weight.register_post_accumulate_grad_hook):
        handle = register(lambda _: None)
        assert not is_accumulable(weight)
        handle.remove()
        assert is_accumulable(weight)


@pytest.mark.parametrize("compute", [token_logprobs, token_logprobs_and_entropy])
def test_the_head_s_gradient_comes_by_the_graph_unless_somebody_asks_otherwise(compute):
    head, states = torch.nn.Parameter(torch.randn(VOCABULARY, 8)), torch.randn(5, 8)
    targets = torch.tensor([1, 2, 3, 4, 5])

    def total(**settings):
        found = compute(states, head, targets, chunk=16, **settings)
        return sum(one.sum() for one in (found if isinstance(found, tuple) else (found,)))

    (expected,) = torch.autograd.grad(total(), head)
    total(accumulate_in_place=True).backward()
    assert torch.equal(head.grad, expected)
    assert torch.autograd.grad(total(accumulate_in_place=True), head, allow_unused=True) == (None,)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("train", ["sft", "dpo"])
def test_what_is_computed_again_trains_every_layer_as_what_is_kept(train, lora, tmp_path):
    """Bit for bit, in a trainer, which adds gradients in place."""
    groups = random_groups(6, vocab_size=VOCABULARY, num_answers=2 if train == "dpo" else 1)
    settings = {"batch_size": 2, "row_tokens": 32, "learning_rate": 1e-2}
    trained = []
    for recompute in (False, True):
        model = MODELS["llama"]()
        if lora:
            add_adapter(model, rank=2, alpha=4, seed=0)
        before = [weight.detach().clone() for weight in model.parameters()]
        policy = LanguagePolicy(model, None)
        policy.set_compute(recompute_activations=recompute)
        with RunDirectory.begin(tmp_path / str(recompute), {"identity": {}}) as run:
            if train == "dpo":
                train_dpo(policy, groups, DPOConfig.of(**settings), run)
            else:
                train_sft(policy, groups, SFTConfig.of(**settings), run)
        moved = adapter_parameters(model, POLICY) if lora else list(model.parameters())
        assert not policy.accumulates_in_place
        for weight, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(weight, old) == (not any(weight is one for one in moved))
        trained.append(list(model.parameters()))
    for kept, again in zip(*trained, strict=True):
        assert torch.equal(kept, again)


# --- other tools -------------------------------------------------------------------------------------


def test_a_profiler_sees_the_modules():
    policy = LanguagePolicy(untrained_padding(MODELS["llama"]()), None)
    row = one_row(policy)
    with profile(activities=[ProfilerActivity.CPU], with_stack=True, with_modules=True) as recorded:
        policy.evaluate(row)
    names = {event.name for event in recorded.events()}
    assert {f"nn.Module: FusedLlamaDecoderLayer_{number}" for number in range(3)} <= names
    assert {"nn.Module: FusedEmbedding_0", "nn.Module: LlamaRMSNorm_0"} <= names


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_layer_computes_the_same():
    policy = LanguagePolicy(MODELS["llama"](), None)
    rows = [one_row(policy)]
    expected = gradients(policy, rows)
    for layer in policy.model.model.layers:
        layer.compile(backend="eager")
    for mine, theirs in zip(gradients(policy, rows), expected, strict=True):
        assert torch.equal(mine, theirs)


def run_alone(code, *arguments):
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_family_of_models_is_imported_that_is_not_used():
    code = """
import sys
import logratio.kernels.fused_decoder
print(*(name for name in sys.modules if name.startswith("transformers.models.") and "modeling" in name))
"""
    assert run_alone(code).split() == []


SHARDED = """
import itertools
import sys
from contextlib import nullcontext
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from logratio.policies.language import LanguagePolicy
from tiny_models import random_groups, tiny_llama

store = sys.argv[1]
groups = random_groups(4, vocab_size=50)

def make():
    model = tiny_llama(50, layers=3, tied=False)
    model.model.embed_tokens.padding_idx = None
    return model

def passes(policy):
    policy.model.zero_grad()
    found = []
    for part in (groups[:2], groups[2:]):
        logprobs = policy.sequence_logprobs(policy.pack(part))
        logprobs.sum().backward()
        found.append(logprobs.detach())
    whole = (weight.grad for weight in policy.model.parameters())
    return torch.cat(found), [one.full_tensor() if isinstance(one, DTensor) else one for one in whole]

expected = passes(LanguagePolicy(make(), None))
dist.init_process_group("gloo", store=dist.FileStore(store, 1), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
for shard_first, recompute, in_place in itertools.product((False, True), repeat=3):
    model = make()
    if not shard_first:
        assert LanguagePolicy(model, None).decoder is not None
    body = model.model
    for module in (*body.layers, body.embed_tokens, body.norm):
        fully_shard(module, mesh=mesh)
    policy = LanguagePolicy(model, None)
    assert policy.decoder is not None
    policy.set_compute(recompute_activations=recompute)
    with policy.accumulate_in_place() if in_place else nullcontext():
        found = passes(policy)
    assert all(isinstance(weight, DTensor) for weight in body.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
dist.destroy_process_group()
print("equal")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no clusters")
def test_sharded_layers_have_the_same_loss_and_gradients(tmp_path):
    """Sharded before the policy was made, and after; with one rank, through the same calls as with many."""
    assert run_alone(SHARDED, tmp_path / "store").split() == ["equal"]
