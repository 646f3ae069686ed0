"""Shares as percentages, wherever they are shown."""

from __future__ import annotations

import pytest

from logratio.annotate.web import agreement_page
from logratio.evaluation import verdict
from logratio.report import formatting
from logratio.stats.wilson import percent

SHARES = [
    (0.0, "0.0"),
    (1.0, "100.0"),
    (1 - 1e-16, "100.0"),
    (0.613, "61.3"),
    (0.0004, "0.04"),
    (0.9996, "99.96"),
    (1 / 100_000, "0.001"),
    (99_999 / 100_000, "99.999"),
]
"""Shares, and what is written of them with one decimal where that does."""


@pytest.mark.parametrize(("share", "shown"), SHARES)
def test_a_share_is_all_or_nothing_only_where_it_is(share, shown):
    assert percent(share) == f"{shown}%"
    assert verdict.as_percent(share) == f"{shown} %"
    assert agreement_page.percent(share) == formatting.percent(share) == f"{shown}\u00a0%"
    assert formatting.percent_interval(share, 0.5) == f"{shown} to 50.0\u00a0%"


def test_whole_numbers_of_percent_get_a_decimal_where_they_need_one():
    assert [percent(share, 0) for share in (0.0, 0.004, 0.005, 0.613, 0.996, 1.0)] == [
        "0%", "0.4%", "0.5%", "61%", "99.6%", "100%",
    ]  # fmt: skip
