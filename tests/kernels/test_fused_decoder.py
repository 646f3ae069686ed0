"""The decoder's own way to compute, against transformers' forward pass and automatic differentiation."""

import copy

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from logratio.errors import BadConfig
from logratio.kernels import fused_decoder as decoder_module
from logratio.kernels import packed_attention
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.packing import PrefixSharedRow
from logratio.kernels.precision import ComputeWeights
from logratio.packed_rows import AnswerGroup, Span
from logratio.policies.language import LanguagePolicy
from logratio.training.config import TrainingConfig
from logratio.training.optimizer import build_optimizer
from tiny_models import SIZES as SMALL
from tiny_models import exact_llama, exact_of, random_groups, tiny_llama

VOCABULARY = 50
SIZES = {"vocab_size": VOCABULARY, **SMALL}


def build(kind, config, **settings):
    return exact_of(kind, config, VOCABULARY, **settings)


MODELS = {
    "llama": lambda: build(LlamaForCausalLM, LlamaConfig, tie_word_embeddings=True),
    "wide heads": lambda: build(LlamaForCausalLM, LlamaConfig, head_dim=12),
    "llama 3's angles": lambda: build(
        LlamaForCausalLM,
        LlamaConfig,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "qwen 2 with biases": lambda: build(Qwen2ForCausalLM, Qwen2Config),
    "qwen 3, whose heads are normalised": lambda: build(Qwen3ForCausalLM, Qwen3Config, head_dim=12),
    "smollm 3, a layer without positions": lambda: build(
        SmolLM3ForCausalLM, SmolLM3Config, no_rope_layers=[1, 0]
    ),
    "mistral without a window": lambda: build(MistralForCausalLM, MistralConfig, sliding_window=None),
}


def values_and_gradients(policy, groups, *, rows=None):
    """Log-probabilities of answers, and the gradient of a random projection of them."""
    for weight in policy.model.parameters():
        weight.grad = None
    found = []
    outer = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for part in [groups] if rows is None else rows:
        logprobs = policy.sequence_logprobs(policy.pack(part))
        start = sum(len(one) for one in found)
        (logprobs * outer[start : start + len(logprobs)].to(logprobs)).sum().backward()
        found.append(logprobs.detach())
    return torch.cat(found), [weight.grad for weight in policy.model.parameters()]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("long", [0, 10_000])
def test_values_and_gradients_are_those_of_transformers(name, recompute, long, monkeypatch):
    """Each answer alone through the model's own forward pass, differentiated automatically."""
    monkeypatch.setattr(packed_attention, "LONG", long)
    model, groups = MODELS[name](), random_groups(5, vocab_size=VOCABULARY, num_answers=3)
    assert Decoder.of(model.base_model, ComputeWeights()) is not None
    alone = values_and_gradients(LanguagePolicy(model, None, layout="unpacked"), groups)
    policy = LanguagePolicy(model, None)
    policy.set_compute(recompute_activations=recompute)
    packed = values_and_gradients(policy, groups)
    torch.testing.assert_close(packed[0], alone[0], rtol=0, atol=1e-10)
    for mine, theirs in zip(packed[1], alone[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def behind(prefix, groups, prompts=None):
    """The same groups, all of whose prompts begin alike."""
    own = [group.prompt for group in groups] if prompts is None else prompts
    return [AnswerGroup((*prefix, *prompt), group.answers) for prompt, group in zip(own, groups, strict=True)]


PREFIX = (3, 1, 4, 1, 5, 9)
SHARED = {
    "each with a prompt of its own": (lambda groups: behind(PREFIX, groups), 6),
    "one that is the prefix alone": (
        lambda groups: behind(PREFIX, groups, [(7, 8), (), (8, 7, 7), (2,), ()]),
        6,
    ),
    "the same prompt five times": (lambda groups: behind(PREFIX, groups, [()] * 5), 6),
    "one that differs in its first token": (
        lambda groups: [*behind(PREFIX, groups[:4]), *behind((2, *PREFIX), groups[4:])],
        0,
    ),
    "alike but for their first": (
        lambda groups: behind(PREFIX[:3], groups, [(n, 5, 6) for n in range(5)]),
        0,
    ),
}


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("long", [0, 10_000])
@pytest.mark.parametrize("recompute", [False, True])
def test_what_all_prompts_begin_with_is_read_once(case, long, recompute, monkeypatch):
    """In rows of five, with what is common read once, as each alone by transformers' forward pass."""
    monkeypatch.setattr(packed_attention, "LONG", long)
    read = []
    honest = Decoder.begin
    monkeypatch.setattr(
        Decoder, "begin", lambda self, ids, *rest: read.append(len(ids)) or honest(self, ids, *rest)
    )
    make, prefix = SHARED[case]
    model = MODELS["llama"]()
    groups = make(random_groups(5, vocab_size=VOCABULARY, num_answers=3))
    alone = values_and_gradients(LanguagePolicy(model, None, layout="unpacked"), groups)
    policy = LanguagePolicy(model, None)
    policy.set_compute(recompute_activations=recompute)
    packed = values_and_gradients(policy, groups)
    assert read == [sum(group.num_tokens for group in groups) - 4 * prefix]
    torch.testing.assert_close(packed[0], alone[0], rtol=0, atol=1e-10)
    for mine, theirs in zip(packed[1], alone[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("long", [0, 10_000])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("unpacked", [False, True])
def test_attention_by_graph_is_that_of_the_kernel(prefix, long, unpacked, monkeypatch):
    """What other devices are given, held against the CPU's kernel and its own backward pass."""
    monkeypatch.setattr(packed_attention, "LONG", long)
    spans = (Span(0, 4, (6, 7)), Span(7, 9, (12,)), Span(12, 15, (15, 19)))
    length = 19 - 2 * prefix
    generator = torch.Generator().manual_seed(3)
    states = [torch.randn(length, heads, 8, generator=generator, dtype=torch.float64) for heads in (6, 2, 2)]
    if unpacked:
        # A head's numbers do not stand side by side.
        states = [one.permute(2, 1, 0).contiguous().permute(2, 1, 0) for one in states]
    for one in states:
        one.requires_grad_()
    attend = packed_attention.SegmentAttention(spans, scale=0.3, like=states[0], prefix=prefix)
    outer = torch.randn(length, 48, generator=generator, dtype=torch.float64)
    found, expected = attend(*states), attend.by_sdpa(*states).flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    mine, theirs = (torch.autograd.grad((one * outer).sum(), states) for one in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_what_stands_in_other_positions_is_not_the_same():
    """A row whose groups' positions go on from each other has no prefix, whatever its tokens."""
    policy = LanguagePolicy(MODELS["llama"](), None)
    (row,) = policy.pack(behind(PREFIX, random_groups(3, vocab_size=VOCABULARY, num_answers=2)))
    tokens, onwards = row.input_ids[0], torch.arange(row.input_ids.shape[1])
    assert PrefixSharedRow.of(tokens, row.position_ids[0], row.spans).prefix == len(PREFIX)
    assert PrefixSharedRow.of(tokens, onwards, row.spans).prefix == 0


def test_a_row_has_room_for_what_a_prefix_saves():
    """Six groups of ten tokens, eight of them common: a row of 20 tokens holds them all."""
    groups = [AnswerGroup((*range(8), 10 + number), ((1, 2),)) for number in range(6)]
    policy = LanguagePolicy(MODELS["llama"](), None)
    assert [part for part, _ in policy.micro_batches(groups, max_tokens=20)] == [[0, 1, 2, 3, 4, 5]]
    assert [part for part, _ in policy.micro_batches(groups, max_tokens=19)] == [[0, 1, 2, 3, 4], [5]]
    policy.layout = "unpacked"
    assert [part for part, _ in policy.micro_batches(groups, max_tokens=20)] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_added_in_place_are_those_of_the_graph(tied, recompute):
    groups = random_groups(6, vocab_size=VOCABULARY)
    rows = [groups[:2], groups[2:3], groups[3:]]
    model = exact_llama(VOCABULARY, tied=tied)
    model.model.embed_tokens.padding_idx = None
    _, expected = values_and_gradients(LanguagePolicy(model, None), groups, rows=rows)
    policy = LanguagePolicy(model, None)
    policy.set_compute(recompute_activations=recompute)
    with policy.accumulate_in_place():
        _, found = values_and_gradients(policy, groups, rows=rows)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_stands_keeps_its_memory_and_what_was_in_it():
    policy = LanguagePolicy(tiny_llama(VOCABULARY), None)
    groups = random_groups(4, vocab_size=VOCABULARY)
    with policy.accumulate_in_place():
        _, first = values_and_gradients(policy, groups)
        before = [gradient.clone() for gradient in first]
        policy.sequence_logprobs(policy.pack(groups)).sum().backward()
    products = [weight for weight in policy.model.parameters() if weight.ndim == 2]
    assert all(
        weight.grad is one
        for weight, one in zip(policy.model.parameters(), first, strict=True)
        if weight.ndim == 2
    )
    _, alone = values_and_gradients(policy, groups)
    policy.model.zero_grad()
    policy.sequence_logprobs(policy.pack(groups)).sum().backward()
    for one, kept, weight in zip(first, before, policy.model.parameters(), strict=True):
        torch.testing.assert_close(one, kept + weight.grad, rtol=1e-4, atol=1e-4)
    assert len(products) > 10
    assert len(alone) == len(first)


def test_frozen_weights_have_no_gradient_and_change_no_other():
    model, groups = exact_llama(VOCABULARY), random_groups(3, vocab_size=VOCABULARY)
    _, expected = values_and_gradients(LanguagePolicy(model, None), groups)
    frozen = [weight for number, weight in enumerate(model.parameters()) if number % 3 == 1]
    for weight in frozen:
        weight.requires_grad_(False)
    policy = LanguagePolicy(model, None)
    with policy.accumulate_in_place():
        _, found = values_and_gradients(policy, groups)
    for weight, mine, theirs in zip(model.parameters(), found, expected, strict=True):
        if weight.requires_grad:
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        else:
            assert mine is None


# --- bfloat16 ----------------------------------------------------------------------------------------


def slightly_wide(kind, config, **settings):
    """In float32, as wide as a trained model: with wider weights the last of eight bits decide much."""
    return build(kind, config, **settings | {"initializer_range": 0.1}).float()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_llama(VOCABULARY, spread=0.1),
        lambda: slightly_wide(Qwen3ForCausalLM, Qwen3Config, head_dim=12),
        lambda: slightly_wide(SmolLM3ForCausalLM, SmolLM3Config, no_rope_layers=[1, 0]),
    ],
    ids=["llama", "qwen 3", "smollm 3"],
)
def test_bf16_is_the_same_but_for_rounding_with_gradients_in_float32(make, native, monkeypatch):
    for module in ("precision", "packed_attention"):
        monkeypatch.setattr(f"logratio.kernels.{module}.multiplies_bf16", lambda kind="cpu": native)
    model, groups = make(), random_groups(6, vocab_size=VOCABULARY)
    policy = LanguagePolicy(model, None)
    assert policy.decoder is not None
    values, gradients = values_and_gradients(policy, groups)
    policy.set_compute(precision="bf16")
    with policy.accumulate_in_place():
        coarse, coarse_gradients = values_and_gradients(policy, groups, rows=[groups[:3], groups[3:]])
    assert coarse.dtype == torch.float32
    assert 1e-4 < float((coarse - values).abs().max()) < 0.3
    for mine, theirs in zip(coarse_gradients, gradients, strict=True):
        assert mine.dtype == torch.float32
        # The angle between the two: eight bits of every product leave it at some hundredths.
        assert float(torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)) > 0.995


def test_copies_follow_the_weights():
    weight = torch.nn.Parameter(torch.randn(3, 4))
    compute_weights = ComputeWeights("bf16")
    before = compute_weights.of(weight)
    assert compute_weights.of(weight) is before
    assert torch.equal(before, weight.to(torch.bfloat16))
    with torch.no_grad():
        weight.add_(1.0)
    assert torch.equal(compute_weights.of(weight), weight.to(torch.bfloat16))
    assert ComputeWeights("fp32").of(weight).data_ptr() == weight.data_ptr()


def test_copies_follow_the_optimiser():
    """Its fused kernel writes past what counts a tensor's changes."""
    layer, compute_weights = torch.nn.Linear(4, 3), ComputeWeights("bf16")
    compute_weights.of(layer.weight)
    optimizer = build_optimizer(layer, TrainingConfig.of(learning_rate=0.1))
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(compute_weights.of(layer.weight), layer.weight.to(torch.bfloat16))


# --- models that are not known -----------------------------------------------------------------------


def gemma():
    return GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8)).eval()


def windowed():
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)).eval()


