"""Did a policy gradient learn what was wanted: monitored rewards, groups, the gradient's signal, the stop."""

from __future__ import annotations

import math
from statistics import variance
from types import SimpleNamespace

import pytest

from logratio.report.warnings.learning import REMEDIES
from logratio.report.warnings.metric_series import change, quarters, stretches
from logratio.training.divergence_guard import PATIENCE, RunawayGuard
from report.policy_gradient_runs import SETTINGS, by_name, noisy, raised, report_of

LIMITS = SimpleNamespace(
    guard=SimpleNamespace(max_reference_kl=50.0, max_repetition=0.5, max_length_change=4.0)
)
HEALTHY = {"reference_kl": 1.0, "repetition": 0.1, "answer_tokens": 30.0, "ended": 0.9}


# --- the stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runaway", "flag"),
    [
        ({"reference_kl": 60.0}, "--target-kl"),
        ({"repetition": 0.6}, "repetition lowers"),
        ({"answer_tokens": 200.0}, "--truncation-penalty"),
        ({"ended": 0.0}, "--truncation-penalty"),
    ],
)
def test_each_limit_that_stops_a_run_has_its_remedy(runaway, flag):
    """The sentences are those of the trainers' own watch."""
    guard = RunawayGuard()
    assert guard.observe(HEALTHY, LIMITS) == ""
    sentences = [guard.observe(HEALTHY | runaway, LIMITS) for _ in range(PATIENCE)]
    reason = sentences[-1]
    assert sentences[:-1] == [""] * (PATIENCE - 1)
    finding = by_name(report_of(summary={"stopped": reason, "best_checkpoint": 20}))["PolicyRunaway"]
    assert finding.raised
    assert finding.severity == "serious"
    assert reason in finding.what
    assert flag in finding.action
    assert sum(remedy in finding.action for remedy in REMEDIES.values()) == 1
    assert "update 20" in finding.meaning


def test_where_no_checkpoint_was_made_nothing_was_kept():
    stopped = {"stopped": "the KL to the reference is 60.0 nats per answer (limit 50)", "best_checkpoint": 0}
    finding = by_name(report_of(summary=stopped))["PolicyRunaway"]
    assert "Do not use them" in finding.meaning
    assert "can be evaluated" not in finding.action
    assert "--checkpoint-every 1" in finding.action


def test_a_run_that_went_to_its_end_or_still_runs_did_not_run_away():
    for finished in (True, False):
        report = report_of()
        report["training"]["ppo"]["finished"] = finished
        finding = by_name(report)["PolicyRunaway"]
        assert not finding.raised
        assert finding.value == 40


# --- groups and the gradient ---------------------------------------------------------------------------


def test_what_a_group_without_spread_teaches_depends_on_the_baseline():
    of_siblings = by_name(report_of(constant_groups=0.9))["GroupsWithoutSpread"]
    critic = report_of(constant_groups=0.9, settings={**SETTINGS, "baseline": "critic"})
    assert "adds nothing" in of_siblings.meaning
    assert "noise alone" in by_name(critic)["GroupsWithoutSpread"].meaning


def test_a_constant_reward_is_said_once():
    assert raised(report_of(constant_groups=1.0, reward_std=0.0)) == {"RewardConstant"}


def test_only_the_end_of_the_run_counts_for_groups():
    assert raised(report_of(constant_groups=lambda done: 1.0 if done < 0.5 else 0.2)) == set()
    late = report_of(constant_groups=lambda done: 1.0 if done > 0.5 else 0.2)
    assert raised(late) == {"GroupsWithoutSpread"}


def test_the_signal_of_few_updates_says_nothing():
    assert "GradientMostlyNoise" not in by_name(report_of(count=9, gradient_signal=0.0))
    assert raised(report_of(count=10, gradient_signal=0.0)) == {"GradientMostlyNoise"}


def test_a_signal_that_chance_may_have_hidden_is_not_called_low():
    around = report_of(gradient_signal=lambda done: 0.05 + 0.5 * (-1) ** round(40 * done))
    assert by_name(around)["GradientMostlyNoise"].value == pytest.approx(0.05)
    assert raised(around) == set()
    assert raised(report_of(gradient_signal=noisy(lambda done: -0.2, spread=0.2))) == {"GradientMostlyNoise"}
    below = by_name(report_of(gradient_signal=-0.2))["GradientMostlyNoise"]
    assert "has 0 times as much signal as noise" in below.what
    assert below.severity == "note"


def test_noise_is_no_fall_of_the_reward():
    assert raised(report_of(reward=noisy(lambda done: 0.3 - 0.02 * done, spread=0.15))) == set()


# --- parts of curves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 4, 5, 9, 10, 14, 19, 20, 41, 103])
def test_quarters_hold_every_value_once_and_are_alike(count):
    parts = quarters(range(count))
    assert [value for part in parts for value in part] == (list(range(count)) if count >= 5 else [])
    assert len(parts) == min(4, count // 5)
    lengths = [len(part) for part in parts]
    assert not parts or (min(lengths) >= 5 and max(lengths) - min(lengths) <= 1)


def test_a_change_has_the_standard_error_of_a_difference_of_means():
    before, after = [1.0, 3.0, 2.0, 5.0, 4.0], [6.0, 8.0, 4.0, 9.0, 3.0, 6.0]
    rise, error = change(before, after)
    assert rise == pytest.approx(3.0)
    assert error == pytest.approx(math.sqrt(variance(before) / 5 + variance(after) / 6), rel=1e-12)


def test_stretches_are_means_of_neighbours():
    assert stretches([1.0, 2.0, 3.0, 4.0, 5.0, 9.0]) == pytest.approx([3.0, 4.6])
    assert stretches([1.0] * 4) == []
    assert len(stretches([0.0] * 100)) == 91
