"""Charts put every value where its axis says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logratio.report.charts.lines import (
    SMALL,
    Band,
    Level,
    Series,
    histogram,
    line_chart,
    linear_scale,
    moving_mean,
    nice_ticks,
    root_scale,
    thin_out,
    tick_label,
)

values = st.floats(-1e6, 1e6)


@given(st.lists(values, min_size=1, max_size=20))
def test_a_scale_holds_every_value_inside(numbers):
    scale = linear_scale(numbers, 10, 110)
    assert all(10 - 1e-6 <= scale(number) <= 110 + 1e-6 for number in numbers)
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks[1:-1])


def test_ticks_are_round():
    assert nice_ticks(0, 10) == (0, 2, 4, 6, 8, 10)
    assert nice_ticks(-0.31, 0.72) == pytest.approx((-0.2, 0, 0.2, 0.4, 0.6))
    assert [tick_label(t, (0, 0.05, 0.1)) for t in (0, 0.05, 0.1)] == ["0.00", "0.05", "0.10"]
    assert tick_label(-1e-17, (-0.5, -1e-17, 0.5)) == "0.0"
    assert tick_label(2e-6, (0, 2e-6, 4e-6)) == "2e−6"
    assert tick_label(-0.5, (-0.5, 0.0)) == "−0.5"


def test_a_moving_mean_is_the_mean_of_the_neighbours_that_are_there():
    assert moving_mean([1, 2, 6, 3], 3) == [1.5, 3, 11 / 3, 4.5]
    assert moving_mean([5.0], 9) == [5]


@given(st.integers(1, 3000))
def test_thinning_keeps_the_mean_and_the_limit(count):
    xs, ys = thin_out(range(count), [2.0] * count, 400)
    assert len(xs) == len(ys) == min(count, 400)
    assert set(ys) == {2.0}
    assert xs == sorted(xs)


def places(svg: str, style: str) -> list[tuple[float, float]]:
    points = re.search(rf'<polyline points="([^"]*)" class="{style}"', svg)[1]
    return [tuple(map(float, pair.split(","))) for pair in points.split()]


def test_a_line_rises_where_its_values_rise_and_meets_its_level():
    svg = line_chart(
        [Series(label="loss", xs=[1, 2, 3], ys=[1.0, 0.5, 0.7])],
        name="n",
        levels=[Level(value=0.5, label="<")],
    )
    (x1, y1), (x2, y2), (x3, y3) = places(svg, "line a")
    assert x1 < x2 < x3
    assert y1 < y3 < y2  # downwards in SVG
    level = re.search(r'y1="([\d.]+)" y2="[\d.]+" class="level"', svg)[1]
    assert float(level) == y2
    assert "&lt;</text>" in svg


@pytest.mark.parametrize("ys", [[0.5], [0.5, 0.5], [0.0, 0.0], [-1e-9, 1e-9], [1e6, -1e6]])
def test_flat_tiny_and_huge_curves_are_drawn(ys):
    svg = line_chart([Series(label="a", xs=range(len(ys)), ys=ys)], name="n", smooth=3)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert "nan" not in svg
    assert "inf" not in svg


def test_long_curves_stay_small():
    count = 50_000
    svg = line_chart(
        [Series(label="a", xs=range(count), ys=[x % 7 for x in range(count)])], name="n", smooth=99
    )
    assert len(svg) < 40_000


def test_a_root_scale_stretches_what_lies_near_0():
    scale = root_scale([0.01, 9.0], 50, 650)
    assert scale(0) == 50
    assert scale(scale.high) == 650
    assert scale.high >= 9
    assert (scale(4) - 50) / (scale(1) - 50) == pytest.approx(2)
    assert [scale.name(tick) for tick in scale.ticks] == ["0", "0.05", "0.2", "0.5", "1", "2", "5"]


@given(st.lists(st.floats(1e-4, 500), min_size=1, max_size=5), st.floats(20, 80))
def test_ticks_of_a_root_scale_are_apart_and_inside(numbers, apart):
    scale = root_scale(numbers, 50, 650, apart=apart)
    places = [scale(tick) for tick in scale.ticks]
    assert places[0] == 50
    assert len(places) > 2
    assert all(later - earlier >= apart - 1e-6 for earlier, later in pairwise(places))
    assert places[-1] <= 650


def test_a_histogram_counts_every_value_and_no_bin_straddles_the_split():
    numbers = [-0.9, -0.2, -0.01, 0.0, 0.02, 0.4, 0.4, 1.3]
    svg = histogram(numbers, name="n", x_label="x", num_bins=10, split=0.0)
    bins = list(ElementTree.fromstring(svg).iter("rect"))
    counts = [int(bar.find("title").text.rsplit(": ", 1)[1]) for bar in bins]
    below = [count for bar, count in zip(bins, counts, strict=True) if "below" in bar.get("class")]
    assert sum(counts) == len(numbers)
    assert sum(below) == 3


def test_a_histogram_of_equal_values_is_one_bar():
    assert histogram([0.0] * 20, name="n", x_label="x", split=0.0).count("<rect") == 1


def test_a_band_reaches_from_its_lower_line_to_its_upper_one_and_is_part_of_the_scale():
    band = Band(xs=[0, 10], lows=[-5.0, 1.0], highs=[2.0, 50.0])
    svg = line_chart([Series(label="mean", xs=[0, 10], ys=[1.0, 2.0])], name="n", bands=[band])
    (x1, low1), (x2, low2), (x3, high2), (x4, high1) = places(svg, "band a")
    assert (x1, x2) == (x4, x3)
    (_, first), (_, last) = places(svg, "line a")
    assert low1 > first > high1
    assert low2 > last > high2
    assert svg.index("band a") < svg.index("line a")
    assert 0 <= high2 < low1 <= SMALL.base


def test_a_thin_line_is_drawn_as_it_is_and_says_nothing():
    thin = Series(label="run", xs=[0, 1, 2], ys=[1.0, 9.0, 1.0], thin=True)
    svg = line_chart([thin], name="n", smooth=3)
    assert svg.count("<polyline") == 1
    assert len(places(svg, "line a raw")) == 3
    assert "<title>" not in svg


def test_long_numbers_on_the_axis_do_not_run_into_each_other():
    """A character is about 7 wide; a million steps, and as many as fit a small chart."""
    for last in (1000, 20_000, 99_999, 100_000, 500_000, 999_999):
        scale = linear_scale([256, last], 46, SMALL.right, padding=0.0, count=3)
        labels = [(scale(tick), scale.name(tick)) for tick in scale.ticks]
        for (at, name), (then, following) in pairwise(labels):
            assert then - at > 3.5 * (len(name) + len(following))
    svg = line_chart([Series(label="a", xs=[256, 100_000], ys=[0.0, 1.0])], name="n")
    assert "50,000</text>" in svg
    assert "20,000</text>" not in svg
