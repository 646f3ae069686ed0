"""Where labels go in a chart, so that they cover neither each other nor what is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

TEXT_HEIGHT = 12.0
TEXT_WIDTH = 7.0
"""Of a character, with room to spare: the page's font is the reader's own."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; downwards is positive."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def holds(self, other: Box) -> bool:
        """Whether `other` is inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True, slots=True)
class LabelPosition:
    """Where a label stands."""

    x: float
    """Its left end, middle or right end."""
    y: float
    """Its base line."""
    anchor: str
    """Which of them x is: `start`, `middle` or `end`."""
    box: Box
    """What it covers."""


def around(x: float, y: float, radius: float) -> Box:
    """The square about a dot."""
    return Box(x - radius, y - radius, x + radius, y + radius)


def along(points: Sequence[tuple[float, float]], *, step: float = 4.0) -> list[Box]:
    """Small squares along a line through places, as what a label should not cover."""
    boxes = []
    for (x1, y1), (x2, y2) in pairwise(points):
        count = max(1, round(max(abs(x2 - x1), abs(y2 - y1)) / step))
        boxes += [
            around(x1 + (x2 - x1) * part / count, y1 + (y2 - y1) * part / count, 1.5)
            for part in range(count + 1)
        ]
    return boxes


def candidates(text: str, x: float, y: float, *, gap: float) -> list[LabelPosition]:
    """Places for a label around a point, the usual ones first: right and left above, below, beside, over."""
    width = TEXT_WIDTH * len(text)
    offsets = [
        (gap, -gap, "start"),
        (-gap, -gap, "end"),
        (gap, gap + TEXT_HEIGHT * 0.7, "start"),
        (-gap, gap + TEXT_HEIGHT * 0.7, "end"),
        (gap * 1.4, TEXT_HEIGHT * 0.35, "start"),
        (-gap * 1.4, TEXT_HEIGHT * 0.35, "end"),
        (0.0, -gap * 1.3, "middle"),
        (0.0, gap * 1.3 + TEXT_HEIGHT * 0.7, "middle"),
        (gap * 2.5, -gap * 2.5, "start"),
        (-gap * 2.5, -gap * 2.5, "end"),
    ]
    positions = []
    for dx, dy, anchor in offsets:
        left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        base = y + dy
        box = Box(left, base - TEXT_HEIGHT * 0.8, left + width, base + TEXT_HEIGHT * 0.25)
        positions.append(LabelPosition(x + dx, base, anchor, box))
    return positions


def find_label_position(
    text: str, x: float, y: float, *, gap: float, frame: Box, solid: Iterable[Box], faint: Iterable[Box]
) -> tuple[LabelPosition, bool]:
    """The place around a point where a label covers least.

    Args:
        text: the label.
        x: of the point.
        y: of the point.
        gap: from the point to the label.
        frame: what it must stay within.
        solid: other labels and dots: covering them makes it unreadable.
        faint: lines, which may be covered where there is no better place.

    Returns:
        The place, and whether it is clear of everything solid and inside the frame.
    """
    solid, faint = list(solid), list(faint)

    def cost(position: LabelPosition) -> tuple[float, float]:
        hidden = sum(position.box.overlap(box) for box in solid)
        outside = 0.0 if frame.holds(position.box) else 1e6
        return hidden + outside, sum(position.box.overlap(box) for box in faint)

    best = min(candidates(text, x, y, gap=gap), key=cost)
    return best, cost(best)[0] == 0
