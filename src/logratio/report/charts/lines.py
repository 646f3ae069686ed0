"""Small charts as inline SVG: lines, histograms, and the axes and scales that other charts share.

Colours and line widths are the style sheet's, by class, so the same chart serves light, dark and print.
Every chart has a name for readers that do not see it, and every point says its numbers on hover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from logratio.report.formatting import MINUS, number
from logratio.report.html import Html, element

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 38
MAX_DRAWN_POINTS = 400
MAX_HOVER_POINTS = 80
LABEL_HEIGHT = 13.0


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a chart in units of its text, which is drawn 12 high."""

    width: int
    height: int

    @property
    def right(self) -> int:
        """Where the horizontal axis ends."""
        return self.width - RIGHT

    @property
    def base(self) -> int:
        """Where the horizontal axis lies."""
        return self.height - BOTTOM


SMALL, LARGE = Frame(320, 204), Frame(440, 264)
BROAD = Frame(720, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a line chart."""

    label: str
    """Its name, in the legend and on hover."""
    xs: Sequence[float]
    """Horizontal positions, rising."""
    ys: Sequence[float]
    """Values."""
    style: str = "a"
    """The style sheet's class of its colour."""
    thin: bool = False
    """Only a background to others: a thin line that says nothing on hover."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What lies between two lines, such as an interval."""

    xs: Sequence[float]
    """Horizontal positions, rising."""
    lows: Sequence[float]
    """The lower line."""
    highs: Sequence[float]
    """The upper line."""
    style: str = "a"
    """The style sheet's class of its colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A horizontal line that the values are to be seen against."""

    value: float
    """Where it lies."""
    label: str
    """What it is."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from values to positions, with the values that get a tick."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    power: float = 1.0
    """1 for a linear map; below 1 what lies near `low` is stretched."""

    def __call__(self, value: float) -> float:
        """The position of `value`."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share**self.power * (self.end - self.start)

    def name(self, tick: float) -> str:
        """A tick's value as text."""
        return tick_label(tick, self.ticks) if self.power == 1 else number(tick)


def nice_ticks(low: float, high: float, *, count: int = 5) -> tuple[float, ...]:
    """About `count` round values (1, 2 or 5 times a power of ten) inside `[low, high]`."""
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.75) * magnitude
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def linear_scale(
    values: Sequence[float], start: float, end: float, *, padding: float = 0.06, count: int = 5
) -> Scale:
    """A scale that holds all `values`, with some room at both ends."""
    low, high = min(values), max(values)
    room = (high - low) * padding
    if high == low:
        room = padding * (abs(high) or 1.0)
    if room > 0:
        low, high = low - room, high + room
    elif high == low:
        high = low + 1.0
    return Scale(low, high, start, end, nice_ticks(low, high, count=count))


def root_scale(values: Sequence[float], start: float, end: float, *, apart: float = 36.0) -> Scale:
    """A scale from 0 on which positions go with the square root, for values that crowd near 0.

    Args:
        values: what it holds, none below 0, one above.
        start: where 0 lies.
        end: where it ends.
        apart: least distance between ticks, which are 1, 2 and 5 times powers of ten.
    """
    bare = Scale(0.0, max(values) * 1.06, start, end, (), power=0.5)
    powers = range(math.floor(math.log10(bare.high)), -6, -1)
    ticks: list[float] = []
    for tick in (factor * 10.0**power for power in powers for factor in (5, 2, 1)):
        clear = not ticks or bare(ticks[-1]) - bare(tick) >= apart
        if tick <= bare.high and clear and bare(tick) - start >= apart:
            ticks.append(tick)
    return replace(bare, ticks=(0.0, *reversed(ticks)))


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """A tick's value with just the decimals that its axis needs."""
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else abs(value) or 1.0
    if step < 1e-3 or max(map(abs, ticks)) >= 1e6:
        return "0" if abs(value) < step / 2 else number(value, digits=2)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:,.{decimals}f}"
    return (text.lstrip("-") if not text.strip("-0.,") else text).replace("-", MINUS)


def line_chart(
    series: Sequence[Series],
    *,
    name: str,
    x_label: str = "update",
    levels: Sequence[Level] = (),
    bands: Sequence[Band] = (),
    smooth: int = 1,
    frame: Frame = SMALL,
) -> Html:
    """Lines over a common axis: each value thin, the mean over `smooth` neighbours thick.

    Args:
        series: the lines; their values must be finite.
        name: what the chart shows, for readers that do not see it.
        x_label: the horizontal axis.
        levels: horizontal lines, such as a loss of ln 2.
        bands: drawn beneath the lines.
        smooth: how many neighbouring values the thick line is a mean of; 1 draws the values alone.
        frame: its size.
    """
    across = [v for line in series for v in line.xs]
    # Long numbers would run into each other.
    count = 3 if max(across) >= 1000 and frame.width < BROAD.width else 5
    x = linear_scale(across, LEFT, frame.right, padding=0.0, count=count)
    values = [v for line in series for v in line.ys] + [level.value for level in levels]
    values += [v for band in bands for v in (*band.lows, *band.highs)]
    y = linear_scale(values, frame.base, TOP)
    body = [draw_axes(x, y, frame, x_label=x_label), *(_level_line(level, x, y) for level in levels)]
    body += [_band(band, x, y) for band in bands]
    body += [_line(line, x, y, smooth=smooth) for line in series]
    body += [_level_label(level, x, y) for level in levels]
    return draw_chart(body, name, frame)


