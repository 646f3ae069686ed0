"""What report.json says of DPO, PPO and best-of-n, and what the picture draws."""

from __future__ import annotations

import json

import pytest

from evaluation.test_model_comparison import DISTANCES, NUM, SAMPLES, LengthJudge
from logratio.errors import BadConfig
from logratio.evaluation.best_of_n import BestOfN, best_of_n_kl_bound
from logratio.evaluation.method_comparison import describe_frontier, describe_methods
from logratio.evaluation.model_comparison import compare
from logratio.evaluation.upper_bound import BoundPoint
from logratio.stats.bootstrap import Estimate

BEST = BestOfN(n=16, reward=Estimate(value=1.5, low=1.2, high=1.8), kl_bound=best_of_n_kl_bound(16))


@pytest.fixture(scope="module")
def evaluation():
    """DPO, and what is called sft elsewhere as PPO."""
    samples = {"policy": SAMPLES["policy"], "ppo": SAMPLES["sft"], "reference": SAMPLES["reference"]}
    distances = {"policy": DISTANCES["policy"], "ppo": DISTANCES["sft"]}
    return compare(samples, LengthJudge(), distances, seed=3, resamples=500)


def test_every_method_has_win_rate_reward_and_kl(evaluation):
    methods = describe_methods(evaluation, BEST, [1.0] * 30 + [0.0] * 10, resamples=200)
    json.dumps(methods, allow_nan=False)
    assert list(methods) == ["dpo", "ppo", "best_of_n"]
    for method, stage in (("dpo", evaluation.stages[-1]), ("ppo", evaluation.stages[1])):
        row = methods[method]
        assert (row["reward"], row["kl"]) == (stage.reward.value, stage.kl.value)
        assert row["reward_interval"] == [stage.reward.low, stage.reward.high]
        assert row["kl_interval"] == [stage.kl.low, stage.kl.high]
        assert row["win_rate"]["n"] == NUM
        gained = row["reward_difference"]["value"]
        assert gained == pytest.approx(stage.reward.value - evaluation.stages[0].reward.value)
    assert methods["dpo"]["win_rate"]["value"] == 1.0
    assert methods["ppo"]["win_rate"]["value"] == 0.75


def test_best_of_n_is_counted_from_its_picks_and_says_that_its_kl_is_a_bound(evaluation):
    best = describe_methods(evaluation, BEST, [1.0] * 30 + [0.0] * 10, resamples=200)["best_of_n"]
    assert best["n"] == 16
    assert (best["win_rate"]["wins"], best["win_rate"]["ties"]) == (30, 10)
    assert best["win_rate"]["value"] == 0.875
    assert (best["reward"], best["reward_interval"]) == (1.5, [1.2, 1.8])
    gained = 30 / 40 - evaluation.stages[0].reward.value
    assert best["reward_difference"]["value"] == pytest.approx(gained)
    assert best["kl"] == pytest.approx(1.835089, abs=1e-6)
    assert best["kl_is_bound"] is True
    assert "kl_interval" not in best


def test_a_method_that_is_not_there_is_not_described():
    evaluation = compare(SAMPLES, LengthJudge(), DISTANCES, resamples=200)
    assert list(describe_methods(evaluation)) == ["dpo"]


@pytest.mark.parametrize("count", [0, NUM - 1, NUM + 1])
def test_picks_of_other_prompts_are_refused(evaluation, count):
    with pytest.raises(BadConfig, match=f"picked on {count} prompts"):
        describe_methods(evaluation, BEST, [1.0] * count)


def test_the_frontier_is_what_the_picture_draws():
    point = BoundPoint(beta=1.0, kl=0.5, reward=Estimate(value=1.0, low=0.9, high=1.1), effective_samples=300)
    assert describe_frontier([BEST], [point], prompts=24, samples_a_prompt=512) == {
        "best_of_n": [BEST.to_json()],
        "upper_bound": [point.to_json()],
        "prompts": 24,
        "samples_a_prompt": 512,
    }
