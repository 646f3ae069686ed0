"""The sampled bound against the exact edge of an enumerated language, and who is above it."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from evaluation.test_model_comparison import DISTANCES, SAMPLES, LengthJudge, answers, distance
from logratio.errors import TooFewLabels
from logratio.evaluation.model_comparison import compare
from logratio.evaluation.upper_bound import (
    NUM_BETAS,
    BoundPoint,
    above_the_bound,
    beta_grid,
    bound_at,
    tilt,
    upper_bound,
)
from logratio.stats.bootstrap import Estimate
from logratio.verify.worlds import frontier, oracle
from logratio.verify.worlds.training import standard_problem
from logratio.verify.worlds.world import World

WORLD = World()
REFERENCE = frontier.dyadic_logits(WORLD, seed=1)
REWARDS = WORLD.rewards(seed=7)
FEW = {"seed": 0, "resamples": 20}


@pytest.fixture(scope="module")
def written_out():
    """Every answer as often as it is probable, of 4096."""
    return frontier.written_out(WORLD, REFERENCE, REWARDS)


def point(*, beta, kl, reward, half=0.0, worth=500.0):
    estimate = Estimate(value=reward, low=reward - half, high=reward + half)
    return BoundPoint(beta=beta, kl=kl, reward=estimate, effective_samples=worth)


# --- what a point is -----------------------------------------------------------------------------------


def test_hand_worked():
    """Rewards 0 and log 3 at β = 1: weights 1 and 3, so π* is 1/4 and 3/4 where the reference is even."""
    found = tilt(torch.tensor([0.0, math.log(3)], dtype=torch.float64), beta=1.0)
    assert found.gain == pytest.approx(math.log(3) / 4)
    assert found.kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert found.effective_samples == pytest.approx(1.6)


def test_answers_as_often_as_they_are_probable_give_the_exact_edge(written_out):
    for found in upper_bound(written_out, betas=(0.1, 0.3, 1, 3), least_samples=0, **FEW):
        reward, kl = frontier.edge(WORLD, REFERENCE, REWARDS, beta=found.beta)
        assert found.reward.value == pytest.approx(reward, abs=1e-12)
        assert found.kl == pytest.approx(kl, abs=1e-12)


def test_effective_samples_are_those_of_chi_square(written_out):
    """`N/(1 + χ²)` at each prompt, and the harmonic mean of both."""
    (found,) = upper_bound(written_out, betas=[0.5], least_samples=0, **FEW)
    reference = torch.tensor(oracle.sequence_probabilities(WORLD, REFERENCE), dtype=torch.float64)
    best = (reference.log() + REWARDS / 0.5).softmax(dim=-1)
    squares = (best.square() / reference).sum(dim=-1)
    assert found.effective_samples == pytest.approx(4096 / squares.mean().item(), rel=1e-12)


@pytest.mark.parametrize(("beta", "error"), [(1.0, 0.025), (0.6, 0.08)])
def test_samples_converge_to_the_edge(beta, error):
    problem = standard_problem(beta=beta)
    generator = torch.Generator().manual_seed(3)
    reward, kl = frontier.edge(problem.world, problem.reference, problem.rewards, beta=beta)
    for scale in (1, 16):
        errors = []
        for _ in range(30):
            drawn = torch.multinomial(
                problem.reference_logprobs.exp(), 1024 * scale, replacement=True, generator=generator
            )
            own = problem.rewards.gather(1, drawn).tolist()
            (found,) = upper_bound(own, betas=[beta], seed=0, resamples=2)
            errors.append((found.kl - kl, found.reward.value - reward))
        mean_square = torch.tensor(errors).square().mean(dim=0).sqrt()
        assert mean_square[0] < error / scale**0.5
        assert mean_square[1] < 0.1 / scale**0.5


def test_a_shift_of_the_reward_moves_the_reward_alone(written_out):
    moved = [[value + 1000.0 for value in own] for own in written_out]
    first, second = (upper_bound(own, betas=(0.5, 5), **FEW) for own in (written_out, moved))
    for one, other in zip(first, second, strict=True):
        assert other.reward.value - one.reward.value == pytest.approx(1000, abs=1e-9)
        assert other.kl == pytest.approx(one.kl, rel=1e-9)
        assert other.effective_samples == pytest.approx(one.effective_samples, rel=1e-9)


def test_large_and_small_beta_stay_finite(written_out):
    far, near = upper_bound(written_out, betas=(1e9, 1e-9), least_samples=0, **FEW)
    assert 0 <= far.kl < 1e-12
    means = [sum(own) / len(own) for own in written_out]
    assert far.reward.value == pytest.approx(sum(means) / 2)
    assert near.reward.value == pytest.approx(REWARDS.max(dim=1).values.mean().item())
    assert near.effective_samples >= 1


# --- the curve -----------------------------------------------------------------------------------------


def test_the_curve_rises_with_falling_slope_and_ends_where_its_samples_do(written_out):
    curve = upper_bound(written_out, **FEW)
    assert 10 < len(curve) < NUM_BETAS
    assert all(one.effective_samples >= 100 for one in curve)
    assert curve[0].kl < 0.002
    for one, other in pairwise(curve):
        slope = (other.reward.value - one.reward.value) / (other.kl - one.kl)
        assert other.beta < slope < one.beta
    all_of_it = upper_bound(written_out, least_samples=0, **FEW)
    assert len(all_of_it) == NUM_BETAS
    assert all(one.effective_samples < 100 for one in all_of_it[len(curve) :])


def test_a_prompt_with_few_effective_samples_is_not_hidden_behind_others():
    """One prompt of which a single answer outweighs the rest, nine on which all weights are equal."""
    flat, odd = [0.0] * 1000, [0.0] * 999 + [50.0]
    rewards = [odd, *[flat] * 9]
    assert upper_bound(rewards, betas=[1.0], **FEW) == []
    (found,) = upper_bound(rewards, betas=[1.0], least_samples=9.0, **FEW)
    assert found.effective_samples == pytest.approx(10 / (1 + 9 / 1000))


def test_the_gain_is_added_to_the_mean_over_all_prompts():
    """Prompts that are easy on average: their gain counts, not their level."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.tensor([[3.0], [5.0], [10.0]], dtype=torch.float64)
    rewards = (levels + torch.randn(3, 500, generator=generator, dtype=torch.float64)).tolist()
    (own,) = upper_bound(rewards, betas=[1.0], seed=0)
    (moved,) = upper_bound(rewards, betas=[1.0], reference_mean=0.25, seed=0)
    mean = sum(map(sum, rewards)) / 1500
    assert moved.reward.value - 0.25 == pytest.approx(own.reward.value - mean)
    assert moved.reward.high - moved.reward.low < 0.1 * (own.reward.high - own.reward.low)
    assert moved.kl == own.kl