def histogram(
    values: Sequence[float], *, name: str, x_label: str, num_bins: int = 24, split: float | None = None
) -> Html:
    """How many values fall into each of equal bins; bins below `split` are drawn in another colour.

    A bin never straddles `split`: the bins are laid out from it.
    """
    low, high = min(values), max(values)
    width = (high - low) / num_bins or 1.0
    origin = low if split is None else split
    counts: dict[int, int] = {}
    for value in values:
        counts[math.floor((value - origin) / width)] = counts.get(math.floor((value - origin) / width), 0) + 1
    edges = [origin + index * width for index in (min(counts), max(counts) + 1)]
    x = linear_scale(edges, LEFT, LARGE.right, padding=0.02)
    y = linear_scale([0, max(counts.values())], LARGE.base, TOP, padding=0.0)
    body = [draw_axes(x, y, LARGE, x_label=x_label)]
    for index, count in sorted(counts.items()):
        left, right = (x(origin + (index + side) * width) for side in (0, 1))
        note = f"{number(origin + index * width)} to {number(origin + (index + 1) * width)}: {count}"
        body.append(
            element(
                "rect",
                element("title", note),
                x=f"{left + 0.5:.1f}",
                y=f"{y(count):.1f}",
                width=f"{max(right - left - 1, 0.5):.1f}",
                height=f"{y(0) - y(count):.1f}",
                class_="bin below" if split is not None and index < 0 else "bin",
            )
        )
    return draw_chart(body, name, LARGE)


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and its neighbours, `width` in all; at both ends of those that are there."""
    half = width // 2
    windows = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [fmean(window) for window in windows]


def thin_out(xs: Sequence[float], ys: Sequence[float], limit: int) -> tuple[list[float], list[float]]:
    """At most `limit` points: the means of equal runs of neighbours."""
    if len(xs) <= limit:
        return list(xs), list(ys)
    edges = [round(index * len(xs) / limit) for index in range(limit + 1)]
    runs = [slice(*pair) for pair in pairwise(edges)]
    return [fmean(xs[run]) for run in runs], [fmean(ys[run]) for run in runs]


def draw_chart(body: Sequence[Html], name: str, frame: Frame) -> Html:
    """The whole picture, with what it shows for readers that do not see it."""
    box = f"0 0 {frame.width} {frame.height}"
    return element("svg", *body, viewBox=box, class_="chart", role="img", aria_label=name)


def draw_axes(x: Scale, y: Scale, frame: Frame, *, x_label: str, y_label: str | None = None) -> Html:
    """Lines at the ticks of y, values at the ticks of both, names of the axes."""
    parts = []
    for tick in y.ticks:
        height = f"{y(tick):.1f}"
        parts.append(element("line", x1=LEFT, x2=frame.right, y1=height, y2=height, class_="grid"))
        parts.append(draw_text(LEFT - 7, y(tick) + 4, y.name(tick), "tick end"))
    for tick in x.ticks:
        parts.append(draw_text(x(tick), frame.base + 16, x.name(tick), "tick middle"))
    parts.append(element("line", x1=LEFT, x2=frame.right, y1=frame.base, y2=frame.base, class_="axis"))
    parts.append(draw_text((LEFT + frame.right) / 2, frame.height - 5, x_label, "label middle"))
    if y_label:
        parts.append(draw_text(LEFT, TOP - 2, y_label, "label"))
    return element("g", *parts)


def draw_text(x: float, y: float, text: str, style: str) -> Html:
    """A line of text with its left end, or as its style says its middle or right end, at a place."""
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=style)


def _level_line(level: Level, x: Scale, y: Scale) -> Html:
    height = f"{y(level.value):.1f}"
    return element("line", x1=x.start, x2=x.end, y1=height, y2=height, class_="level")


def _level_label(level: Level, x: Scale, y: Scale) -> Html:
    """The label lies over the lines, above its level where there is room for it."""
    height = y(level.value)
    above = height - 4 if height - 4 - LABEL_HEIGHT > 0 else height + LABEL_HEIGHT
    return draw_text(x.end, above, level.label, "level-label end")


def _band(band: Band, x: Scale, y: Scale) -> Html:
    xs, lows = thin_out(band.xs, band.lows, MAX_DRAWN_POINTS)
    _, highs = thin_out(band.xs, band.highs, MAX_DRAWN_POINTS)
    edge = [*zip(xs, lows, strict=True), *reversed(list(zip(xs, highs, strict=True)))]
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in edge)
    return element("polyline", points=points, class_=f"band {band.style}")


def _line(series: Series, x: Scale, y: Scale, *, smooth: int) -> Html:
    xs, ys = thin_out(series.xs, series.ys, MAX_DRAWN_POINTS)
    if series.thin:
        return _path(xs, ys, x, y, f"line {series.style} raw")
    parts = [_path(xs, ys, x, y, f"line {series.style}" + (" raw" if smooth > 1 else ""))]
    if smooth > 1:
        means = moving_mean(series.ys, smooth)
        parts.append(_path(*thin_out(series.xs, means, MAX_DRAWN_POINTS), x, y, f"line {series.style}"))
    stride = max(1, math.ceil(len(series.xs) / MAX_HOVER_POINTS))
    for at, value in list(zip(series.xs, series.ys, strict=True))[::stride]:
        note = element("title", f"{number(at)}: {series.label} {number(value, digits=4)}")
        parts.append(element("circle", note, cx=f"{x(at):.1f}", cy=f"{y(value):.1f}", r=5, class_="hover"))
    return element("g", *parts)


def _path(xs: Sequence[float], ys: Sequence[float], x: Scale, y: Scale, style: str) -> Html:
    if len(xs) == 1:
        return element("circle", cx=f"{x(xs[0]):.1f}", cy=f"{y(ys[0]):.1f}", r=2.5, class_=f"dot {style}")
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True))
    return element("polyline", points=points, class_=style)
