"""Distributions over one another: bins that hold all values, and shares that are right."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logratio.report.charts.distributions import Bins, SampleValues, distribution_chart, round_bins


def sample(*values, label="one"):
    return SampleValues(label=label, values=values, style="policy")


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=50))
def test_every_value_is_in_a_bin(values):
    bins = round_bins([sample(*values)])
    assert bins.edge(0) <= min(values) + 1e-6 * bins.width
    assert max(values) <= bins.edge(bins.count) + 1e-6 * bins.width
    assert sum(bins.shares(values)) == pytest.approx(1.0)


def test_edges_are_round_and_the_last_bin_holds_its_upper_edge():
    """Where an episode cannot earn more than 500, those that do are not a bin of their own beyond 500."""
    bins = round_bins([sample(*range(101, 500, 4), 500.0)])
    assert (bins.edge(0), bins.width, bins.edge(bins.count)) == (100.0, 50.0, 500.0)
    assert bins.shares([100.0, 149.9, 150.0, 500.0]) == [0.5, 0.25, 0, 0, 0, 0, 0, 0.25]


def test_a_value_on_an_edge_is_in_the_bin_that_begins_there():
    bins = Bins(0.0, 0.1, 10)
    # 0.3 / 0.1 is a little less than 3 in floating point.
    assert bins.shares([0.3]).index(1.0) == 3


def test_equal_values_are_one_bin():
    assert round_bins([sample(7.0, 7.0)]) == Bins(6.5, 1.0, 1)


def test_samples_share_their_bins_and_each_is_drawn_by_its_own_share():
    few, many = sample(1.0, 9.0, label="few"), sample(*[2.0] * 90, *[9.0] * 10, label="many")
    svg = distribution_chart([few, many], name="n", x_label="x")
    root = ElementTree.fromstring(svg)
    told = [title.text for title in root.iter("title")]
    assert [one.replace("\u00a0", " ") for one in told] == [
        "few, 1 to 2: 50.0 %",
        "few, 8 to 9: 50.0 %",
        "many, 2 to 3: 90.0 %",
        "many, 8 to 9: 10.0 %",
    ]
    heights = [float(one.get("height")) for one in root.iter("rect")]
    assert heights[2] / heights[0] == pytest.approx(90 / 50, rel=1e-2)
    assert heights[2] / heights[3] == pytest.approx(9, rel=2e-2)
