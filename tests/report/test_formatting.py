"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from logratio.report.formatting import fixed, interval, is_number, number, percent, percent_interval, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.693147, "0.693"),
        (-0.5, "−0.5"),
        (12.3456, "12.3"),
        (123.456, "123"),
        (999.9, "1,000"),
        (1234, "1,234"),
        (1234567, "1,234,567"),
        (1e-5, "1e−5"),
        (2.346e-7, "2.35e−7"),
        (0.001, "0.001"),
        (0, "0"),
        (0.0, "0"),
        (2.5e9, "2.5e9"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_number(value, shown):
    assert number(value) == shown


def test_fixed_has_no_minus_zero():
    assert fixed(-0.001, 2) == "0.00"
    assert fixed(-1.239, 2) == "−1.24"
    assert fixed(1234.5, 1) == "1,234.5"


def test_shares_and_intervals():
    assert percent(0.6406) == "64.1\u00a0%"
    assert percent(None) == "–"
    assert percent_interval(0.5, 0.711) == "50.0 to 71.1\u00a0%"
    assert interval([0.1, 0.25]) == "0.10 to 0.25"
    assert interval(None) == interval([]) == interval([0.1, None]) == ""


def test_size():
    assert size(2_410_000_000) == "2.41\u00a0GB"
    assert size(1500) == "1.5\u00a0kB"
    assert size(10) == "10 bytes"
    assert size(None) == "–"


def test_what_is_a_number():
    assert [is_number(x) for x in (1, 1.5, True, None, "1", float("nan"))] == [True, True, False] + [
        False
    ] * 3
