"""Characters without a shape, one of every kind, and how they are written out."""

from __future__ import annotations

import pytest

from logratio.data.character_shapes import code_point, has_no_shape, written_out


@pytest.mark.parametrize(
    "character",
    ["\0", "\x1b", "\x9b", "\u200b", "\u202e", "\ud800", "\ue000", "\u0378", "\u2028", "\u2029", "\u3164"],
)
def test_characters_that_draw_nothing(character):
    assert has_no_shape(character)


@pytest.mark.parametrize("character", ["a", "ß", " ", "\u00a0", "字", "\u0301", "🙂"])
def test_characters_that_draw_something_or_are_a_space(character):
    assert not has_no_shape(character)


def test_they_are_written_as_unicode_writes_them():
    assert (code_point("\n"), code_point("\u202e"), code_point("🙂")) == ("U+000A", "U+202E", "U+1F642")
    assert written_out("\u202e") == "⟨U+202E⟩"
