"""What rounding may do to log-probabilities, and that no fault hides behind it."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from logratio.algorithms import dpo
from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.errors import InvariantViolated
from logratio.kernels.chunked_kl import compare_tokens
from logratio.kernels.chunked_lm_head import token_logprobs, token_logprobs_and_entropy
from logratio.kernels.precision import ComputeWeights
from logratio.kernels.rounding_error import (
    TOKEN_NOISE,
    LogprobDifference,
    largest_difference,
    mean_square_difference,
    repeat_difference,
    sum_difference,
)
from logratio.packed_rows import AnswerGroup
from logratio.policies.actor_critic import LanguageActor
from logratio.policies.language import LanguagePolicy, answer_lengths
from logratio.run_directory import RunDirectory
from logratio.training.invariants import check_sampled_logprobs, check_step_zero_rewards, mean_difference
from reordered_matmul import reordered_products
from tiny_models import tiny_llama

VOCABULARY = 50
LENGTHS = [8, 32, 128, 512, 2000]
FEW_LENGTHS = [8, 128, 2000]
"""For what takes seconds at the longest."""


def answer(length, *, seed):
    generator = torch.Generator().manual_seed(seed)
    return (*torch.randint(1, VOCABULARY, (length - 1,), generator=generator).tolist(), 0)


def pair(length, *, seed=0):
    prompt = answer(6, seed=seed + 100)
    return AnswerGroup(prompt, (answer(length, seed=seed), answer(9, seed=seed + 50)))


def llama(**settings):
    """As in a trained model, logits are some nats wide; positions go far enough for the longest answers."""
    model = tiny_llama(VOCABULARY, layers=4, spread=0.1, **settings)
    model.config.max_position_embeddings = 4096
    return model


def policy_of(model, precision="bf16"):
    policy = LanguagePolicy(model, None)
    policy.set_compute(precision=precision)
    return policy


@torch.no_grad()
def tokens_of(policy, groups):
    return torch.cat([policy.evaluate(row) for row in policy.pack(groups)])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rounding_in_another_packing_stays_within_its_limits(precision, length):
    policy = policy_of(llama(), precision)
    group, other = pair(length), pair(40, seed=1)
    with reordered_products():
        alone, beside = (
            tokens_of(policy, [group]),
            tokens_of(policy, [group, other])[: group.num_answer_tokens],
        )
    found = LogprobDifference.of(beside - alone)
    assert found.explained_by(TOKEN_NOISE[precision])
    if precision == "bf16" and length >= 512:
        assert found.largest > 0
    row = policy.pack([group])[0]
    summed = [torch.zeros(2).index_add(0, row.answer_index, one) for one in (alone, beside)]
    limit = sum_difference(summed[0], answer_lengths([row]), noise=TOKEN_NOISE[precision])
    assert bool(((summed[0] - summed[1]).abs() <= limit).all())


def test_rows_that_are_packed_alike_are_equal_to_the_last_bit():
    policy = policy_of(llama())
    groups = [pair(9), pair(40, seed=1), pair(17, seed=2)]
    with reordered_products():
        recorded = tokens_of(policy, groups)
        row = policy.pack(groups)[0]
        assert torch.equal(policy.evaluate(row).detach(), recorded)
        weight = policy.compute_weights.of(policy.model.get_output_embeddings().weight)
        states = policy.hidden_states(row).detach()
        found = compare_tokens(states, weight, states, weight, row.target_ids, chunk=16)
        plain = token_logprobs(states, weight, row.target_ids, chunk=16)
        both, _ = token_logprobs_and_entropy(states, weight, row.target_ids, chunk=16)
    assert torch.equal(found.logprobs, plain.detach())
    assert torch.equal(found.reference_logprobs, plain.detach())
    assert torch.equal(both.detach(), plain.detach())


def train(policy, groups, path, **settings):
    config = DPOConfig.of(batch_size=2, learning_rate=1e-4, epochs=1, **settings)
    with RunDirectory.begin(path, {"identity": config.identity()}) as run:
        train_dpo(policy, groups, config, run)
    return run


@pytest.mark.parametrize("length", [8, 512, 2000])
def test_dpo_in_bf16_starts_at_a_log_ratio_of_exactly_0(tmp_path, length):
    groups = [pair(length, seed=seed) for seed in range(2)]
    with reordered_products():
        run = train(policy_of(llama()), groups, tmp_path / "run", loss="ipo", beta=0.5, row_tokens=8192)
    assert run.metrics[0]["chosen_reward"] == run.metrics[0]["rejected_reward"] == 0.0


def wrong_layer(policy):
    """One layer's weights changed by 1 %."""
    other = copy.deepcopy(policy.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.model.layers[1].parameters():
            weight.mul_(1 + 0.01 * torch.randn(weight.shape, generator=generator))
    return policy_of(other, policy.precision)


def wrong_temperature(policy):
    """Logits divided by 0.95."""
    other = copy.deepcopy(policy.model)
    with torch.no_grad():
        other.model.norm.weight.div_(0.95)
    return policy_of(other, policy.precision)


class LastTokenLeftOut(LanguagePolicy):
    """A mask that is off by one: the last token of every answer carries nothing."""

    def evaluate(self, row):
        continues = row.answer_index[1:] == row.answer_index[:-1]
        return super().evaluate(row) * torch.nn.functional.pad(continues, (0, 1))


def mask_off_by_one(policy):
    other = LastTokenLeftOut(policy.model, None)
    other.set_compute(precision=policy.precision)
    return other


@pytest.mark.parametrize(
    ("precision", "length"), [*(("bf16", length) for length in FEW_LENGTHS), ("fp32", 8), ("fp32", 128)]
)
@pytest.mark.parametrize("wrong", [wrong_layer, wrong_temperature, mask_off_by_one])
def test_a_wrong_reference_is_noticed_at_every_length(tmp_path, monkeypatch, precision, wrong, length):
    policy = policy_of(llama(), precision)
    honest = dpo.reference_logprobs
    monkeypatch.setattr(
        dpo, "reference_logprobs", lambda one, *rest, **more: honest(wrong(one), *rest, **more)
    )
    with pytest.raises(InvariantViolated, match="step_zero_rewards") as caught:
        train(policy, [pair(length)], tmp_path / "run")
    assert "rounding" in caught.value.action


@pytest.mark.parametrize("length", FEW_LENGTHS)
@pytest.mark.parametrize("wrong", [wrong_temperature, mask_off_by_one])
def test_a_sampler_that_is_not_the_policy_is_noticed_at_every_length(wrong, length):
    policy = policy_of(llama())
    groups = [AnswerGroup(answer(6, seed=seed), (answer(length, seed=seed),)) for seed in range(2)]
    now = [tokens_of(policy, [group]).tolist() for group in groups]
    other = policy_of(tempered(policy.model)) if wrong is wrong_temperature else wrong(policy)
    recorded = [tokens_of(other, [group]).tolist() for group in groups]
    noise = policy.rounding_noise(groups)
    assert check_sampled_logprobs(now, now, noise=noise).value == 0
    with pytest.raises(InvariantViolated, match="sampled_equals_recomputed"):
        check_sampled_logprobs(recorded, now, noise=noise)


def tempered(model):
    """Logits divided by 0.9."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight.div_(0.9)
    return other


def test_the_limits_grow_as_the_error_of_a_sum_does():
    logprobs, lengths = torch.tensor([-10.0, -40.0]), torch.tensor([4, 16])
    short, long = sum_difference(logprobs, lengths, noise=0.01).tolist()
    unit = 2.0**-24
    assert short == pytest.approx(8 * 2 * (0.02 + unit * 10))
    assert long == pytest.approx(8 * 4 * (0.02 + unit * 40))
    ordered = sum_difference(logprobs, lengths, noise=0.01, in_order=True).tolist()
    assert ordered == pytest.approx([8 * 2 * 0.02, 8 * 4 * 0.02])
    assert largest_difference(0.01) == pytest.approx(0.16)
    assert mean_square_difference(0.01, 36) == pytest.approx(0.04)
    assert mean_difference(3.0, 100) == pytest.approx(8 * 10 * unit * 3)
    assert mean_difference(0.1, 100) == pytest.approx(8 * 10 * unit)


def test_differences_are_measured_over_all_tokens():
    found = LogprobDifference.of(torch.tensor([0.3, -0.4]))
    assert (found.largest, found.num_tokens) == (pytest.approx(0.4), 2)
    assert found.root_mean_square == pytest.approx(math.sqrt(0.125))
    assert not LogprobDifference.of(torch.tensor([0.0, float("nan")])).explained_by(1.0)


def test_a_device_that_computes_the_same_numbers_twice_gets_no_room():
    weight = torch.nn.Parameter(torch.tensor([0.5, 2.0]))
    assert repeat_difference(lambda: weight * 3).tolist() == [0.0, 0.0]
    again = iter([0.0, 0.1, 0.3])
    assert repeat_difference(lambda: weight * 0 + next(again)).tolist() == pytest.approx([0.3, 0.3])


def test_noise_is_measured_against_float32():
    policy = policy_of(llama())
    group = pair(64)
    plain = copy.copy(policy)
    plain.compute_weights = ComputeWeights("fp32")
    expected = (tokens_of(policy, [group]) - tokens_of(plain, [group])).square().mean().sqrt()
    assert policy.rounding_noise([group]) == pytest.approx(float(expected), rel=1e-5)
    assert 0 < policy.rounding_noise([group]) < TOKEN_NOISE["bf16"]
    assert policy_of(llama(), "fp32").rounding_noise([group]) == 0


def test_a_small_fault_of_all_tokens_shows_in_the_mean_square():
    """Every token is off by 5σ: none is too far by itself, and all together are."""
    noise = 0.01
    found = LogprobDifference.of(torch.full((400,), 5 * noise))
    assert found.largest < largest_difference(noise)
    assert not found.explained_by(noise)


def test_a_nan_is_not_rounding():
    rewards = torch.tensor([0.0, float("nan"), 0.0])
    with pytest.raises(InvariantViolated, match="step_zero_rewards"):
        check_step_zero_rewards(rewards, step=0, tolerance=torch.tensor([1.0, 1.0, 1.0]))


def test_what_was_collected_is_what_an_update_reads():
    """Behaviour log-probabilities of every minibatch, to the last bit, whatever a row holds beside."""
    policy = policy_of(llama())
    actor = LanguageActor(policy, row_tokens=256)
    items = [pair(30 + 7 * seed, seed=seed) for seed in range(6)]
    time = max(len(answer) for item in items for answer in item.answers)
    minibatches = [[0, 3, 5], [1, 2, 4]]
    mask = torch.zeros(12, time, dtype=torch.bool)
    with reordered_products():
        readings = list(actor.compare(items, None, time=time, group_size=2, minibatches=minibatches))
        recorded = torch.zeros(12 * time)
        recorded[torch.cat([one.rows for one in readings])] = torch.cat(
            [one.tokens.logprobs for one in readings]
        )
        rollout = SimpleNamespace(trajectories=SimpleNamespace(mask=mask), group_size=2)
        for item_ids in minibatches:
            for now in actor.evaluate([items[item] for item in item_ids], item_ids, rollout):
                assert torch.equal(now.logprobs.detach(), recorded[now.rows])
