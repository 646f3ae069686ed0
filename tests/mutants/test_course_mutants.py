"""Pitfalls of the checks of a policy-gradient run, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

COURSE = "logratio.report.warnings.metric_series"
DISTANCE = "logratio.report.warnings.distance"
LEARNING = "logratio.report.warnings.learning"
PROXY = "logratio.report.warnings.overoptimisation"
CURVES = "logratio.report.sections.learning_curves"
PAGE_TESTS = "report/warnings/test_policy_gradient.py::test_"
DISTANCE_TESTS = "report/warnings/test_distance.py::test_"
LEARNING_TESTS = "report/warnings/test_learning.py::test_"
PROXY_TESTS = "report/warnings/test_overoptimisation.py::test_"
CURVE_TESTS = "report/sections/test_learning_curves.py::test_"
MUTANTS = (
    Mutant(
        name="a reward that falls from its peak with the monitored one is called exploited",
        symbol=f"{PROXY}:MonitoredReward.severity",
        old=" and fmean(self.reward[-1]) >= fmean(self.reward[self.best])",
        new="",
        checks=(PROXY_TESTS + "both_fall_together_and_nothing_is_exploited",),
    ),
    Mutant(
        name="a monitored reward that falls under a reward that does not rise is called exploitation",
        symbol=f"{PROXY}:MonitoredReward.severity",
        old="if not rises(self.reward[0], self.reward[-1]):",
        new="if False:",
        checks=(PROXY_TESTS + "a_reward_that_does_not_rise_is_not_exploited",),
    ),
    Mutant(
        name="the monitored reward's peak is looked for at the end as well",
        symbol=f"{PROXY}:MonitoredReward.best",
        old="range(len(self.parts) - 1)",
        new="range(len(self.parts))",
        checks=(PROXY_TESTS + "a_rise_is_measured_from_before",),
    ),
    Mutant(
        name="of several monitored rewards the best is named",
        symbol=f"{PROXY}:reward_overoptimised",
        old="worst = min(every",
        new="worst = max(every",
        checks=(PROXY_TESTS + "of_several_watched_rewards_the_worst_is_named",),
    ),
    Mutant(
        name="what comes late is compared with what went before without its noise",
        symbol=f"{PROXY}:MonitoredReward._left_behind",
        old="return lack < -ERRORS * sum(",
        new="return lack < 0.0 * sum(",
        checks=(PROXY_TESTS + "chance_seldom_looks_like_more_than_it_is",),
    ),
    Mutant(
        name="quarters leave out values at the beginning",
        symbol=f"{COURSE}:quarters",
        old="edges = [round(part * len(values) / count) for part in range(count + 1)]",
        new="edges = [len(values) - (count - part) * (len(values) // count) for part in range(count + 1)]",
        checks=(LEARNING_TESTS + "quarters_hold_every_value_once_and_are_alike",),
    ),
    Mutant(
        name="a standard error is taken for its square",
        symbol=f"{COURSE}:change",
        old="(squared_error(before) + squared_error(after)) ** 0.5",
        new="(squared_error(before) + squared_error(after))",
        checks=(LEARNING_TESTS + "a_change_has_the_standard_error_of_a_difference_of_means",),
    ),
    Mutant(
        name="log-ratios are taken to scatter no more than near the reference",
        symbol=f"{DISTANCE}:_scatter",
        old="return max(1.0, NORMAL_MEDIAN * median(abs(score - middle) for score in scores))",
        new="return 1.0",
        checks=(DISTANCE_TESTS + "two_estimates_that_differ_by_chance_are_not_blamed",),
    ),
    Mutant(
        name="the two KLs are compared in stretches alone",
        symbol=f"{DISTANCE}:kl_estimates_disagree",
        old="[[*stretches(values), fmean(values)] for values",
        new="[[*stretches(values), 0.0] for values",
        checks=(DISTANCE_TESTS + "samples_at_another_temperature_are_found_out",),
    ),
    Mutant(
        name="a KL is compared with more answers than there were",
        symbol=f"{DISTANCE}:_answers_an_update",
        old="return min(prompts, there_are) *",
        new="return prompts *",
        checks=(DISTANCE_TESTS + "fewer_prompts_than_a_batch_are_fewer_answers",),
    ),
    Mutant(
        name="a coefficient that falls is not looked at",
        symbol=f"{DISTANCE}:kl_coefficient_drifted",
        old="raised=not 1.0 / DRIFT <= ratio <= DRIFT",
        new="raised=not ratio <= DRIFT",
        checks=(DISTANCE_TESTS + "a_coefficient_that_drifts_says_in_which_direction",),
    ),
    Mutant(
        name="a signal below the line by chance is called low",
        symbol=f"{LEARNING}:gradient_noisy",
        old="raised=signal + ERRORS * squared_error(signals) ** 0.5 < SIGNAL_LOW",
        new="raised=signal < SIGNAL_LOW",
        checks=(LEARNING_TESTS + "a_signal_that_chance_may_have_hidden_is_not_called_low",),
    ),
    Mutant(
        name="weights that ran away are said to be the best",
        symbol=f"{LEARNING}:policy_ran_away",
        old="""            if kept
            else "No checkpoint""",
        new="""            if kept is not None
            else "No checkpoint""",
        checks=(LEARNING_TESTS + "where_no_checkpoint_was_made_nothing_was_kept",),
    ),
    Mutant(
        name="rewards in other units are pressed onto one axis",
        symbol=f"{CURVES}:share_an_axis",
        old="/ whole >= SHARE_OF_AXIS",
        new="/ whole >= 0.0",
        checks=(
            CURVE_TESTS + "a_watched_reward_in_other_units_stands_right_beside_it",
            CURVE_TESTS + "an_axis_is_shared_where_neither_curve_is_pressed_flat",
        ),
    ),
    Mutant(
        name="a run that stopped by itself counts the updates that it had planned",
        symbol="logratio.report.collect:read_training",
        old='return training | summary | {"updates": len(rows)}',
        new="return training | summary",
        checks=(PAGE_TESTS + "a_run_that_stopped_by_itself_says_so_at_the_top",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