def test_rewards_that_do_not_vary_have_no_curve():
    assert upper_bound([[1.0] * 300] * 3, **FEW) == []
    assert beta_grid([[1.0, 1.0], [2.0, 2.0]]) == []


def test_the_grid_is_in_units_of_the_spread_within_prompts():
    grid = beta_grid([[0.0, 2.0], [100.0, 102.0]])
    assert (grid[0], grid[-1]) == pytest.approx((30, 0.1))
    assert beta_grid([[0.0, 20.0]]) == pytest.approx([10 * beta for beta in grid])


def test_a_point_s_json_is_what_the_report_reads():
    written = point(beta=0.5, kl=1.2, reward=0.6, half=0.1).to_json()
    assert json.loads(json.dumps(written)) == {
        "beta": 0.5,
        "kl": 1.2,
        "reward": 0.6,
        "reward_interval": [0.5, 0.7],
        "effective_samples": 500.0,
    }


def test_the_example_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "frontier.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    line, most = names["line"], names["most"]
    assert line[-1].kl > 0.9
    # Even rewards between 0 and 1: to first order the gain is √(2 KL / 12).
    assert most == pytest.approx(0.5 + math.sqrt(2 * 0.25 / 12), rel=0.01)


@pytest.mark.parametrize("rewards", [[], [[]], [[1.0], []], [[1.0, 2.0]]])
def test_prompts_without_answers_are_refused(rewards):
    with pytest.raises(TooFewLabels, match="prompts have answers"):
        upper_bound(rewards, **FEW)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_is_no_penalty_is_refused(beta):
    with pytest.raises(ValueError, match="must be above 0"):
        upper_bound([[1.0, 2.0]] * 2, betas=[beta], **FEW)


