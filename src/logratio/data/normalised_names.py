"""Names of people and models in one form, so that what is read as one name counts as one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import combinations

VARIATIONS = range(0xFE00, 0xFE10)
"""Variation selectors: how a character is drawn, and not which it is."""


def tidy(name: str) -> str:
    """A name in Unicode's composed form (NFC), with single spaces for all its white space."""
    return " ".join(unicodedata.normalize("NFC", name).split())


class NameForms:
    """Names as they are read, and what was done to them."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        """All of them, tidy."""
        self.num_spaced = self.num_composed = 0
        self._first_spaced = self._first_composed = ""

    def tidy(self, name: str, *, where: str) -> str:
        """The name in its tidy form; counts what that changed."""
        composed = unicodedata.normalize("NFC", name)
        if composed != name:
            self.num_composed += 1
            self._first_composed = self._first_composed or where
        tidied = tidy(composed)
        if tidied != composed:
            self.num_spaced += 1
            self._first_spaced = self._first_spaced or where
        self.names.add(tidied)
        return tidied

    def remarks(self) -> list[str]:
        """What was done to names, and which of them only look alike, in sentences."""
        sentences = []
        if self.num_spaced:
            sentences.append(
                f"{self.num_spaced:,} times a name stood with further white space, and counts without it "
                f"(the first at {self._first_spaced})."
            )
        if self.num_composed:
            sentences.append(
                f"{self.num_composed:,} times a name was in another Unicode form than NFC, and counts as one "
                f"in NFC (the first at {self._first_composed})."
            )
        return sentences + lookalikes(self.names)


def lookalikes(names: Iterable[str]) -> list[str]:
    """Sentences on different names that people take for one; they are never taken for one here."""
    alike: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        alike.setdefault(_skeleton(name), []).append(name)
    return [
        f"{first!r} and {second!r} differ only in {_difference(first, second)}, and count as two names: "
        "write them alike if they are one."
        for group in alike.values()
        for first, second in combinations(group, 2)
    ]


def _skeleton(name: str) -> str:
    """What is left of a name without capitals, compatibility forms, and what is not seen."""
    visible = "".join(
        character for character in unicodedata.normalize("NFKC", name) if not _is_invisible(character)
    )
    return unicodedata.normalize("NFKC", tidy(visible).casefold())


def _is_invisible(sign: str) -> bool:
    return unicodedata.category(sign) == "Cf" or ord(sign) in VARIATIONS


def _difference(first: str, second: str) -> str:
    if tidy(first) == tidy(second):
        return "their Unicode form or white space"
    if tidy(first).casefold() == tidy(second).casefold():
        return "capitals"
    return "the form of their characters, or in some that are not seen"
