"""Adapters on one base: off they are the base bit for bit, and no gradient is lost to a switch."""

import copy
import importlib.util
import math
from contextlib import nullcontext

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from logratio.errors import BadConfig, MissingExtra
from logratio.generation.config import SamplingConfig
from logratio.generation.sampler import sample
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.precision import ComputeWeights
from logratio.models.loading import weights_fingerprint
from logratio.models.lora import (
    BASE,
    CRITIC,
    POLICY,
    active_adapter,
    adapter_names,
    adapter_parameters,
    add_adapter,
    linear_layers,
    merge_adapter,
    use_adapter,
)
from logratio.policies.language import LanguagePolicy
from logratio.records import Prompt
from logratio.training.layout_check import select_layout
from tiny_models import exact_llama, exact_of, random_groups, tiny_llama, tiny_tokenizer

VOCABULARY = 50
IDS = torch.arange(2, 40)[None]


def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=0
    )
    return GPT2LMHeadModel(config).double().eval()


MODELS = {
    "llama": lambda: exact_llama(VOCABULARY),
    "llama, head apart": lambda: exact_llama(VOCABULARY, tied=False),
    "gpt2": tiny_gpt2,
}


def trained(model, name=POLICY, *, rank=4, alpha=8, seed=0):
    """The model with an adapter as training might leave it: A and B far from 0."""
    add_adapter(model, name, rank=rank, alpha=alpha, seed=seed)
    move(model, name, seed=seed)
    return model


def move(model, name, *, seed):
    generator = torch.Generator().manual_seed(seed + len(name))
    with torch.no_grad():
        for weight in adapter_parameters(model, name):
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(0.2 * drawn.to(weight.dtype))


def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("name", MODELS)
def test_a_new_adapter_changes_nothing_bit_for_bit(name):
    model = MODELS[name]()
    before, kind = logits(model), type(model)
    add_adapter(model, rank=4, alpha=8, seed=0)
    assert torch.equal(logits(model), before)
    assert type(model) is kind
    assert (adapter_names(model), active_adapter(model)) == ((POLICY,), POLICY)


@pytest.mark.parametrize("name", MODELS)
def test_off_it_is_the_base_bit_for_bit_and_on_again_what_it_was(name):
    model = MODELS[name]()
    before = logits(model)
    trained(model)
    moved = logits(model)
    assert float((moved - before).detach().abs().max()) > 0.1
    with use_adapter(model, BASE):
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), moved)


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_of_the_body_is_adapted_and_the_head_is_not(name):
    model = MODELS[name]()
    kinds = {"Linear", "Conv1D"}
    head = model.get_output_embeddings()
    expected = [place for place, m in model.named_modules() if type(m).__name__ in kinds and m is not head]
    assert linear_layers(model) == expected
    add_adapter(model, rank=4, alpha=8, seed=0)
    with_weights = {
        place.partition(".lora_")[0] for place, _ in model.named_parameters() if ".lora_" in place
    }
    assert sorted(with_weights) == sorted(expected)
    assert model.get_output_embeddings() is head
    add_adapter(model, CRITIC, rank=2, alpha=8, seed=0)
    assert (
        len(adapter_parameters(model, CRITIC)) == len(adapter_parameters(model, POLICY)) == 2 * len(expected)
    )


def test_nothing_but_the_adapter_is_trained():
    model = trained(tiny_llama(VOCABULARY))
    moved = {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert moved == {id(weight) for weight in adapter_parameters(model, POLICY)}
    logits(model).square().mean().backward()
    assert all((weight.grad is not None) == (id(weight) in moved) for weight in model.parameters())


def test_the_frozen_weights_have_the_hash_of_the_base_alone():
    model = tiny_llama(VOCABULARY)
    before = weights_fingerprint(model)
    trained(model)
    assert weights_fingerprint(model, trainable=False) == before
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.get_base_layer().weight[0, 0] += 1e-6
    assert weights_fingerprint(model, trainable=False) != before


def drawn(name=POLICY, *, seed):
    model = tiny_llama(VOCABULARY)
    add_adapter(model, name, rank=4, alpha=8, seed=seed)
    return [weight.detach().clone() for weight in adapter_parameters(model, name)]


def test_the_draw_is_a_function_of_seed_and_name():
    first = drawn(seed=3)
    assert all(map(torch.equal, first, drawn(seed=3)))
    assert not any(map(torch.equal, first[::2], drawn(seed=4)[::2]))
    assert not any(map(torch.equal, first[::2], drawn(CRITIC, seed=3)[::2]))


def test_the_draw_neither_reads_nor_moves_the_global_generator():
    found = []
    for state in (1, 2):
        model = tiny_llama(VOCABULARY)
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        add_adapter(model, rank=4, alpha=8, seed=0)
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(adapter_parameters(model, POLICY))
    assert all(map(torch.equal, *found))


def test_a_is_uniform_and_b_is_0():
    for down, up in zip(drawn(seed=0)[::2], drawn(seed=0)[1::2], strict=True):
        bound = down.shape[1] ** -0.5
        assert float(down.abs().max()) < bound
        # The standard deviation of a uniform number, and five times the error of an estimate of it.
        assert float(down.std()) == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(2 * down.numel()))
        assert not up.any()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("rank", "alpha"), [(4, 8), (3, 16)])
