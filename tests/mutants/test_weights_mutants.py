"""Pitfalls of importance weights, V-trace, tails and strengths, each built in on purpose."""

import pytest

from mutants.harness import Mutant, survivors, unsound

VTRACE, PARETO = "logratio.objectives.vtrace", "logratio.stats.pareto"
STRENGTHS, IMPORTANCE = "logratio.stats.strengths", "logratio.objectives.importance"
GRAPHS = "logratio.stats.graphs"
BRADLEY_TERRY = "logratio.objectives.bradley_terry"
CLOSED_FORM = "test_two_items_with_ties_have_a_closed_form"
WRITTEN_OUT = "test_ties_reach_the_maximum_of_the_likelihood_written_out"
PAPER = "test_it_is_the_papers_estimate"
TWO_ROUNDS = "test_two_rounds_and_a_node_of_its_own"
CLASSES = "test_groups_are_the_classes_of_nodes_that_reach_each_other"
SHORTER = "test_a_shorter_ranking_is_the_same_beside_a_longer_one"


def of(module: str, test: str) -> str:
    return f"{module.split('.')[1]}/test_{module.rpartition('.')[2]}.py::{test}"


# What is wrong | symbol | text | what stands there instead | tests that must fail
PITFALLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "V-trace: a target moves with its critic, whose loss then has no gradient",
        f"{VTRACE}:vtrace",
        "        targets = values + errors\n    return",
        "    targets = values + errors\n    return",
        ("test_no_gradient_flows",),
    ),
    (
        "V-trace: differences are not bounded",
        f"{VTRACE}:vtrace",
        "ratio.clamp(max=rho_ceiling), traces",
        "ratio, traces",
        ("test_hand_worked", "test_published_numbers", "test_targets_are_their_definition"),
    ),
    (
        "V-trace: traces are not bounded",
        f"{VTRACE}:vtrace",
        "traces * ratio.clamp(max=c_ceiling)",
        "traces * ratio",
        ("test_hand_worked", "test_targets_are_their_definition"),
    ),
    (
        "V-trace: the traces have the ceiling of the differences",
        f"{VTRACE}:vtrace",
        "ratio.clamp(max=c_ceiling)",
        "ratio.clamp(max=rho_ceiling)",
        ("test_targets_are_their_definition[1.2-0.7]",),
    ),
    (
        "V-trace: the policies are exchanged",
        f"{VTRACE}:vtrace",
        "ratio = log_ratio.exp()",
        "ratio = (-log_ratio).exp()",
        ("test_hand_worked", "test_published_numbers"),
    ),
    (
        "V-trace: λ is only an on and off",
        f"{VTRACE}:vtrace",
        "traces * ratio.clamp",
        "(traces > 0) * ratio.clamp",
        ("test_on_policy_without_ceilings_it_is_gae[0.5]", "test_targets_are_their_definition"),
    ),
    (
        "V-trace: advantages look one step ahead only",
        f"{VTRACE}:vtrace",
        "following = next_values + weighted(traces, later)",
        "following = next_values",
        ("test_hand_worked", "test_on_policy_without_ceilings_it_is_gae[1.0]"),
    ),
    (
        "V-trace: advantages take the target of their own row",
        f"{VTRACE}:vtrace",
        "torch.cat([errors[:, 1:], torch.zeros_like(errors[:, :1])], dim=1)",
        "errors",
        ("test_hand_worked", "test_on_policy_without_ceilings_it_is_gae[1.0]"),
    ),
    (
        "V-trace: advantages are not weighted",
        f"{VTRACE}:vtrace",
        "advantages = rho * (",
        "advantages = (",
        ("test_hand_worked", "test_published_numbers"),
    ),
    (
        "V-trace: what is behind an ending leaks in",
        f"{VTRACE}:vtrace",
        "weighted(traces, later)",
        "traces * later",
        ("test_what_an_ending_cuts_off_may_hold_anything",),
    ),
    (
        "V-trace: the value behind an ending leaks in",
        f"{VTRACE}:vtrace",
        "weighted(discounts, next_values)",
        "discounts * next_values",
        ("test_what_an_ending_cuts_off_may_hold_anything",),
    ),
    (
        "k̂: a fifth of any number of weights is taken for the tail",
        f"{PARETO}:pareto_k",
        "min(count / 5, 3 * math.sqrt(count))",
        "count / 5",
        (f"{PAPER}[0.2-1000]",),
    ),
    (
        "k̂: the threshold is a part of the tail",
        f"{PARETO}:pareto_k",
        "weights[-tail - 1]",
        "weights[-tail]",
        (PAPER,),
    ),
    (
        "k̂: small tails are not drawn to ½",
        f"{PARETO}:_shape",
        "return (count * shape + 5) / (count + 10)",
        "return shape",
        (PAPER,),
    ),
    (
        "k̂: the shape has the sign of Zhang and Stephens",
        f"{PARETO}:_shape",
        "return (count * shape + 5)",
        "return (5 - count * shape)",
        (PAPER, "test_known_shapes_are_found"),
    ),
    (
        "k̂: the quartile is the median",
        f"{PARETO}:_shape",
        "int(count / 4 + 0.5) - 1",
        "int(count / 2 + 0.5) - 1",
        (PAPER,),
    ),
    (
        "k̂: answers sampled twice count as excess of next to nothing",
        f"{PARETO}:pareto_k",
        "excess = excess[excess > 0]",
        "excess = excess.clamp(min=torch.finfo(torch.float64).tiny)",
        ("test_ties_with_the_threshold_are_no_excess",),
    ),
    (
        "k̂: what is not a number reads as no tail",
        f"{PARETO}:pareto_k",
        "if bool(excess[-1] <= 10 * torch.finfo(log_weights.dtype).eps):",
        "if not bool(excess[-1] > 10 * torch.finfo(log_weights.dtype).eps):",
        ("test_what_is_no_number_is_no_comfort",),
    ),
    (
        "k̂: rounding is taken for a tail",
        f"{PARETO}:pareto_k",
        "10 * torch.finfo(log_weights.dtype).eps",
        "0",
        ("test_equal_weights_have_no_tail",),
    ),
    (
        "strengths: a tie parameter that grows without end is given as a number",
        f"{STRENGTHS}:fit_strengths",
        "    _ensure_ties_are_bounded(wins, drawn)\n    model",
        "    model",
        (
            "test_a_tie_parameter_without_a_maximum_is_refused",
            "test_all_small_tournaments_with_ties_are_judged_rightly",
        ),
    ),
    (
        "strengths: a tie links nothing",
        f"{STRENGTHS}:fit_strengths",
        "linked_groups((wins + drawn) > 0)",
        "linked_groups(wins > 0)",
        ("test_a_round_in_which_somebody_never_lost_is_refused_with_its_groups",),
    ),
    (
        "graphs: an arrow one way is enough",
        f"{GRAPHS}:strongly_connected",
        "against[target].add(node)",
        "against[node].add(target)",
        (TWO_ROUNDS, CLASSES),
    ),
    (
        "graphs: the node that is left first goes first",
        f"{GRAPHS}:strongly_connected",
        "for node in reversed(order)",
        "for node in order",
        (TWO_ROUNDS, CLASSES),
    ),
    (
        "strengths: half a tie is a whole win",
        f"{STRENGTHS}:fit_strengths",
        "merged = wins + drawn / 2",
        "merged = wins + drawn",
        (CLOSED_FORM,),
    ),
    (
        "strengths: the covariance holds one strength, not their sum",
        f"{STRENGTHS}:_fit",
        "covariance=centre @ inverse[:items, :items] @ centre",
        "covariance=inverse[:items, :items]",
        ("test_covariance", "test_two_items_hand_worked"),
    ),
    (
        "strengths: a difference's error forgets that the two go together",
        f"{STRENGTHS}:Strengths.contrast",
        " - covariance[first, second] * 2",
        "",
        ("test_covariance", "test_two_items_hand_worked"),
    ),
    (
        "strengths: the first is held at 0, not the sum",
        f"{STRENGTHS}:_fit",
        "point[:items] - point[:items].mean()",
        "point[:items] - point[0]",
        ("test_two_items_hand_worked", "test_newton_agrees_with_hunter_and_newman"),
    ),
    (
        "strengths: Newton's method stops early",
        f"{STRENGTHS}:_fit",
        "decrement <= TOLERANCE**2",
        "decrement <= 1e-6",
        ("test_two_items_hand_worked", "test_newton_agrees_with_hunter_and_newman"),
    ),
    (
        "strengths: the slope is left to rounding",
        f"{STRENGTHS}:_plain",
        "    pull = wins * missed\n    gradient = pull.sum(dim=1) - pull.sum(dim=0)\n    return",
        "    gradient = wins.sum(dim=1) - ((wins + wins.T) * (1 - missed)).sum(dim=1)\n    return",
        ("test_few_comparisons_and_very_many",),
    ),
    (
        "strengths: Davidson's tie has no square root",
        f"{STRENGTHS}:_davidson",
        "log_nu + (first + second) / 2",
        "log_nu + (first + second)",
        (f"{WRITTEN_OUT}[davidson]",),
    ),
    (
        "strengths: Davidson's ties are counted twice",
        f"{STRENGTHS}:_davidson",
        "(ties * log_tie).sum() / 2",
        "(ties * log_tie).sum()",
        (CLOSED_FORM,),
    ),
    (
        "strengths: Davidson's information is too large",
        f"{STRENGTHS}:_davidson",
        "(win + win.T) * tie / 4",
        "(win + win.T) * tie / 2",
        (f"{WRITTEN_OUT}[davidson]",),
    ),
    (
        "strengths: Rao and Kupper's θ − 1 for θ² − 1",
        f"{STRENGTHS}:_rao_kupper",
        "beyond = torch.expm1(2 * eta)",
        "beyond = torch.expm1(eta)",
        (CLOSED_FORM, f"{WRITTEN_OUT}[rao-kupper]"),
    ),
    (
        "strengths: Rao and Kupper's ties are counted twice",
        f"{STRENGTHS}:_rao_kupper",
        "drawn = ties.sum() / 2\n    beyond",
        "drawn = ties.sum()\n    beyond",
        (CLOSED_FORM, f"{WRITTEN_OUT}[rao-kupper]"),
    ),
    (
        "strengths: ties may stand in one place only",
        f"{STRENGTHS}:fit_strengths",
        "torch.equal(drawn, drawn.T)",
        "torch.equal(drawn, drawn)",
        ("test_counts_that_make_no_sense_are_refused",),
    ),
    (
        "a margin helps the chosen",
        f"{BRADLEY_TERRY}:comparison_loss",
        "F.logsigmoid(difference - margin)",
        "F.logsigmoid(difference + margin)",
        ("test_hand_worked", "test_margins_may_differ_between_pairs"),
    ),
    (
        "a comparison's logarithm overflows",
        f"{BRADLEY_TERRY}:comparison_loss",
        "-F.logsigmoid(difference - margin), -F.logsigmoid(-difference - margin)",
        "-(difference - margin).sigmoid().log(), -(-difference - margin).sigmoid().log()",
        ("test_far_apart_strengths_give_finite_losses_and_gradients",),
    ),
    (
        "a comparison's label is ignored",
        f"{BRADLEY_TERRY}:comparison_loss",
        "likelihood = preference * agree + (1 - preference) * disagree",
        "likelihood = agree",
        ("test_a_tie_is_half_a_label_each_way", "test_exchanging_the_two_exchanges_the_label"),
    ),
    (
        "centring pulls the two together",
        f"{BRADLEY_TERRY}:comparison_loss",
        "(chosen + rejected).square()",
        "(chosen - rejected).square()",
        ("test_centring_hand_worked",),
    ),
    (
        "a ranking: the next is chosen among those before it",
        f"{BRADLEY_TERRY}:plackett_luce_loss",
        "torch.logcumsumexp(present.flip(1), dim=1).flip(1)",
        "torch.logcumsumexp(present, dim=1)",
        ("test_a_ranking_hand_worked",),
    ),
    (
        "a ranking: padding is chosen from",
        f"{BRADLEY_TERRY}:plackett_luce_loss",
        "present = strengths.masked_fill(~mask, -torch.inf)",
        "present = strengths",
        (SHORTER,),
    ),
    (
        "a ranking: padding is an item of strength 0",
        f"{BRADLEY_TERRY}:plackett_luce_loss",
        "masked_fill(~mask, -torch.inf)",
        "masked_fill(~mask, 0.0)",
        (SHORTER,),
    ),
    (
        "χ² forgets to take 1 away",
        f"{IMPORTANCE}:chi_square",
        "torch.expm1(torch.logsumexp(",
        "torch.exp(torch.logsumexp(",
        ("test_chi_square_hand_worked", "test_chi_square_is_unbiased"),
    ),
    (
        "χ² of the weights, not of their squares",
        f"{IMPORTANCE}:chi_square",
        "torch.logsumexp(2 * log_weights, dim=0)",
        "torch.logsumexp(log_weights, dim=0)",
        ("test_chi_square_hand_worked", "test_chi_square_is_unbiased"),
    ),
    (
        "the self-normalised estimate is divided by the number of samples",
        f"{IMPORTANCE}:self_normalised_estimate",
        "return (weights * values).sum() / weights.sum()",
        "return (weights * values).sum() / len(weights)",
        ("test_the_self_normalised_estimate_of_two_samples",),
    ),
    (
        "per-decision weights go on behind the end",
        f"{IMPORTANCE}:log_weights",
        "torch.where(mask, log_ratio.cumsum(dim=1), zero)",
        "log_ratio.cumsum(dim=1)",
        ("test_log_weights_hand_worked",),
    ),
)
MUTANTS = tuple(
    Mutant(
        name=name,
        symbol=symbol,
        old=old,
        new=new,
        checks=tuple(of(symbol.partition(":")[0], check) for check in checks),
    )
    for name, symbol, old, new, checks in PITFALLS
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_pitfall_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


def test_the_same_tests_pass_on_an_unchanged_copy(tmp_path):
    assert unsound(MUTANTS, tmp_path) == []
