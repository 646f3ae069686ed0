"""Pitfalls of best-of-n, of the upper bound and of their picture, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

BEST = "logratio.evaluation.best_of_n"
BOUND = "logratio.evaluation.upper_bound"
BEST_TESTS = "evaluation/test_best_of_n.py::test_"
BOUND_TESTS = "evaluation/test_upper_bound.py::test_"
PICTURE_TESTS = "report/sections/test_frontier.py::test_"
HAND_WORKED = BEST_TESTS + "hand_worked"
SUBSETS = BEST_TESTS + "it_is_the_mean_over_all_subsets_and_ties"
UNBIASED = BEST_TESTS + "it_is_unbiased_over_all_draws"
PICK = BEST_TESTS + "the_pick_is_the_first_of_those_liked_best_among_the_first_n"
TILTED = BOUND_TESTS + "hand_worked"
EXACT = BOUND_TESTS + "answers_as_often_as_they_are_probable_give_the_exact_edge"
MUTANTS = (
    Mutant(
        name="best-of-n's KL is taken for log n",
        symbol=f"{BEST}:best_of_n_kl_bound",
        old="return math.log(n) - (n - 1) / n",
        new="return math.log(n)",
        checks=(
            BEST_TESTS + "the_bound",
            BEST_TESTS + "where_no_answer_is_probable_the_divergence_is_the_bound",
        ),
    ),
    Mutant(
        name="the bound of best-of-n's KL is no bound",
        symbol=f"{BEST}:best_of_n_kl_bound",
        old="return math.log(n) - (n - 1) / n",
        new="return math.log(n) - 1",
        checks=(BEST_TESTS + "the_exact_divergence_is_below_the_bound",),
    ),
    Mutant(
        name="best-of-n chooses with replacement from the answers drawn",
        symbol=f"{BEST}:order_weights",
        old="tuple(math.comb(below, n - 1) / subsets for below in range(num_answers))",
        new="tuple(((below + 1) ** n - below**n) / num_answers**n for below in range(num_answers))",
        checks=(HAND_WORKED, SUBSETS, UNBIASED),
    ),
    Mutant(
        name="best-of-n counts subsets with the answer twice",
        symbol=f"{BEST}:order_weights",
        old="math.comb(below, n - 1) / subsets",
        new="math.comb(below + 1, n - 1) / subsets",
        checks=(HAND_WORKED, SUBSETS, UNBIASED),
    ),
    Mutant(
        name="of answers liked alike the last takes all",
        symbol=f"{BEST}:expected_best",
        old="        share = math.fsum(next(weights) for _ in rewards) / len(rewards)\n"
        "        total += share * math.fsum(rewards)\n",
        new="        total += math.fsum(next(weights) * reward for reward in rewards)\n",
        checks=(HAND_WORKED, SUBSETS),
    ),
    Mutant(
        name="best-of-n chooses by the reward that judges",
        symbol=f"{BEST}:expected_best",
        old="    order = sorted(range(len(proxy)), key=proxy.__getitem__)\n",
        new="    proxy = gold\n    order = sorted(range(len(proxy)), key=proxy.__getitem__)\n",
        checks=(HAND_WORKED, SUBSETS, UNBIASED),
    ),
    Mutant(
        name="the pick is among all answers, not among n",
        symbol=f"{BEST}:pick_best",
        old="max(range(n), key=rewards.__getitem__)",
        new="max(range(len(rewards)), key=rewards.__getitem__)",
        checks=(PICK,),
    ),
    Mutant(
        name="of answers liked alike the last is picked",
        symbol=f"{BEST}:pick_best",
        old="max(range(n), key=rewards.__getitem__)",
        new="max(range(n), key=lambda index: (rewards[index], index))",
        checks=(PICK,),
    ),
    Mutant(
        name="the bound's Z is a sum, not a mean",
        symbol=f"{BOUND}:tilt",
        old="float(log_weights.logsumexp(dim=0)) - math.log(len(rewards))",
        new="float(log_weights.logsumexp(dim=0))",
        checks=(TILTED, EXACT),
    ),
    Mutant(
        name="the bound's weights are exp(βr)",
        symbol=f"{BOUND}:tilt",
        old="log_weights = centred / beta",
        new="log_weights = centred * beta",
        checks=(EXACT, BOUND_TESTS + "the_curve_rises_with_falling_slope_and_ends_where_its_samples_do"),
    ),
    Mutant(
        name="the bound's reward is not weighted",
        symbol=f"{BOUND}:tilt",
        old="gain = float(self_normalised_estimate(centred, log_weights))",
        new="gain = float(centred.mean())",
        checks=(TILTED, EXACT),
    ),
    Mutant(
        name="the bound's KL forgets that the reward is over β",
        symbol=f"{BOUND}:tilt",
        old="gain / beta - log_z",
        new="gain - log_z",
        checks=(EXACT,),
    ),
    Mutant(
        name="one prompt with few effective samples hides behind the others",
        symbol=f"{BOUND}:upper_bound",
        old="len(tilts) / math.fsum(1 / tilted.effective_samples for tilted in tilts)",
        new="math.fsum(tilted.effective_samples for tilted in tilts) / len(tilts)",
        checks=(
            BOUND_TESTS + "a_prompt_with_few_effective_samples_is_not_hidden_behind_others",
            BOUND_TESTS + "effective_samples_are_those_of_chi_square",
        ),
    ),
    Mutant(
        name="the bound goes on where its samples end",
        symbol=f"{BOUND}:upper_bound",
        old="if effective < least_samples:",
        new="if effective < 1:",
        checks=(BOUND_TESTS + "the_curve_rises_with_falling_slope_and_ends_where_its_samples_do",),
    ),
    Mutant(
        name="the level of the few prompts counts, not what is gained on them",
        symbol=f"{BOUND}:upper_bound",
        old="float(own.mean()) if reference_mean is None else reference_mean",
        new="float(own.mean())",
        checks=(BOUND_TESTS + "the_gain_is_added_to_the_mean_over_all_prompts",),
    ),
    Mutant(
        name="the bound is flat between its points",
        symbol=f"{BOUND}:bound_at",
        old="getattr(point.reward, side) + point.beta * (kl - point.kl)",
        new="getattr(point.reward, side)",
        checks=(
            BOUND_TESTS + "tangents_bound_between_the_points_and_beyond_them",
            BOUND_TESTS + "no_policy_is_above_and_the_best_touch_it",
        ),
    ),
    Mutant(
        name="whoever is above the bound is looked for at a KL that is not sure",
        symbol=f"{BOUND}:above_the_bound",
        old="bound_at(points, stage.kl.high)",
        new="bound_at(points, stage.kl.value)",
        checks=(BOUND_TESTS + "the_upper_end_of_the_divergence_counts",),
    ),
    Mutant(
        name="whoever is above the bound hides in the spread of the prompts",
        symbol=f"{BOUND}:above_the_bound",
        old="if start + gains[stage.name].low > most.high:",
        new="if stage.reward.low > most.high:",
        checks=(BOUND_TESTS + "what_a_stage_gains_is_compared_prompt_by_prompt",),
    ),
    Mutant(
        name="the methods' table has the best of n at a KL that it does not have",
        symbol="logratio.evaluation.method_comparison:_describe_best",
        old='        "kl_is_bound": True,\n',
        new='        "kl_is_bound": False,\n',
        checks=(
            "evaluation/test_method_comparison.py::"
            "test_best_of_n_is_counted_from_its_picks_and_says_that_its_kl_is_a_bound",
        ),
    ),
    Mutant(
        name="the picture leads from PPO to DPO",
        symbol="logratio.report.sections.frontier:_trails",
        old="return [[*stem, end] for end in ends] or [stem]",
        new="return [[*stem, *reversed(ends)]]",
        checks=(PICTURE_TESTS + "both_methods_go_out_from_what_they_start_from",),
    ),
    Mutant(
        name="DPO and PPO are both the policy",
        symbol="logratio.report.stages:stage_label",
        old='"DPO" if name == "policy" and "ppo" in beside else LABELS.get(name, name)',
        new="LABELS.get(name, name)",
        checks=(
            PICTURE_TESTS + "the_policy_is_dpo_where_ppo_stands_beside_it",
            PICTURE_TESTS + "every_part_of_the_page_calls_it_so",
        ),
    ),
    Mutant(
        name="labels of the picture cover each other",
        symbol="logratio.report.charts.label_placement:find_label_position.cost",
        old="hidden = sum(position.box.overlap(box) for box in solid)",
        new="hidden = 0.0",
        checks=(
            "report/charts/test_label_placement.py::test_labels_that_are_clear_cover_neither_dots_nor_each_other",
        ),
    ),
    Mutant(
        name="a reward function is taken for a model that was trained where it is called",
        symbol="logratio.recipes.evaluate:count_seen",
        old="training_record(path).prompt_keys if path.is_dir() else frozenset()",
        new="training_record(path).prompt_keys",
        checks=("cli/test_evaluate.py::test_a_function_has_seen_nothing_whatever_lies_where_it_is_called",),
    ),
    Mutant(
        name="a judge that has seen the prompts is believed",
        symbol="logratio.recipes.evaluate:count_seen",
        old="return sum(row.prompt.key in seen for row in rows)",
        new="return 0",
        checks=("cli/test_evaluate.py::test_a_judge_that_has_seen_prompts_is_warned_of",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
