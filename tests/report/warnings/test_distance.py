"""The KL to the reference: how far, at what price, and whether its two measurements agree."""

from __future__ import annotations

import math
import random

import pytest

from logratio.report.warnings.distance import kl_estimates_disagree
from report.policy_gradient_runs import ANSWERS, SETTINGS, by_name, raised, report_of


def drawn(kl, *, seed, factor=1.0, variance=2.0):
    """The KL by the tokens drawn where the exact one is `kl(done)`, times a factor."""
    draw = random.Random(seed)
    return lambda done: factor * kl(done) + draw.gauss(0, math.sqrt(variance * kl(done) / ANSWERS))


def test_the_variance_of_a_token_s_log_ratio_is_twice_its_kl():
    """What the check takes for chance, summed out over a vocabulary."""
    draw = random.Random(0)
    p = [draw.random() + 0.1 for _ in range(50)]
    q = [value * math.exp(draw.gauss(0, 0.1)) for value in p]
    p, q = ([value / sum(column) for value in column] for column in (p, q))
    ratios = [math.log(a / b) for a, b in zip(p, q, strict=True)]
    kl = sum(a * ratio for a, ratio in zip(p, ratios, strict=True))
    variance = sum(a * (ratio - kl) ** 2 for a, ratio in zip(p, ratios, strict=True))
    assert variance == pytest.approx(2 * kl, rel=0.1)


def test_without_a_target_the_kl_is_held_against_what_evaluation_warns_at():
    settings = {**SETTINGS, "target_kl": None}
    for kl, expected in ((29.0, set()), (31.0, {"ReferenceKLTooHigh"})):
        report = report_of(settings=settings, reference_kl=kl, reference_log_ratio=kl)
        assert raised(report) == expected


@pytest.mark.parametrize(("last", "word"), [(0.6, "above its target"), (0.004, "below its target")])
def test_a_coefficient_that_drifts_says_in_which_direction(last, word):
    report = report_of(kl_coefficient=lambda done: 0.05 if done < 0.5 else last)
    assert raised(report) == {"KLCoefficientDrifted"}
    finding = by_name(report)["KLCoefficientDrifted"]
    assert word in finding.meaning
    assert f"--kl-coefficient {last}" in finding.action
    assert finding.value == pytest.approx(last / 0.05)


def test_a_coefficient_that_nothing_steers_or_that_is_0_is_not_judged():
    for report in (report_of(settings={**SETTINGS, "target_kl": None}), report_of(kl_coefficient=0.0)):
        assert "KLCoefficientDrifted" not in by_name(report)


def test_two_estimates_that_differ_by_chance_are_not_blamed():
    """A hundred runs to 6 nats, to a twentieth of a nat, and to where log-ratios are wild."""
    for size, variance in ((6.0, 2.0), (0.05, 2.0), (6.0, 8.0)):
        alarms = 0
        for seed in range(100):
            estimate = drawn(lambda done, size=size: size * done, seed=seed, variance=variance)
            report = report_of(reference_kl=lambda done, size=size: size * done, reference_log_ratio=estimate)
            alarms += kl_estimates_disagree(report, "ppo").raised
        assert alarms <= 2


def test_samples_at_another_temperature_are_found_out():
    """Sampled at 0.7 and scored at 1, an enumerated model reads 0.218 for a KL of 0.162."""
    found = 0
    for seed in range(20):
        estimate = drawn(lambda done: 0.162, seed=seed, factor=0.218 / 0.162)
        report = report_of(count=80, reference_kl=0.162, reference_log_ratio=estimate)
        found += kl_estimates_disagree(report, "ppo").raised
    assert found >= 19


def test_a_stretch_is_enough():
    def passing(done):
        return 6.0 * done - 3.0 * (0.4 < done <= 0.6)

    report = report_of(reference_log_ratio=passing)
    finding = by_name(report)["KLEstimatesDisagree"]
    assert raised(report) == {"KLEstimatesDisagree"}
    assert finding.severity == "warning"
    assert finding.value == pytest.approx(-3.0)


def test_an_estimate_below_0_is_serious():
    report = report_of(reference_log_ratio=lambda done: -0.5)
    finding = by_name(report)["KLEstimatesDisagree"]
    assert raised(report) == {"KLEstimatesDisagree"}
    assert finding.severity == "serious"


def test_a_small_share_of_a_large_kl_is_not_much_however_many_answers():
    settings = {**SETTINGS, "batch_size": 10_000}
    small = report_of(settings=settings, reference_kl=6.0, reference_log_ratio=6.5)
    large = report_of(settings=settings, reference_kl=6.0, reference_log_ratio=6.7)
    assert raised(small) == set()
    assert raised(large) == {"KLEstimatesDisagree"}


def test_a_policy_that_is_its_reference_agrees_with_itself():
    report = report_of(reference_kl=0.0, reference_log_ratio=1e-7)
    assert not by_name(report)["KLEstimatesDisagree"].raised


def test_fewer_prompts_than_a_batch_are_fewer_answers():
    def judged(examples):
        settings = {**SETTINGS, "batch_size": 400}
        report = report_of(settings=settings, reference_kl=2.0, reference_log_ratio=2.3)
        report["training"]["ppo"]["examples"] = examples
        return raised(report)

    assert judged(4000) == {"KLEstimatesDisagree"}
    assert judged(3) == set()


def test_without_both_estimates_or_the_number_of_answers_nothing_is_said():
    for report in (report_of(without=("reference_log_ratio",)), report_of(settings={}), report_of(count=4)):
        assert "KLEstimatesDisagree" not in by_name(report)
