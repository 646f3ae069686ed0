"""KL of sequences against enumeration: every answer a tiny model can give, with its exact probability."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from logratio.errors import InvariantViolated, NonFiniteLogits, ReferenceAliased
from logratio.evaluation import policy_divergence
from logratio.evaluation.policy_divergence import Divergence, measure_divergence, sequence_kl
from logratio.generation.config import SamplingConfig
from logratio.generation.engines.selection import sample_tokens
from logratio.kernels.fused_decoder import Decoder
from tiny_models import exact_llama, random_groups, tiny_llama

VOCABULARY, END, LONGEST = 4, 0, 3


def every_answer() -> list[tuple[int, ...]]:
    """All answers that end in the end token or are cut off after `LONGEST` tokens."""
    words = [token for token in range(VOCABULARY) if token != END]
    ended = [(*body, END) for length in range(LONGEST) for body in itertools.product(words, repeat=length)]
    return ended + list(itertools.product(words, repeat=LONGEST))


def alone(model, prompt, answer) -> torch.Tensor:
    """Log-probabilities `[answer, vocabulary]` of one sequence, unpadded, by the model's own forward."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def expected(policy, reference, prompt, answer) -> tuple[float, float]:
    """Exact KL and log-ratio of one sequence, written out."""
    p, q = alone(policy, prompt, answer), alone(reference, prompt, answer)
    places = torch.arange(len(answer))
    log_ratio = (p - q)[places, torch.tensor(answer)].sum()
    return float((p.exp() * (p - q)).sum()), float(log_ratio)


def encode(groups):
    return [(group.prompt, answer) for group in groups for answer in group.answers]


def test_the_mean_over_all_answers_is_the_kl_of_sequences():
    policy, reference = exact_llama(VOCABULARY, seed=1), exact_llama(VOCABULARY, seed=2)
    prompt, answers = (1, 2), every_answer()
    places = [torch.arange(len(answer)) for answer in answers]
    log_p, log_q = (
        torch.stack(
            [
                alone(model, prompt, answer)[place, torch.tensor(answer)].sum()
                for answer, place in zip(answers, places, strict=True)
            ]
        )
        for model in (policy, reference)
    )
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    truth = float((log_p.exp() * (log_p - log_q)).sum())
    found = measure_divergence(policy, reference, [(prompt, answer) for answer in answers])
    exact = torch.tensor(found.exact, dtype=torch.float64)
    log_ratios = torch.tensor(found.log_ratios, dtype=torch.float64)
    assert truth > 0.05
    assert float(log_p.exp() @ exact) == pytest.approx(truth, abs=1e-10)
    assert float(log_p.exp() @ log_ratios) == pytest.approx(truth, abs=1e-10)
    # The point of it: the same mean with less variance, and never below zero.
    variance = [float(log_p.exp() @ (values - truth) ** 2) for values in (exact, log_ratios)]
    assert variance[0] < variance[1]
    assert float(exact.min()) >= 0
    assert float(log_ratios.min()) < 0


@pytest.mark.parametrize("row_tokens", [1, 40, 1024])
def test_padding_and_batches_do_not_change_it(row_tokens):
    policy, reference = exact_llama(30, seed=1, tied=False), exact_llama(30, seed=2)
    encoded = encode(random_groups(8, vocab_size=30))
    found = measure_divergence(policy, reference, encoded, row_tokens=row_tokens)
    for index, (prompt, answer) in enumerate(encoded):
        kl, log_ratio = expected(policy, reference, prompt, answer)
        assert found.exact[index] == pytest.approx(kl, abs=1e-10)
        assert found.log_ratios[index] == pytest.approx(log_ratio, abs=1e-10)


def test_padded_rows_say_what_packed_rows_say(monkeypatch):
    """Models whose parts are not known are read with padding, by their own forward pass."""
    policy, reference = exact_llama(30, seed=1), exact_llama(30, seed=2)
    encoded = encode(random_groups(7, vocab_size=30))
    packed = sequence_kl(policy, reference, encoded, row_tokens=40)
    monkeypatch.setattr(Decoder, "of", lambda *_, **__: None)
    assert sequence_kl(policy, reference, encoded, row_tokens=40) == pytest.approx(packed, rel=1e-10)
    assert packed == pytest.approx([expected(policy, reference, *one)[0] for one in encoded], rel=1e-10)


def test_float32_is_near_float64():
    policy, reference = tiny_llama(30, seed=1), tiny_llama(30, seed=2)
    encoded = encode(random_groups(6, vocab_size=30))
    found = sequence_kl(policy, reference, encoded)
    exact = sequence_kl(exact_llama(30, seed=1), exact_llama(30, seed=2), encoded)
    assert found == pytest.approx(exact, abs=1e-4, rel=1e-4)


def test_a_model_is_at_no_distance_from_itself():
    model = tiny_llama(30)
    encoded = encode(random_groups(6, vocab_size=30))
    assert sequence_kl(model, model, encoded) == [0.0] * len(encoded)
    assert max(sequence_kl(model, tiny_llama(30), encoded)) < 1e-6


