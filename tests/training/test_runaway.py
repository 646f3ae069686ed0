"""The limits that end a run, and the patience before they do."""

import pytest

from logratio.errors import BadConfig
from logratio.training.runaway import PATIENCE, Watch
from logratio.training.settings import PolicyGradientConfig

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
    watch, config = Watch(), PolicyGradientConfig()
    told = [watch.look(HEALTHY, config)] + [watch.look(HEALTHY | change, config) for _ in range(PATIENCE)]
    assert told[:PATIENCE] == [""] * PATIENCE
    assert named in told[PATIENCE]


@pytest.mark.parametrize(("change", "_"), BEYOND)
def test_once_in_a_while_is_chance(change, _):
    watch, config = Watch(), PolicyGradientConfig()
    for _ in range(5):
        for metrics in (HEALTHY, HEALTHY | change, HEALTHY | change):
            assert watch.look(metrics, config) == ""


@pytest.mark.parametrize(("change", "_"), BEYOND)
def test_a_limit_of_0_is_none(change, _):
    watch = Watch()
    config = PolicyGradientConfig(max_reference_kl=0.0, max_repetition=0.0, max_length_change=0.0)
    watch.look(HEALTHY, config)
    assert not any(watch.look(HEALTHY | change, config) for _ in range(9))


def test_what_is_not_measured_is_not_watched():
    watch = Watch()
    assert not any(watch.look({"reward": 1.0}, PolicyGradientConfig()) for _ in range(9))


def test_answers_that_seldom_ended_at_first_may_go_on_so():
    watch = Watch()
    assert not any(watch.look(HEALTHY | {"ended": 0.0}, PolicyGradientConfig()) for _ in range(9))


def test_a_limit_that_would_stop_every_run_is_refused():
    with pytest.raises(BadConfig, match="max_length_change"):
        PolicyGradientConfig(max_length_change=1.0)
