"""Pitfalls of labelling, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

QUEUE = "annotate/domain/test_queue.py::test_"
EXPORT = "annotate/domain/test_export.py::test_"
AGREEMENT = "annotate/domain/test_agreement.py::test_"
QUALITY = "annotate/domain/test_annotator_quality.py::test_"
SECURITY = "annotate/web/test_security.py::test_"
MARKDOWN = "annotate/web/test_markdown.py::test_"

SERVE = "cli/annotate/test_serve.py::test_"

MUTANTS = (
    # --- the course of a server ------------------------------------------------------------------------
    Mutant(
        name="Ctrl-C in the moment after the links were shown is a fault",
        symbol="logratio.cli.annotate.serve:listen",
        old="    with log_to(log_path(arguments.store)), ending_on_signals(server) as received:\n",
        new="    show_links(links, owner=owner_token, arguments=arguments)\n"
        "    with log_to(log_path(arguments.store)), ending_on_signals(server) as received:\n",
        checks=(SERVE + "a_keyboard_interrupt_as_soon_as_the_links_are_shown_ends_in_order",),
    ),
    # --- who judges which pair -------------------------------------------------------------------------
    Mutant(
        name="a place that is kept for one person is given to another",
        symbol="logratio.annotate.domain.queue:Queue._is_free",
        old="and state.count(pair_id) + leased.get(pair_id, 0) < self.settings.votes_per_pair",
        new="and state.count(pair_id) < self.settings.votes_per_pair",
        checks=(QUEUE + "two_annotators_do_not_meet",),
    ),
    Mutant(
        name="the same person fills all places of a pair",
        symbol="logratio.annotate.domain.queue:Queue._is_free",
        old=('and pair_id not in state.record(annotator).by_kind["first"]\n'),
        new="",
        checks=(QUEUE + "every_pair_gets_its_votes_from_different_people",),
    ),
    Mutant(
        name="a skip fills a place",
        symbol="logratio.annotate.domain.votes",
        old='COUNTED: tuple[Verdict, ...] = ("a", "b", "tie", "bad")',
        new='COUNTED: tuple[Verdict, ...] = ("a", "b", "tie", "bad", "skip")',
        checks=(QUEUE + "a_skipped_pair_goes_to_somebody_else",),
    ),
    Mutant(
        name="a lease never ends",
        symbol="logratio.annotate.domain.leases:Lease.lives",
        old="return now < self.lease_until <= now + 2 * lease_seconds",
        new="return True",
        checks=(QUEUE + "a_lease_that_ended_is_free_for_another",),
    ),
    Mutant(
        name="a clock that goes back strands a pair",
        symbol="logratio.annotate.domain.leases:Lease.lives",
        old="return now < self.lease_until <= now + 2 * lease_seconds",
        new="return now < self.lease_until",
        checks=(QUEUE + "a_clock_that_goes_back_strands_no_pair",),
    ),
    Mutant(
        name="a repeat has the sides of the first time",
        symbol="logratio.annotate.domain.queue:Queue._draw",
        old='swapped = not record.by_kind["first"][pair_id].swapped',
        new='swapped = record.by_kind["first"][pair_id].swapped',
        checks=(QUEUE + "repeats_have_their_sides_swapped_and_fill_no_place",),
    ),
    Mutant(
        name="a verdict that is sent again counts twice",
        symbol="logratio.annotate.domain.queue:Queue.vote",
        old="            if receipt is not None:\n                return receipt\n",
        new="",
        checks=(QUEUE + "a_verdict_that_is_sent_again_counts_once",),
    ),
    Mutant(
        name="what a margin chose is used in statistics",
        symbol="logratio.annotate.domain.pair_order:in_random_slice",
        old='    if settings.order != "margin":\n        return True\n    return chance',
        new='    if settings.order == "margin":\n        return True\n    return chance',
        checks=(QUEUE + "a_random_slice_is_spread_between_the_others_and_marked",),
    ),
    # --- from verdicts to labels -----------------------------------------------------------------------
    Mutant(
        name="ties are no verdicts, so that one vote against one tie decides",
        symbol="logratio.annotate.domain.vote_aggregation:_no_label",
        old="    num_judged = sum(counts[name] for name in JUDGED)\n    if pair",
        new='    num_judged = counts["a"] + counts["b"]\n    if pair',
        checks=(EXPORT + "a_label_is_what_more_than_half_say",),
    ),
    Mutant(
        name="half of the verdicts are enough",
        symbol="logratio.annotate.domain.vote_aggregation:_no_majority",
        old="if 2 * counts[name] > num_judged",
        new="if 2 * counts[name] >= num_judged",
        checks=(EXPORT + "a_label_is_what_more_than_half_say",),
    ),
    Mutant(
        name="a flagged pair is exported",
        symbol="logratio.annotate.domain.vote_aggregation:_no_label",
        old='    if counts["flag"]:\n        return "flag"\n',
        new="",
        checks=(EXPORT + "a_label_is_what_more_than_half_say",),
    ),
    Mutant(
        name="the left side's share is that of content A",
        symbol="logratio.annotate.domain.votes:Vote.left_won",
        old='return (self.verdict == "b") == self.swapped',
        new='return self.verdict == "a"',
        checks=(
            "annotate/storage/test_store.py::test_left_won",
            QUALITY + "left_is_counted_by_side_and_longer_by_content",
        ),
    ),
    # --- agreement -------------------------------------------------------------------------------------
    Mutant(
        name="disagreement is the error of one verdict",
        symbol="logratio.annotate.domain.smoothing:verdict_error",
        old="return (1 - (1 - 2 * disagreement) ** 0.5) / 2",
        new="return disagreement",
        checks=(AGREEMENT + "the_error_of_a_verdict_by_hand",),
    ),
    # --- safety ----------------------------------------------------------------------------------------
    Mutant(
        name="any Host will do, which DNS rebinding needs",
        symbol="logratio.annotate.web.security:check_host",
        old="    if host not in hosts:\n",
        new="    if False:\n",
        checks=(SECURITY + "a_foreign_host_is_refused_on_every_route",),
    ),
    Mutant(
        name="pages of another origin may vote",
        symbol="logratio.annotate.web.security:check_site",
        old='if origin is not None and origin != f"http://{host}".encode():',
        new="if False:",
        checks=(SECURITY + "a_foreign_origin_is_refused",),
    ),
    # --- what an answer shows --------------------------------------------------------------------------
    Mutant(
        name="HTML in an answer is read as HTML",
        symbol="logratio.annotate.web.markdown:_parser",
        old='"html": False',
        new='"html": True',
        checks=(MARKDOWN + "hostile_text_is_one_piece_of_text",),
    ),
    Mutant(
        name="a link of any scheme is a link",
        symbol="logratio.annotate.web.markdown:_parser",
        old='    inline.at("link", _link)\n',
        new='    inline.at("link", _link)\n    parser.validateLink = lambda address: True\n',
        checks=(MARKDOWN + "a_link_of_an_unsafe_scheme_stays_as_written",),
    ),
    Mutant(
        name="a link hides where it leads",
        symbol="logratio.annotate.web.markdown:_link",
        old='        if address != f"({shown})":\n',
        new="        if not address:\n",
        checks=(MARKDOWN + "a_link_is_its_text_and_its_address", MARKDOWN + "nothing_of_an_answer_is_lost"),
    ),
    Mutant(
        name="the text of quotes inside many others is dropped",
        symbol="logratio.annotate.web.markdown:_limited.limited",
        old="return state.level < MAX_LEVEL and rule",
        new="return rule",
        checks=(
            MARKDOWN + "ten_thousand_inside_one_another_take_a_moment_and_lose_nothing",
            MARKDOWN + "what_lies_deeper_than_quotes_and_lists_may_is_text",
        ),
    ),
    Mutant(
        name="emphasis lies in emphasis without end",
        symbol="logratio.annotate.web.markdown:_tree",
        old="_container(token) if len(open_children) < MAX_DEPTH else None",
        new="_container(token)",
        checks=(MARKDOWN + "marks_that_lie_too_deep_are_text",),
    ),
    Mutant(
        name="cells behind a table's last column are dropped",
        symbol="logratio.annotate.web.markdown:_append_rest",
        old="*cells[len(row) :]",
        new="",
        checks=(MARKDOWN + "cells_behind_the_last_column_are_part_of_it",),
    ),
    Mutant(
        name="what a reference defines is dropped",
        symbol="logratio.annotate.web.markdown",
        old='("reference", "autolink", "entity")',
        new='("autolink", "entity")',
        checks=(MARKDOWN + "reference_definitions_are_text", MARKDOWN + "nothing_of_an_answer_is_lost"),
    ),
    Mutant(
        name="a long answer ends where reading ends",
        symbol="logratio.annotate.web.markdown:parse",
        old="    rest = source[end:]\n",
        new='    rest = ""\n',
        checks=(MARKDOWN + "nothing_is_lost_where_reading_ends",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