def test_the_direction_is_from_the_policy():
    policy, reference = exact_llama(4, seed=1), exact_llama(4, seed=2)
    encoded = [((1,), (2, 0))]
    forward, backward = sequence_kl(policy, reference, encoded), sequence_kl(reference, policy, encoded)
    assert forward[0] == pytest.approx(expected(policy, reference, *encoded[0])[0], abs=1e-10)
    assert abs(forward[0] - backward[0]) > 1e-3


def test_the_end_token_counts():
    policy, reference = exact_llama(30, seed=1), exact_llama(30, seed=2)
    without, end = (((1, 2), (5, 6)), ((1, 2, 5, 6), (0,)))
    whole = sequence_kl(policy, reference, [((1, 2), (5, 6, 0))])[0]
    parts = sequence_kl(policy, reference, [without, end])
    assert whole == pytest.approx(sum(parts), abs=1e-10)
    assert parts[1] > 1e-3


def test_the_vocabulary_never_stands_for_many_tokens(monkeypatch):
    monkeypatch.setattr(policy_divergence, "CHUNK_TOKENS", 3)
    policy, reference = exact_llama(30, seed=1), exact_llama(30, seed=2)
    encoded = encode(random_groups(6, vocab_size=30))
    heights = []
    policy.lm_head.register_forward_hook(
        lambda module, inputs, output: heights.append(len(output)) if output.dim() == 2 else None
    )
    found = sequence_kl(policy, reference, encoded)
    assert max(heights) == 3
    assert sum(heights) >= sum(len(answer) for _, answer in encoded)
    assert found == pytest.approx([expected(policy, reference, *one)[0] for one in encoded], abs=1e-10)


def test_a_head_that_scales_its_logits_is_noticed():
    def granite(seed: int) -> GraniteForCausalLM:
        torch.manual_seed(seed)
        config = GraniteConfig(
            vocab_size=30,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            logits_scaling=0.25,
            initializer_range=0.3,
        )
        return GraniteForCausalLM(config).eval()

    policy, reference = granite(1), granite(2)
    encoded = encode(random_groups(5, vocab_size=30))
    found = measure_divergence(policy, reference, encoded)
    for index, one in enumerate(encoded):
        kl, log_ratio = expected(policy, reference, *one)
        assert found.exact[index] == pytest.approx(kl, abs=1e-3)
        assert found.log_ratios[index] == pytest.approx(log_ratio, abs=1e-3)


def test_dropout_is_off_and_training_mode_comes_back():
    policy, reference = tiny_llama(30, seed=1), tiny_llama(30, seed=2)
    encoded = encode(random_groups(3, vocab_size=30))
    quiet = sequence_kl(policy, reference, encoded)
    policy.train()
    policy.config.attention_dropout = 0.5
    for layer in policy.model.layers:
        layer.self_attn.attention_dropout = 0.5
    assert sequence_kl(policy, reference, encoded) == pytest.approx(quiet, abs=1e-4)
    assert policy.training
    assert not reference.training


def test_a_negative_kl_breaks_the_law(monkeypatch):
    monkeypatch.setattr(policy_divergence, "exact_kl", lambda p, q: torch.full(p.shape[:-1], -1e-3))
    model = tiny_llama(30)
    with pytest.raises(InvariantViolated) as caught:
        sequence_kl(model, model, [((1,), (2, 0))])
    assert caught.value.invariant == "exact_kl_not_negative"


def test_logits_that_are_not_numbers_are_named():
    policy, reference = tiny_llama(30, seed=1, tied=False), tiny_llama(30, seed=2)
    policy.lm_head.weight.data[3] = float("nan")
    with pytest.raises(NonFiniteLogits, match="NaN"):
        sequence_kl(policy, reference, [((1,), (2, 0))])


def test_vocabularies_must_be_the_same():
    with pytest.raises(ReferenceAliased, match="30 tokens and the reference's 31"):
        sequence_kl(tiny_llama(30), tiny_llama(31), [((1,), (2, 0))])


@pytest.mark.parametrize("encoded", [[], [((), (1,))], [((1,), ())]])
def test_what_has_no_token_is_refused(encoded):
    model = tiny_llama(30)
    with pytest.raises(ValueError, match=r"no answers|tokens"):
        sequence_kl(model, model, encoded)


def sampled(model, *, num: int, temperature: float = 1.0):
    config = SamplingConfig(max_new_tokens=4, temperature=temperature, decode_batch_size=num)
    (answers,) = sample_tokens(model, [(1, 2)], [range(num)], {END}, 0, config)
    return [((1, 2), answer.token_ids) for answer in answers]


def test_the_two_estimates_agree_on_fresh_samples_only():
    policy, reference = tiny_llama(12, seed=1), tiny_llama(12, seed=2)
    fresh = measure_divergence(policy, reference, sampled(policy, num=300))
    assert fresh.disagreement < 4
    stale = measure_divergence(policy, reference, sampled(reference, num=300))
    assert stale.disagreement > 5
    hot = measure_divergence(policy, reference, sampled(policy, num=300, temperature=3.0))
    assert hot.disagreement > 5


def test_equal_policies_do_not_disagree():
    found = Divergence(exact=(1e-12, 0.0, 2e-12), log_ratios=(1e-7, -2e-7, 3e-7))
    assert found.disagreement < 0.1
    assert (found.mean, found.mean_log_ratio) == pytest.approx((1e-12, 2e-7 / 3))
