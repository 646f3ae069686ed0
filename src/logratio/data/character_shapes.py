"""Which characters draw nothing, and how they are written out."""

from __future__ import annotations

import unicodedata

BLANK_CHARACTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters, marks and symbols by their category, which nevertheless draw nothing."""
INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def has_no_shape(character: str) -> bool:
    """Whether a character draws nothing of its own: control, direction, zero width, surrogate, unassigned."""
    return character in BLANK_CHARACTERS or unicodedata.category(character) in INVISIBLE_CATEGORIES


def code_point(character: str) -> str:
    """`U+202E`."""
    return f"U+{ord(character):04X}"


def written_out(character: str) -> str:
    """`⟨U+202E⟩`."""
    return f"⟨{code_point(character)}⟩"
