"""Monitored rewards beside the one that is learned from: follows, stays behind, is exploited."""

from __future__ import annotations

import pytest

from logratio.report.warnings.overoptimisation import reward_overoptimised
from report.policy_gradient_runs import by_name, noisy, raised, report_of

GOLD = "monitored/judge:gold"


@pytest.mark.parametrize(
    ("shape", "severity"),
    [
        (lambda done: 0.1 + 0.3 * done, None),
        (lambda done: 0.1 + 0.3 * min(done, 0.5), "note"),
        (lambda done: 0.3, "warning"),
        (lambda done: 0.1 + 0.4 * done - 0.8 * max(0.0, done - 0.5), "serious"),
        (lambda done: 0.3 - 0.2 * done, "serious"),
    ],
)
def test_the_watched_reward_follows_stays_behind_stays_or_falls(shape, severity):
    finding = by_name(report_of(count=80, **{GOLD: noisy(shape, spread=0.005, seed=4)}))[
        "RewardOveroptimised"
    ]
    assert finding.raised == (severity is not None)
    if severity is not None:
        assert finding.severity == severity
        assert "judge:gold" in finding.what
        assert "judge:gold" in finding.meaning


def test_its_peak_is_named_where_there_is_one():
    def hump(done):
        return 0.1 if done <= 0.25 else 0.4 if done <= 0.5 else 0.2

    finding = by_name(report_of(**{GOLD: hump}))["RewardOveroptimised"]
    assert finding.severity == "serious"
    assert finding.value == pytest.approx(-0.2)
    assert "from 0.1 to 0.2, after 0.4 at best." in finding.what


def test_both_fall_together_and_nothing_is_exploited():
    """A controller that pulls the policy back takes both down from their peak."""

    def hump(done):
        return 0.1 + 0.4 * min(done, 0.5) - 0.2 * max(0.0, done - 0.5)

    both = report_of(count=80, reward=noisy(hump), **{GOLD: noisy(lambda done: 0.5 * hump(done), seed=2)})
    assert raised(both) == set()


def test_a_reward_that_does_not_rise_is_not_exploited():
    flat = report_of(reward=noisy(lambda done: 0.4), **{GOLD: noisy(lambda done: 0.3, seed=2)})
    assert "RewardOveroptimised" in by_name(flat)
    assert raised(flat) == set()


def test_of_several_watched_rewards_the_worst_is_named():
    flat, falling = noisy(lambda done: 0.3), noisy(lambda done: 0.3 - 0.2 * done)
    finding = by_name(report_of(**{"monitored/flat": flat, "monitored/falling": falling}))[
        "RewardOveroptimised"
    ]
    assert finding.severity == "serious"
    assert "falling" in finding.what
    assert "flat" not in finding.what


def test_a_run_of_two_parts_has_no_late_quarter():
    short = report_of(count=10, **{GOLD: noisy(lambda done: 0.1 + 0.3 * min(done, 0.5), spread=0.001)})
    assert raised(short) == set()


@pytest.mark.parametrize(("rise", "severities"), [(0.15, {"note"}), (0.0, {"serious"})])
def test_chance_seldom_looks_like_more_than_it_is(rise, severities):
    """Noise a third as large as the rise of a whole run: of 100 runs hardly any is judged too hard."""
    judged = [
        reward_overoptimised(
            report_of(count=60, **{GOLD: noisy(lambda done: 0.2 + rise * done, spread=0.05, seed=seed)}),
            "ppo",
        )
        for seed in range(100)
    ]
    assert sum(finding.raised and finding.severity in severities for finding in judged) <= 10
    # Where nothing rises that is said; where it does, never that it does not.
    assert sum(finding.raised for finding in judged) >= 90 * (rise == 0.0)
    assert rise == 0.0 or {finding.severity for finding in judged} <= {"note"}


def test_without_watched_rewards_or_in_a_short_run_nothing_is_said_of_them():
    assert "RewardOveroptimised" not in by_name(report_of(without=(GOLD,)))
    assert "RewardOveroptimised" not in by_name(report_of(count=9))
    assert "RewardOveroptimised" in by_name(report_of(count=10))


def test_a_rise_is_measured_from_before():
    finding = by_name(report_of(**{GOLD: lambda done: 0.1 + 0.3 * done}))["RewardOveroptimised"]
    assert finding.value == pytest.approx(0.3 / 4)
    assert "at best" not in finding.what
