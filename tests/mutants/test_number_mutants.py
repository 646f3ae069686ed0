"""Numbers on the screen that are not what they say, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

WARNING = "logratio.report.warnings.warning"
WARNINGS = "report/warnings/test_all_warnings.py::test_"
MUTANTS = (
    Mutant(
        name="a share that is not quite all is shown as 100 %",
        symbol="logratio.stats.wilson",
        old="ENDS = (0.0, 1.0)",
        new="ENDS = (0.0,)",
        checks=("stats/test_wilson.py::test_a_share_is_all_or_nothing_only_where_it_is",),
    ),
    Mutant(
        name="the last batch of a pass weighs as a whole one",
        symbol=f"{WARNING}:_weights",
        old="min(size, examples - (int(step) - 1) % per_pass * size)",
        new="size",
        checks=(WARNINGS + "the_last_batch_of_a_pass_weighs_as_much_as_it_holds",),
    ),
    Mutant(
        name="the loss of SFT is a mean over updates",
        symbol=f"{WARNING}:_weights",
        old="return tokens if len(tokens) == len(steps) else []",
        new="return []",
        checks=(WARNINGS + "the_loss_of_sft_is_a_mean_over_tokens",),
    ),
    Mutant(
        name="an update of ties alone counts with nothing",
        symbol=f"{WARNING}:_weighted",
        old="is_number(value) and weight > 0",
        new="is_number(value)",
        checks=(WARNINGS + "updates_of_ties_alone_say_nothing_of_the_others",),
    ),
    Mutant(
        name="a policy gradient's updates weigh the same",
        symbol=f"{WARNING}:_weights",
        old="    examples = measured(report",
        new="    if stage != 'dpo':\n        return []\n    examples = measured(report",
        checks=(
            "report/warnings/test_policy_gradient.py::test_an_update_weighs_as_many_prompts_as_it_has",
            "report/warnings/test_policy_gradient.py::test_the_table_weighs_an_update_by_its_prompts",
        ),
    ),
    Mutant(
        name="the time of a stage is that of its last attempt",
        symbol="logratio.recipes.quickstart.stage_cache:_time",
        old="return headline, earlier + time.monotonic() - started",
        new="return headline, time.monotonic() - started",
        checks=(
            "recipes/quickstart/test_stage_cache.py::test_the_time_of_a_stage_is_that_of_all_its_attempts",
        ),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
