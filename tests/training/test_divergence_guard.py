"""The limits that end a run, and the patience before they do."""

import pytest

from logratio.errors import BadConfig
from logratio.training.config import PolicyGradientConfig
from logratio.training.divergence_guard import PATIENCE, RunawayGuard

HEALTHY = {"reference_kl": 2.0, "repetition": 0.05, "answer_tokens": 30.0, "ended": 0.9}
BEYOND = [
    ({"reference_kl": 51.0}, "KL to the reference is 51.0"),
    ({"repetition": 0.51}, "51%"),
    ({"answer_tokens": 7.0}, "7.0 tokens"),
    ({"answer_tokens": 121.0}, "121.0 tokens"),
    ({"ended": 0.04}, "4% of them end"),
]


@pytest.mark.parametrize(("change", "named"), BEYOND)
def test_a_limit_passed_three_times_in_a_row_ends_the_run(change, named):
    guard, config = RunawayGuard(), PolicyGradientConfig()
    told = [guard.observe(HEALTHY, config)] + [
        guard.observe(HEALTHY | change, config) for _ in range(PATIENCE)
    ]
    assert told[:PATIENCE] == [""] * PATIENCE
    assert named in told[PATIENCE]


@pytest.mark.parametrize(("change", "_"), BEYOND)
def test_once_in_a_while_is_chance(change, _):
    guard, config = RunawayGuard(), PolicyGradientConfig()
    for _ in range(5):
        for metrics in (HEALTHY, HEALTHY | change, HEALTHY | change):
            assert guard.observe(metrics, config) == ""


@pytest.mark.parametrize(("change", "_"), BEYOND)
def test_a_limit_of_0_is_none(change, _):
    guard = RunawayGuard()
    config = PolicyGradientConfig.of(max_reference_kl=0.0, max_repetition=0.0, max_length_change=0.0)
    guard.observe(HEALTHY, config)
    assert not any(guard.observe(HEALTHY | change, config) for _ in range(9))


def test_what_is_not_measured_is_not_watched():
    guard = RunawayGuard()
    assert not any(guard.observe({"reward": 1.0}, PolicyGradientConfig()) for _ in range(9))


def test_answers_that_seldom_ended_at_first_may_go_on_so():
    guard = RunawayGuard()
    assert not any(guard.observe(HEALTHY | {"ended": 0.0}, PolicyGradientConfig()) for _ in range(9))


def test_a_limit_that_would_stop_every_run_is_refused():
    with pytest.raises(BadConfig, match="max_length_change"):
        PolicyGradientConfig.of(max_length_change=1.0)