def test_merged_is_the_base_with_the_product_added(name, rank, alpha):
    """`W + (α/r)·B·A` by hand, the model's own forward pass with the adapter, and what merging leaves."""
    model = trained(MODELS[name](), rank=rank, alpha=alpha)
    by_hand, expected = MODELS[name](), logits(model)
    for place in linear_layers(model):
        layer = model.get_submodule(place)
        change = alpha / rank * layer.lora_B[POLICY].weight @ layer.lora_A[POLICY].weight
        weight = by_hand.get_submodule(place).weight
        with torch.no_grad():
            weight.add_(change if weight.shape == change.shape and name != "gpt2" else change.T)
    torch.testing.assert_close(logits(by_hand), expected, rtol=0, atol=1e-10)
    merged = merge_adapter(model)
    assert merged is model
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-10)
    for place, weight in by_hand.named_parameters():
        torch.testing.assert_close(merged.get_parameter(place), weight, rtol=0, atol=1e-12)


def test_merged_is_a_plain_model_whose_weights_can_be_trained():
    model = trained(trained(tiny_llama(VOCABULARY)), CRITIC)
    plain = tiny_llama(VOCABULARY)
    merge_adapter(model)
    assert adapter_names(model) == ()
    assert active_adapter(model) == BASE
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    before = logits(model)
    add_adapter(model, rank=2, alpha=8, seed=0)
    with use_adapter(model, BASE):
        assert torch.equal(logits(model), before)


def test_merging_one_adapter_leaves_the_other_out():
    model = trained(trained(exact_llama(VOCABULARY)), CRITIC, seed=5)
    with use_adapter(model, CRITIC):
        expected = logits(model)
    torch.testing.assert_close(logits(merge_adapter(model, CRITIC)), expected, rtol=0, atol=1e-10)


def states(policy, groups):
    return torch.cat([policy.hidden_states(row) for row in policy.pack(groups)])


def test_gradients_of_policy_and_critic_in_one_loss_are_those_of_two_models():
    """Reference, policy and critic are read in turn on one base, and differentiated afterwards."""
    groups = random_groups(4, vocab_size=VOCABULARY)
    shared = trained(trained(exact_llama(VOCABULARY)), CRITIC, seed=5)
    apart = {
        POLICY: trained(exact_llama(VOCABULARY)),
        CRITIC: trained(exact_llama(VOCABULARY), CRITIC, seed=5),
    }
    reference = LanguagePolicy(exact_llama(VOCABULARY), None)

    def loss(policy, critic, base):
        rows = policy.pack(groups)
        with torch.no_grad():
            before = base.sequence_logprobs(rows)
        ratio = (policy.sequence_logprobs(rows) - before).exp()
        values = states(critic, groups)[:, :3].square().mean()
        again = policy.sequence_logprobs(rows).mean()
        return ratio.mean() + values + 0.1 * again

    one = [LanguagePolicy(shared, None, adapter=name) for name in (POLICY, CRITIC, BASE)]
    loss(*one).backward()
    loss(LanguagePolicy(apart[POLICY], None), LanguagePolicy(apart[CRITIC], None), reference).backward()
    for name, model in apart.items():
        pairs = list(zip(adapter_parameters(shared, name), adapter_parameters(model, name), strict=True))
        for found, expected in pairs:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-12)
        assert max(float(expected.grad.abs().max()) for _, expected in pairs) > 1e-3


