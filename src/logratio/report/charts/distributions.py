"""How numbers are distributed, several samples over one another on the same bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from logratio.report.charts.lines import (
    LARGE,
    LEFT,
    TOP,
    Scale,
    draw_axes,
    draw_chart,
    linear_scale,
    nice_ticks,
)
from logratio.report.formatting import number, percent
from logratio.report.html import Html, element

FEWEST_BINS, MOST_BINS = 8, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleValues:
    """Numbers of one kind."""

    label: str
    """What they are, on hover."""
    values: Sequence[float]
    """The numbers; there must be one."""
    style: str
    """The style sheet's class of their colour."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Equal bins with round edges; the last one holds its upper edge as well."""

    first: float
    """Where the first begins."""
    width: float
    """Of each."""
    count: int
    """How many there are."""

    def edge(self, index: int) -> float:
        """Where bin `index` begins, and the one before it ends."""
        return self.first + index * self.width

    def shares(self, values: Sequence[float]) -> list[float]:
        """The share of the values that falls into each bin."""
        counts = [0] * self.count
        for value in values:
            index = math.floor((value - self.first) / self.width + 1e-9)
            counts[min(max(index, 0), self.count - 1)] += 1
        return [count / len(values) for count in counts]


def round_bins(samples: Sequence[SampleValues]) -> Bins:
    """Bins that hold all values: about as many as the square root of the number of them in a sample."""
    values = [value for sample in samples for value in sample.values]
    low, high = min(values), max(values)
    if low == high:
        return Bins(low - 0.5, 1.0, 1)
    most = max(len(sample.values) for sample in samples)
    ticks = nice_ticks(low, high, count=min(MOST_BINS, max(FEWEST_BINS, round(math.sqrt(most)))))
    width = ticks[1] - ticks[0]
    first = math.floor(low / width + 1e-9) * width
    return Bins(first, width, max(1, math.ceil((high - first) / width - 1e-9)))


def distribution_chart(samples: Sequence[SampleValues], *, name: str, x_label: str) -> Html:
    """The share of each sample that falls into each bin, as steps over one another.

    Args:
        samples: what is drawn, the last on top.
        name: what the chart shows, for readers that do not see it.
        x_label: the horizontal axis.
    """
    bins = round_bins(samples)
    shares = [bins.shares(sample.values) for sample in samples]
    x = linear_scale([bins.edge(0), bins.edge(bins.count)], LEFT, LARGE.right, padding=0.02)
    y = linear_scale([0.0, 100 * max(map(max, shares))], LARGE.base, TOP + 8, padding=0.0)
    body = [draw_axes(x, y, LARGE, x_label=x_label, y_label="% of the episodes")]
    body += [_steps(heights, bins, x, y, sample) for sample, heights in zip(samples, shares, strict=True)]
    return draw_chart(body, name, LARGE)


def _steps(shares: Sequence[float], bins: Bins, x: Scale, y: Scale, sample: SampleValues) -> Html:
    """A stair over the bins, filled down to the axis, with the numbers of each bin on hover."""
    stair = [(bins.edge(0), 0.0)]
    for index, share in enumerate(shares):
        stair += [(bins.edge(index), 100 * share), (bins.edge(index + 1), 100 * share)]
    stair.append((bins.edge(bins.count), 0.0))
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in stair)
    hover = [
        element(
            "rect",
            element(
                "title",
                f"{sample.label}, {number(bins.edge(index))} to {number(bins.edge(index + 1))}: "
                f"{percent(share)}",
            ),
            x=f"{x(bins.edge(index)):.1f}",
            y=f"{y(100 * share):.1f}",
            width=f"{x(bins.edge(index + 1)) - x(bins.edge(index)):.1f}",
            height=f"{y(0.0) - y(100 * share):.1f}",
            class_="hover",
        )
        for index, share in enumerate(shares)
        if share
    ]
    area = element("polyline", points=points, class_="band")
    return element("g", area, element("polyline", points=points, class_="edge"), *hover, class_=sample.style)