# --- who is above it -----------------------------------------------------------------------------------


def test_no_policy_is_above_and_the_best_touch_it(written_out):
    points = upper_bound(written_out, betas=(3, 1, 0.5, 0.2), least_samples=0, **FEW)
    for one in points:
        assert bound_at(points, one.kl).value == pytest.approx(one.reward.value, abs=1e-12)
    for seed in range(60):
        logits = REFERENCE + WORLD.random_logits(seed=seed, scale=0.1 * 2 ** (seed % 6))
        kl = oracle.sequence_kl(WORLD, logits, REFERENCE)
        assert oracle.expected(WORLD, logits, REWARDS.tolist()) < bound_at(points, kl).value


def test_tangents_bound_between_the_points_and_beyond_them():
    points = [point(beta=2, kl=0.0, reward=0.0), point(beta=1, kl=1.0, reward=1.5, half=0.25)]
    assert bound_at(points, 0.2) == Estimate(value=0.4, low=0.4, high=0.4)
    assert bound_at(points, 3.0) == Estimate(value=3.5, low=3.25, high=3.75)


@pytest.fixture(scope="module")
def evaluation():
    """Rewards 0, 0.5 and 3 of reference, sft and policy; KL 0.2 of sft and about 1 of the policy."""
    return compare(SAMPLES, LengthJudge(), DISTANCES, seed=3, resamples=500)


def test_a_stage_that_is_above_is_named_with_what_it_means(evaluation):
    points = [point(beta=1, kl=1.0, reward=1.6, half=0.1)]
    (found,) = above_the_bound(points, evaluation)
    assert (found.name, found.severity) == ("AboveTheBound", "serious")
    assert found.what.startswith("policy: reward 3")
    assert "the KL or the split is wrong" in found.meaning
    assert found.action


def test_a_stage_within_the_intervals_is_not(evaluation):
    high = evaluation.stages[-1].kl.high
    assert above_the_bound([point(beta=1, kl=high, reward=2.9, half=0.2)], evaluation) == []
    assert above_the_bound([point(beta=1, kl=high, reward=2.7, half=0.2)], evaluation) != []
    assert above_the_bound([], evaluation) == []


def test_the_upper_end_of_the_divergence_counts():
    """A policy whose KL is known badly may be further away than it seems."""
    distances = {"policy": distance([0.0] * 39 + [40.0])}
    samples = {name: SAMPLES[name] for name in ("policy", "reference")}
    unsure = compare(samples, LengthJudge(), distances, seed=3, resamples=500)
    assert unsure.stages[-1].kl.value == 1
    assert unsure.stages[-1].kl.high >= 2
    assert above_the_bound([point(beta=1, kl=1.0, reward=2.5)], unsure) == []


def test_what_a_stage_gains_is_compared_prompt_by_prompt():
    """Levels of prompts that differ widely make wide intervals of means, and none of gains."""
    texts = ["g" * (9 * index) for index in range(40)]
    samples = {"policy": answers([text + "ggg" for text in texts]), "reference": answers(texts)}
    evaluation = compare(samples, LengthJudge(), {"policy": distance([1.0] * 40)}, resamples=500)
    start = evaluation.stages[0].reward.value
    assert above_the_bound([point(beta=1, kl=1.0, reward=start + 2.9)], evaluation) != []
    assert above_the_bound([point(beta=1, kl=1.0, reward=start + 3.1)], evaluation) == []