KNOWN = {
    "llama": lambda: exact_llama(VOCABULARY),
    "qwen 2": lambda: exact_of(Qwen2ForCausalLM, Qwen2Config, VOCABULARY),
    "qwen 3": lambda: exact_of(Qwen3ForCausalLM, Qwen3Config, VOCABULARY, head_dim=12),
}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_our_own_layers_compute_an_adapter_as_peft_does(name, recompute, in_place):
    """Also where the other adapter is in use by the time of the backward pass."""
    groups, outer = random_groups(5, vocab_size=VOCABULARY, num_answers=3), torch.randn(15).double()
    model = trained(trained(KNOWN[name]()), CRITIC, rank=2, seed=5)
    apart = LanguagePolicy(model, None, layout="unpacked", adapter=POLICY)
    expected = apart.sequence_logprobs(apart.pack(groups))
    (expected * outer).sum().backward()
    gradients = [weight.grad for weight in adapter_parameters(model, POLICY)]
    assert min(float(gradient.abs().max()) for gradient in gradients) > 1e-3
    model.zero_grad()
    policy = LanguagePolicy(model, None, adapter=POLICY)
    policy.set_compute(recompute_activations=recompute)
    assert policy.decoder is not None
    with policy.accumulate_in_place() if in_place else nullcontext():
        found = policy.sequence_logprobs(policy.pack(groups))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    with use_adapter(model, CRITIC):
        (found * outer).sum().backward()
    for weight, gradient in zip(adapter_parameters(model, POLICY), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-9)
    assert all(
        weight.grad is None
        for place, weight in model.named_parameters()
        if not any(weight is one for one in adapter_parameters(model, POLICY))
    )


def test_a_layer_that_an_adapter_leaves_out_is_the_base():
    model = trained(exact_llama(VOCABULARY))
    layer = model.model.layers[1].mlp.gate_proj
    model.model.layers[1].mlp.gate_proj = layer.get_base_layer()
    other = model.model.layers[0].mlp.gate_proj
    del other.lora_A[POLICY], other.lora_B[POLICY]
    groups = random_groups(5, vocab_size=VOCABULARY)
    apart, policy = LanguagePolicy(model, None, layout="unpacked"), LanguagePolicy(model, None)
    assert policy.decoder is not None
    with torch.no_grad():
        found, expected = (one.sequence_logprobs(one.pack(groups)) for one in (policy, apart))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("native", [True, False])
def test_in_bf16_an_adapter_is_the_same_but_for_rounding(native, monkeypatch):
    for module in ("precision", "packed_attention"):
        monkeypatch.setattr(f"logratio.kernels.{module}.multiplies_bf16", lambda kind="cpu": native)
    model, groups = tiny_llama(VOCABULARY, spread=0.1), random_groups(6, vocab_size=VOCABULARY)
    add_adapter(model, rank=4, alpha=8, seed=0)
    with torch.no_grad():
        for weight in adapter_parameters(model, POLICY):
            weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    values, gradients = {}, {}
    for precision in ("fp32", "bf16"):
        policy = LanguagePolicy(model, None)
        policy.set_compute(precision=precision)
        model.zero_grad()
        found = policy.sequence_logprobs(policy.pack(groups))
        found.sum().backward()
        values[precision] = found.detach()
        gradients[precision] = [weight.grad for weight in adapter_parameters(model, POLICY)]
    assert 1e-4 < float((values["bf16"] - values["fp32"]).abs().max()) < 0.3
    for mine, theirs in zip(gradients["bf16"], gradients["fp32"], strict=True):
        assert mine.dtype == torch.float32
        assert float(torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)) > 0.99


def dropping():
    model = trained(tiny_llama(VOCABULARY))
    model.model.layers[0].mlp.up_proj.lora_dropout[POLICY] = torch.nn.Dropout(0.1)
    return model


def two_at_once():
    model = trained(trained(tiny_llama(VOCABULARY)), CRITIC)
    model.model.layers[1].self_attn.q_proj._active_adapter = [POLICY, CRITIC]
    return model


def folded_in():
    model = trained(tiny_llama(VOCABULARY))
    model.model.layers[1].self_attn.o_proj.merge()
    return model


def on_few_bits():
    """In float32 itself, as peft's own functions make an adapter of a model in bfloat16."""
    model = trained(tiny_llama(VOCABULARY, dtype=torch.bfloat16))
    for weight in adapter_parameters(model, POLICY):
        weight.data = weight.data.float()
    return model


@pytest.mark.parametrize("make", [dropping, two_at_once, folded_in, on_few_bits])
def test_an_adapter_of_another_kind_is_left_to_peft(make):
    assert Decoder.of(make().base_model, ComputeWeights()) is None


@pytest.mark.parametrize("name", [POLICY, CRITIC, BASE])
def test_a_gradient_is_not_lost_when_another_is_in_use_at_the_backward_pass(name):
    model = trained(trained(exact_llama(VOCABULARY)), CRITIC, seed=5)
    logits(model).square().mean().backward()
    expected = [weight.grad.clone() for weight in adapter_parameters(model, POLICY)]
    model.zero_grad()
    value = logits(model).square().mean()
    with use_adapter(model, name):
        value.backward()
    for weight, gradient in zip(adapter_parameters(model, POLICY), expected, strict=True):
        assert torch.equal(weight.grad, gradient)