def with_output_bias():
    return LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True)).eval()


def gelu():
    return LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu")).eval()


def stretched_by_length():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    return LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope)).eval()


def changed():
    model = tiny_llama(VOCABULARY)
    model.model.forward = model.model.forward
    return model


@pytest.mark.parametrize("make", [gemma, windowed, with_output_bias, gelu, stretched_by_length, changed])
def test_what_is_not_known_is_left_to_its_own_forward_pass(make):
    model = make()
    assert Decoder.of(model.base_model, ComputeWeights()) is None
    policy = LanguagePolicy(model, None)
    with pytest.raises(BadConfig, match="cannot be computed again"):
        policy.set_compute(recompute_activations=True)


def test_a_subclass_of_a_layer_is_not_known():
    model = tiny_llama(VOCABULARY)

    class Other(type(model.model.layers[1].mlp)):
        pass

    model.model.layers[1].mlp.__class__ = Other
    assert Decoder.of(model.base_model, ComputeWeights()) is None


def test_bf16_of_a_model_that_is_not_known_is_autocast():
    torch.manual_seed(0)
    model, groups = gemma(), random_groups(3, vocab_size=VOCABULARY)
    policy = LanguagePolicy(model, None)
    values, _ = values_and_gradients(policy, groups)
    policy.set_compute(precision="bf16")
    coarse, gradients = values_and_gradients(policy, groups)
    assert 1e-4 < float((coarse - values).abs().max()) < 1.0
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_a_padding_token_that_is_not_trained_stays_so():
    model = exact_llama(VOCABULARY)
    model.model.embed_tokens.padding_idx = 5
    groups = random_groups(4, vocab_size=VOCABULARY)
    _, found = values_and_gradients(LanguagePolicy(model, None), groups)
    _, expected = values_and_gradients(LanguagePolicy(copy.deepcopy(model), None, layout="unpacked"), groups)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)


def test_rotation_turns_back():
    angle = torch.rand(7, 1, 6, dtype=torch.float64).repeat(1, 1, 2)
    states = torch.randn(7, 3, 12, dtype=torch.float64)
    turned = decoder_module.rotate(states.clone(), angle.cos(), angle.sin())
    torch.testing.assert_close(decoder_module.rotate(turned.clone(), angle.cos(), -angle.sin()), states)
    torch.testing.assert_close(turned.norm(dim=-1), states.norm(dim=-1))
