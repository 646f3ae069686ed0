"""Every invariant that a run can record has its sentence on the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logratio.report.sections.invariants import INVARIANTS, invariants_section
from logratio.training import end_tokens, invariants
from report.policy_gradient_runs import INVARIANTS as RECORDED
from report.policy_gradient_runs import report_of

SOURCE = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (invariants, end_tokens))
NAMES = set(re.findall(r'(?:invariant=|InvariantViolated\(\s*|_check_zero\()"(\w+)"', SOURCE))


def test_the_laws_are_found():
    assert len(NAMES) >= 14
    assert {"step_zero_loss", "update_kl_is_zero", "every_row_is_counted", "merged_equals_adapter"} <= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_law_has_a_sentence(name):
    assert INVARIANTS[name].endswith(".")


def test_no_sentence_is_of_a_law_that_is_not_there():
    assert set(INVARIANTS) == NAMES


def test_what_a_policy_gradient_held_is_on_the_page():
    report = report_of(summary={"invariants": RECORDED})
    page = invariants_section(report).to_html()
    for invariant in RECORDED:
        assert f"<code>{invariant['name']}</code><small>{INVARIANTS[invariant['name']]}</small>" in page
