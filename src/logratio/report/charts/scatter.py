"""Points in a plane: with error bars, on a dotted line, under an upper bound; each with its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from logratio.report.charts.label_placement import Box, LabelPosition, along, around, find_label_position
from logratio.report.charts.lines import (
    LABEL_HEIGHT,
    LARGE,
    LEFT,
    TOP,
    Frame,
    Scale,
    draw_axes,
    draw_chart,
    draw_text,
    linear_scale,
    root_scale,
)
from logratio.report.formatting import number
from logratio.report.html import Html, element

WIDE = Frame(720, 396)
RADIUS, SMALL_RADIUS = 5.0, 3.0
Line = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point with error bars."""

    label: str
    """Its name."""
    x: float
    """Horizontal position."""
    y: float
    """Vertical position."""
    x_interval: Sequence[float] | None = None
    """Low and high of x."""
    y_interval: Sequence[float] | None = None
    """Low and high of y."""
    style: str = "a"
    """The style sheet's class of its colour."""
    note: str = ""
    """What it says on hover; empty for its name and numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """What a scatter chart draws."""

    points: Sequence[Point]
    """The points that matter."""
    trails: Sequence[Sequence[Point]] = ()
    """Points that a thin line joins, in their order."""
    steps: Sequence[Point] = ()
    """Small points on a dotted line; a label that finds no free place is left out."""
    bound: Sequence[Point] = ()
    """A line with its interval as a band; its points show themselves on hover."""
    root: bool = False
    """Whether x is stretched near 0."""

    @property
    def everything(self) -> list[Point]:
        """All points."""
        return [*self.points, *self.steps, *self.bound]


@dataclass(slots=True)
class Canvas:
    """Scales of a chart, and what is drawn on it so far that labels keep clear of."""

    x: Scale
    y: Scale
    frame: Box
    solid: list[Box] = field(default_factory=list)
    """Dots and labels."""
    faint: list[Box] = field(default_factory=list)
    """Lines."""

    def at(self, point: Point) -> tuple[float, float]:
        """Where a point lies."""
        return self.x(point.x), self.y(point.y)

    def line(self, points: Sequence[Point]) -> Line:
        """Where points lie; labels keep clear of the line through them."""
        line = [self.at(point) for point in points]
        self.faint += along(line)
        return line

    def place(self, point: Point, *, gap: float, must: bool) -> LabelPosition | None:
        """A place for a point's label, which is then taken; none where it has to be clear and cannot be."""
        position, clear = find_label_position(
            point.label, *self.at(point), gap=gap, frame=self.frame, solid=self.solid, faint=self.faint
        )
        if not clear and not must:
            return None
        self.solid.append(position.box)
        return position


def scatter_chart(plane: Plane, *, name: str, x_label: str, y_label: str, frame: Frame = LARGE) -> Html:
    """Points with error bars over lines, each with its name where it covers nothing.

    Args:
        plane: what is drawn.
        name: what the chart shows, for readers that do not see it.
        x_label: the horizontal axis.
        y_label: the vertical axis.
        frame: its size.
    """
    canvas = _canvas(plane, frame)
    canvas.solid += [around(*canvas.at(point), RADIUS) for point in plane.points]
    canvas.solid += [around(*canvas.at(point), SMALL_RADIUS) for point in plane.steps]
    body = [draw_axes(canvas.x, canvas.y, frame, x_label=x_label, y_label=y_label)]
    body += [_bound(plane.bound, canvas)] if plane.bound else []
    body += [_path(canvas.line(trail), "trail") for trail in plane.trails]
    if plane.steps:
        body.append(_path(canvas.line(plane.steps), f"trace {plane.steps[0].style}"))
    drawn = [_dot(point, canvas, x_label, y_label, RADIUS) for point in plane.points]
    small = [_dot(point, canvas, x_label, y_label, SMALL_RADIUS) for point in plane.steps]
    labels = [_label(point, canvas, gap=8.0, style="point-label") for point in plane.points]
    # From the last, which is compared with the others: it gets its name before its neighbours do.
    labels += [_label(step, canvas, gap=6.0, style="step-label") for step in reversed(plane.steps)]
    return draw_chart([*body, *small, *drawn, *filter(None, labels)], name, frame)


def _canvas(plane: Plane, frame: Frame) -> Canvas:
    xs = [value for point in plane.everything for value in (point.x, *(point.x_interval or ()))]
    ys = [value for point in plane.everything for value in (point.y, *(point.y_interval or ()))]
    if plane.root and max(xs) > 0:
        x = root_scale([max(value, 0.0) for value in xs], LEFT + 14, frame.right)
    else:
        x = linear_scale(xs, LEFT, frame.right, padding=0.1)
    y = linear_scale(ys, frame.base, TOP + LABEL_HEIGHT, padding=0.1)
    return Canvas(x, y, Box(LEFT + 2, TOP, frame.width, frame.base - 2))


def _bound(points: Sequence[Point], canvas: Canvas) -> Html:
    """The band of the intervals, the line on it, and a ring where it ends."""
    ends = [
        [(canvas.x(point.x), canvas.y((point.y_interval or (point.y, point.y))[side])) for point in points]
        for side in (0, 1)
    ]
    line = canvas.line(points)
    canvas.faint += along(ends[0]) + along(ends[1])
    hover = [
        element("circle", element("title", point.note), cx=f"{x:.1f}", cy=f"{y:.1f}", r=5, class_="hover")
        for point, (x, y) in zip(points, line, strict=True)
    ]
    x, y = line[-1]
    ring = element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_="ring")
    band = _path([*ends[0], *reversed(ends[1])], "band")
    return element("g", band, _path(line, "edge"), ring, *hover, class_=points[0].style)


def _path(line: Line, style: str) -> Html:
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in line), class_=style)


def _dot(point: Point, canvas: Canvas, x_label: str, y_label: str, radius: float) -> Html:
    across, up = canvas.at(point)
    bars: list[Line] = []
    if point.x_interval:
        bars.append([(canvas.x(max(end, canvas.x.low)), up) for end in point.x_interval])
    if point.y_interval:
        bars.append([(across, canvas.y(end)) for end in point.y_interval])
    for bar in bars:
        canvas.faint += along(bar)
    lines = [
        element("line", x1=f"{x1:.1f}", x2=f"{x2:.1f}", y1=f"{y1:.1f}", y2=f"{y2:.1f}", class_="error")
        for (x1, y1), (x2, y2) in bars
    ]
    note = point.note or f"{point.label}: {x_label} {number(point.x)}, {y_label} {number(point.y)}"
    centre = {"cx": f"{across:.1f}", "cy": f"{up:.1f}", "r": f"{radius:g}"}
    dot = element("circle", element("title", note), **centre, class_="dot")
    return element("g", *lines, dot, class_=f"{'point' if radius == RADIUS else 'step'} {point.style}")


def _label(point: Point, canvas: Canvas, *, gap: float, style: str) -> Html | None:
    position = canvas.place(point, gap=gap, must=style == "point-label") if point.label else None
    if position is None:
        return None
    anchor = {"start": "", "middle": " middle", "end": " end"}[position.anchor]
    return draw_text(position.x, position.y, point.label, f"{style}{anchor} {point.style}")
