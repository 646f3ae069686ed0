"""Points, a dotted line and a bound stand where their numbers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from logratio.report.charts.scatter import WIDE, Plane, Point, scatter_chart


def draw(plane, **settings):
    svg = scatter_chart(plane, name="n", x_label="KL", y_label="reward", **settings)
    return ElementTree.fromstring(svg)


def groups(root, style):
    return [group for group in root.iter("g") if style in group.get("class", "").split()]


def line(root, style):
    found = next(one for one in root.iter("polyline") if style in one.get("class").split())
    return [tuple(map(float, pair.split(","))) for pair in found.get("points").split()]


def dot(group):
    circle = group.find("circle")
    return float(circle.get("cx")), float(circle.get("cy"))


def texts(root, style):
    return {text.text: text for text in root.iter("text") if style in text.get("class").split()}


STAGES = (
    Point(label="<reference>", x=0.0, y=0.26, y_interval=[0.2, 0.32], style="reference"),
    Point(label="policy", x=4.4, y=0.45, x_interval=[4.1, 4.7], y_interval=[0.39, 0.5]),
)
STEPS = tuple(
    Point(label=str(n), x=x, y=y, y_interval=[y - 0.03, y + 0.03], style="best", note=f"best of {n}")
    for n, x, y in ((2, 0.19, 0.3), (4, 0.64, 0.36), (16, 1.84, 0.44))
)
BOUND = tuple(
    Point(label="", x=x, y=y, y_interval=[y - 0.05, y + 0.04], style="bound", note=f"at {x}")
    for x, y in ((0.01, 0.3), (0.3, 0.5), (1.0, 0.62))
)


def test_a_point_has_its_error_bars_around_it():
    root = draw(Plane(points=STAGES))
    points = groups(root, "point")
    assert len(points) == 2
    for group in points:
        circle = group.find("circle")
        for bar in group.findall("line"):
            for axis, place in (("x", "cx"), ("y", "cy")):
                low, high = sorted(float(bar.get(f"{axis}{end}")) for end in (1, 2))
                assert low - 0.1 <= float(circle.get(place)) <= high + 0.1
    assert len(points[1].findall("line")) == 2
    assert points[0].find("circle").find("title").text == "<reference>: KL 0, reward 0.26"
    assert set(texts(root, "point-label")) == {"<reference>", "policy"}


def test_a_trail_joins_its_points_in_order():
    root = draw(Plane(points=STAGES, trails=[STAGES]))
    assert line(root, "trail") == [dot(group) for group in groups(root, "point")]


@pytest.mark.parametrize("root_axis", [False, True])
def test_steps_and_bound_stand_on_the_same_axes_as_the_points(root_axis):
    """Two points of different kinds with the same numbers lie on each other."""
    twin = Point(label="twin", x=STEPS[1].x, y=STEPS[1].y)
    edge = Point(label="edge", x=BOUND[1].x, y=BOUND[1].y)
    plane = Plane(points=(*STAGES, twin, edge), steps=STEPS, bound=BOUND, root=root_axis)
    root = draw(plane, frame=WIDE)
    points, steps = groups(root, "point"), groups(root, "step")
    assert dot(points[2]) == dot(steps[1]) == line(root, "trace")[1]
    assert dot(points[3]) == line(root, "edge")[1]


def test_the_band_is_between_the_ends_of_the_intervals_and_the_ring_at_the_last_point():
    root = draw(Plane(points=STAGES, bound=BOUND, root=True), frame=WIDE)
    band, edge = line(root, "band"), line(root, "edge")
    lows, highs = band[:3], band[:2:-1]
    for (x, y), low, high in zip(edge, lows, highs, strict=True):
        assert low[0] == high[0] == x
        assert high[1] < y < low[1]  # downwards in SVG
    ring = next(one for one in root.iter("circle") if one.get("class") == "ring")
    assert (float(ring.get("cx")), float(ring.get("cy"))) == edge[-1]
    assert edge[-1][0] < dot(groups(root, "point")[1])[0]
    assert [one.find("title").text for one in root.iter("circle") if one.get("class") == "hover"] == [
        "at 0.01",
        "at 0.3",
        "at 1.0",
    ]


def test_everything_is_inside_the_frame():
    root = draw(Plane(points=STAGES, steps=STEPS, bound=BOUND, trails=[STAGES], root=True), frame=WIDE)
    numbers = [place for one in root.iter("polyline") for place in re.split("[ ,]", one.get("points"))]
    xs, ys = map(float, numbers[::2]), map(float, numbers[1::2])
    assert all(0 <= x <= WIDE.width for x in xs)
    assert all(0 <= y <= WIDE.base for y in ys)


def test_a_small_label_without_a_free_place_is_left_out_and_a_stage_s_is_not():
    crowd = [Point(label=f"stage {n}", x=1 + n % 4 / 10, y=0.36 + n // 4 / 80) for n in range(12)]
    step = Point(label="8", x=1.15, y=0.37, style="best", note="best of 8")
    root = draw(Plane(points=[*STAGES, *crowd], steps=[step]))
    assert len(texts(root, "point-label")) == 14
    assert texts(root, "step-label") == {}
    assert len(groups(root, "step")) == 1


def test_points_at_0_alone_are_drawn():
    root = draw(Plane(points=[STAGES[0]], root=True))
    assert len(groups(root, "point")) == 1