def test_policy_critic_and_reference_on_one_base_are_three_models():
    groups = random_groups(6, vocab_size=VOCABULARY)
    model = trained(trained(exact_llama(VOCABULARY)), CRITIC, seed=5)
    alone = {
        POLICY: merge_adapter(copy.deepcopy(model)),
        CRITIC: merge_adapter(copy.deepcopy(model), CRITIC),
        BASE: exact_llama(VOCABULARY),
    }
    for layout in ("packed", "unpacked"):
        for name, other in alone.items():
            one, two = LanguagePolicy(model, None, adapter=name), LanguagePolicy(other, None)
            one.layout = two.layout = layout
            with torch.no_grad():
                found = one.sequence_logprobs(one.pack(groups))
                expected = two.sequence_logprobs(two.pack(groups))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
            assert active_adapter(model) == POLICY


def test_both_outputs_of_a_plain_row_are_the_adapter_s():
    model = trained(exact_llama(VOCABULARY))
    (row,) = LanguagePolicy(model, None, layout="unpacked").pack(random_groups(1, vocab_size=VOCABULARY)[:1])[
        :1
    ]
    plain = LanguagePolicy(exact_llama(VOCABULARY), None)
    for found, expected in zip(
        LanguagePolicy(model, None, adapter=BASE).states_and_logits(row),
        plain.states_and_logits(row),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_the_layout_is_settled_with_the_policy_s_own_adapter():
    """With the adapter in use in one layout and off in the other, the two would differ."""
    model = trained(tiny_llama(VOCABULARY))
    policy = LanguagePolicy(model, None, adapter=BASE)
    select_layout(policy, random_groups(6, vocab_size=VOCABULARY))
    assert policy.layout == "packed"


def test_what_is_sampled_comes_from_the_adapter_in_use():
    tokenizer = tiny_tokenizer()
    model = trained(tiny_llama(len(tokenizer), spread=0.1))
    merged = merge_adapter(copy.deepcopy(model))
    config = SamplingConfig(max_new_tokens=8, temperature=1.0)

    def answers(one):
        (found,) = sample(one, tokenizer, [Prompt("the cat")], num_samples=4, seed=0, config=config)
        return [answer.token_ids for answer in found.completions]

    assert answers(model) == answers(merged)
    with use_adapter(model, BASE):
        assert answers(model) == answers(tiny_llama(len(tokenizer), spread=0.1)) != answers(merged)


def test_using_nests_and_restores_after_a_fault():
    model = trained(trained(tiny_llama(VOCABULARY)), CRITIC)

    def inside():
        with use_adapter(model, CRITIC):
            assert active_adapter(model) == CRITIC
            raise RuntimeError("a fault")

    with use_adapter(model, BASE):
        with use_adapter(model, POLICY):
            assert active_adapter(model) == POLICY
        assert active_adapter(model) == BASE
        with pytest.raises(RuntimeError, match="a fault"):
            inside()
        assert active_adapter(model) == BASE
    assert active_adapter(model) == POLICY
    with use_adapter(model, BASE):
        add_adapter(model, "third", rank=2, alpha=8, seed=0)
        assert active_adapter(model) == BASE
    assert all(
        weight.requires_grad for name in (POLICY, CRITIC) for weight in adapter_parameters(model, name)
    )


def test_an_adapter_that_is_not_there_is_named():
    for model in (tiny_llama(VOCABULARY), trained(tiny_llama(VOCABULARY))):
        with pytest.raises(ValueError, match="no adapter 'critic'"), use_adapter(model, CRITIC):
            pass
        with pytest.raises(ValueError, match="no adapter 'critic'"):
            merge_adapter(model, CRITIC)


def test_a_plain_model_is_its_own_base():
    model = tiny_llama(VOCABULARY)
    with use_adapter(model, BASE):
        assert torch.equal(logits(model), logits(tiny_llama(VOCABULARY)))


def test_an_architecture_that_peft_cannot_adapt_is_named():
    model = MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    )
    with pytest.raises(BadConfig, match="MambaForCausalLM"):
        add_adapter(model, rank=4, alpha=8, seed=0)


def test_without_peft_the_command_that_installs_it_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(MissingExtra) as fault:
        add_adapter(tiny_llama(VOCABULARY), rank=4, alpha=8, seed=0)
    assert "pip install 'logratio[peft]'" in fault.value.action


def test_a_peft_that_switches_otherwise_is_refused(monkeypatch):
    """Whoever takes an adapter that is on for the reference would measure nothing."""
    from peft.tuners.lora import LoraLayer

    model = trained(tiny_llama(VOCABULARY))
    monkeypatch.setattr(LoraLayer, "disable_adapters", property(lambda _layer: False))
    with pytest.raises(MissingExtra, match="this version of peft"), use_adapter(model, BASE):
        pass
