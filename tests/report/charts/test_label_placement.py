"""Labels of a chart cover neither each other nor dots, nor leave the chart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logratio.report.charts.label_placement import Box, along, around, find_label_position

FRAME = Box(0, 0, 600, 300)
PLACES = st.tuples(st.floats(20, 580), st.floats(20, 280))


def place(text, x, y, *, solid=(), faint=()):
    return find_label_position(text, x, y, gap=8, frame=FRAME, solid=solid, faint=faint)


def test_boxes_overlap_by_their_common_area():
    assert Box(0, 0, 4, 4).overlap(Box(1, 2, 9, 9)) == 6
    assert Box(0, 0, 4, 4).overlap(Box(4, 0, 9, 9)) == 0
    assert Box(0, 0, 4, 4).overlap(Box(5, 5, 9, 9)) == 0
    assert FRAME.holds(Box(0, 0, 600, 300))
    assert not FRAME.holds(Box(-1, 0, 10, 10))


def test_the_usual_place_is_right_above():
    found, clear = place("DPO", 300, 150)
    assert clear
    assert (found.x, found.y, found.anchor) == (308, 142, "start")
    assert found.box.left == 308
    assert found.box.bottom < 150


@given(PLACES)
def test_a_label_stays_inside_and_off_its_own_dot(at):
    found, clear = place("Reference", *at, solid=[around(*at, 5)])
    assert clear
    assert FRAME.holds(found.box)
    assert found.box.overlap(around(*at, 5)) == 0


@given(st.lists(PLACES, min_size=2, max_size=4, unique=True))
def test_labels_that_are_clear_cover_neither_dots_nor_each_other(dots):
    solid, labels = [around(*at, 5) for at in dots], []
    for at in dots:
        found, clear = place("After SFT", *at, solid=[*solid, *labels])
        if clear:
            assert all(found.box.overlap(box) == 0 for box in [*solid, *labels])
            labels.append(found.box)
    assert labels


def test_a_line_is_covered_only_where_there_is_no_better_place():
    usual, _ = place("DPO", 300, 150)
    other, clear = place("DPO", 300, 150, faint=along([(300, 150), (340, 140)]))
    assert clear
    assert other.box != usual.box
    _, clear = place("DPO", 300, 150, faint=[FRAME])
    assert clear


def test_no_free_place_is_said():
    _, clear = place("DPO", 300, 150, solid=[FRAME])
    assert not clear


def test_a_line_is_lined_with_boxes_from_end_to_end():
    boxes = along([(0, 0), (40, 0), (40, 20)])
    for x, y in ((0, 0), (20, 0), (40, 0), (40, 10), (40, 20)):
        assert any(box.overlap(Box(x - 1, y - 1, x + 1, y + 1)) for box in boxes)
    assert not any(box.overlap(Box(18, 8, 22, 12)) for box in boxes)


@pytest.mark.parametrize(("x", "anchor"), [(5, "start"), (595, "end")])
def test_at_an_edge_the_label_turns_inwards(x, anchor):
    assert place("best of 16", x, 150)[0].anchor == anchor
