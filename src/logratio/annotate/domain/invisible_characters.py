"""The raw view of a text: what shows nothing on a screen is named, so that nobody judges by half a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

from logratio.data.character_shapes import code_point, has_no_shape, written_out

CONTROLS: Final = (
    "NULL,START OF HEADING,START OF TEXT,END OF TEXT,END OF TRANSMISSION,ENQUIRY,ACKNOWLEDGE,BELL,BACKSPACE,"
    "TAB,LINE FEED,LINE TABULATION,FORM FEED,CARRIAGE RETURN,SHIFT OUT,SHIFT IN,DATA LINK ESCAPE,"
    "DEVICE CONTROL ONE,DEVICE CONTROL TWO,DEVICE CONTROL THREE,DEVICE CONTROL FOUR,NEGATIVE ACKNOWLEDGE,"
    "SYNCHRONOUS IDLE,END OF TRANSMISSION BLOCK,CANCEL,END OF MEDIUM,SUBSTITUTE,ESCAPE,FILE SEPARATOR,"
    "GROUP SEPARATOR,RECORD SEPARATOR,UNIT SEPARATOR"
)
"""The names of U+0000 to U+001F, which Unicode's table leaves out."""
CONTROL_NAMES: Final = tuple(CONTROLS.split(","))
EXPECTED: Final = frozenset("\r\u200d\ufe0e\ufe0f\u00a0\u202f\u3000")
"""What honest text holds: line ends, joiners and selectors of emoji, spaces that do not break, wide ones."""
MAX_MARKS: Final = 2000
"""Marks given one by one; what follows is written out within the text, so that a page stays bounded."""
MAX_NAMED: Final = 8
"""Characters of one mark that are named one by one."""

ESCAPES: Final = "\x1b\x9b"
TERMINAL_ESCAPE: Final = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,32}[ -/]{0,8}[@-~]")
ORDINARY: Final = re.compile(r"[\n\t -~]+")
SURROGATE: Final = re.compile("[\ud800-\udfff]")


def is_invisible(character: str) -> bool:
    """Whether a character draws nothing: control, direction, zero width, unusual space, unassigned."""
    if character in "\n\t" or " " <= character <= "~":
        return False
    return (
        has_no_shape(character)
        or unicodedata.category(character) == "Zs"
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
    )


def name_of(character: str) -> str:
    """The character's name in Unicode, or what it is where Unicode gives none."""
    point = ord(character)
    if point < len(CONTROL_NAMES):
        return CONTROL_NAMES[point]
    if point == 0x7F:
        return "DELETE"
    kinds = {"Cs": "HALF A SURROGATE PAIR", "Co": "PRIVATE USE", "Cc": "CONTROL"}
    kind = kinds.get(unicodedata.category(character), "NOT ASSIGNED")
    return unicodedata.name(character, f"{kind} {code_point(character)}")


def raw(text: str) -> list[dict[str, Any]]:
    """The text as it is, with marks where characters do not show.

    Args:
        text: a prompt or an answer, from anywhere.

    Returns:
        Runs `{"kind": "text", "text"}` and marks `{"kind": "mark", "code", "name", "expected"}` in order;
        `name` is to be shown, `code` is as `U+202E`, `expected` is true where honest text holds such
        characters. Neighbouring unseen characters are one mark. No string holds half a surrogate pair.
    """
    runs: list[dict[str, Any]] = []
    num_marks = 0
    for start, end, unseen in _spans(text):
        if unseen and num_marks == MAX_MARKS:
            runs.append({"kind": "text", "text": _written_out(text[start:])})
            break
        num_marks += unseen
        runs.append(_mark(text[start:end]) if unseen else {"kind": "text", "text": text[start:end]})
    return runs


def without_surrogates(text: str) -> str:
    """The text with every half of a surrogate pair replaced, fit to be encoded."""
    return SURROGATE.sub("\ufffd", text)


def _spans(text: str) -> Iterator[tuple[int, int, bool]]:
    """Start, end and whether unseen, of the runs a text is made of; they cover it."""
    start = position = 0
    unseen = False
    while position < len(text):
        end, now, alone = _piece(text, position)
        if (alone or now != unseen) and start < position:
            yield start, position, unseen
            start = position
        if alone:
            yield position, end, True
            start = end
        position, unseen = end, now
    if start < position:
        yield start, position, unseen


def _piece(text: str, position: int) -> tuple[int, bool, bool]:
    """Where the piece at a place ends, whether it is unseen, and whether it is a mark of its own."""
    if text[position] in ESCAPES and (escape := TERMINAL_ESCAPE.match(text, position)):
        return escape.end(), True, True
    if ordinary := ORDINARY.match(text, position):
        return ordinary.end(), False, False
    return position + 1, is_invisible(text[position]), False


def _mark(piece: str) -> dict[str, Any]:
    if TERMINAL_ESCAPE.fullmatch(piece):
        codes = piece[2:] if piece[0] == "\x1b" else piece[1:]
        shown = f"TERMINAL ESCAPE {codes.lstrip('[')}"
        return {"kind": "mark", "code": code_point(piece[0]), "name": shown, "expected": False}
    if len(set(piece)) == 1:
        name = name_of(piece[0]) + (f" × {len(piece):,}" if len(piece) > 1 else "")
        code = code_point(piece[0])
    else:
        more = f" and {len(piece) - MAX_NAMED:,} more" if len(piece) > MAX_NAMED else ""
        name = ", ".join(name_of(character) for character in piece[:MAX_NAMED]) + more
        code = " ".join(code_point(character) for character in piece[:MAX_NAMED]) + more
    return {
        "kind": "mark",
        "code": code,
        "name": name,
        "expected": all(character in EXPECTED for character in piece),
    }


def _written_out(text: str) -> str:
    return "".join(written_out(character) if is_invisible(character) else character for character in text)
