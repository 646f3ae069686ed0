"""Bold, italic, code and links within a line of Markdown, in time linear in its length."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Node = dict[str, Any]

MAX_OPEN: Final = 24
"""Delimiters that may stand open at once; further ones are text."""
MAX_NODES: Final = 20_000
"""Nodes of one tree; what follows is plain text, so that a page of a million stars still opens."""

TOKEN: Final = re.compile(
    r"(?P<escaped>\\[!-/:-@\[-`{-~])"
    r"|(?P<ticks>`+)"
    r"|(?P<link>!?\[[^\[\]\n]{0,2000}\]\([^()\s]{0,2000}\))"
    r"|(?P<marks>\*+|_+)"
    r"|(?P<line>\n)"
    r"|(?P<text>[^\\`!\[*_\n]+|.)"
)
LINK: Final = re.compile(r"\[(?P<shown>[^\[\]]*)\]\((?P<address>[^()]*)\)")


@dataclass(slots=True)
class Budget:
    """How many nodes a tree may still take."""

    left: int = MAX_NODES
    """Nodes that may be made."""

    def spend(self, num: int = 1) -> bool:
        """Take nodes from what is left; false when none is."""
        self.left -= num
        return self.left > 0


@dataclass(slots=True)
class _Frame:
    """An open delimiter and what follows it."""

    mark: str
    children: list[Node] = field(default_factory=list)


def parse_inline(text: str, budget: Budget) -> list[Node]:
    """The nodes of a paragraph: text, bold, italic, inline_code, break.

    Images stay as they were written. A link is its text with the address behind it. Tags are text.

    Args:
        text: the paragraph, line ends included.
        budget: the nodes that the whole tree may still take.
    """
    return _Emphasis(text, budget).parse()


class _Emphasis:
    """Matches delimiters with a stack of frames; each frame is closed or given up once."""

    def __init__(self, text: str, budget: Budget) -> None:
        self.text = text
        self.budget = budget
        self.frames = [_Frame("")]
        self.ticks = _tick_runs(text)

    def parse(self) -> list[Node]:
        position = 0
        while position < len(self.text):
            if not self.budget.spend():
                self._say(self.text[position:])
                break
            position = self._take(position)
        self._give_up(1)
        return self.frames[0].children

    def _take(self, position: int) -> int:
        """Read one token at a place; returns where the next begins."""
        token = TOKEN.match(self.text, position)
        assert token is not None
        kind, piece = token.lastgroup, token.group()
        if kind == "escaped":
            self._say(piece[1])
        elif kind == "ticks":
            return self._code(position, len(piece))
        elif kind == "link":
            self._link(piece)
        elif kind == "marks":
            self._marks(piece, self._before(position), self._after(token.end()))
        elif kind == "line":
            self.frames[-1].children.append({"kind": "break"})
        else:
            self._say(piece)
        return token.end()

    def _before(self, position: int) -> str:
        return self.text[position - 1] if position else " "

    def _after(self, position: int) -> str:
        return self.text[position] if position < len(self.text) else " "

    def _say(self, text: str) -> None:
        children = self.frames[-1].children
        if children and children[-1]["kind"] == "text":
            children[-1]["parts"].append(text)
        else:
            children.append({"kind": "text", "parts": [text]})

    def _code(self, position: int, length: int) -> int:
        """Inline code from a run of back-ticks to the next run as long, or the run as text."""
        runs = self.ticks[length]
        start = position + length
        while runs and runs[-1] < start:
            runs.pop()
        if not runs:
            self._say("`" * length)
            return start
        inside = self.text[start : runs[-1]].replace("\n", " ")
        if inside.startswith(" ") and inside.endswith(" ") and inside.strip():
            inside = inside[1:-1]
        self.frames[-1].children.append({"kind": "inline_code", "text": inside})
        return runs[-1] + length

    def _link(self, piece: str) -> None:
        if piece.startswith("!"):
            self._say(piece)
            return
        parts = LINK.fullmatch(piece)
        assert parts is not None
        shown, address = parts["shown"], parts["address"]
        children = self.frames[-1].children
        for node in parse_inline(shown, self.budget):
            if node["kind"] == "text":
                self._say(node["text"])
            else:
                children.append(node)
        if address != shown:
            self._say(f" ({address})" if shown else f"({address})")

    def _marks(self, run: str, before: str, after: str) -> None:
        """Close what the run can close, open the rest, and say what does neither."""
        can_close, can_open = _flanks(run, before, after)
        left = len(run)
        if left > 3:
            self._say(run)
            return
        while can_close and left and (mark := self._opener(run[0], left)):
            left -= len(mark)
        for mark in _split(run[0], left):
            if can_open and len(self.frames) <= MAX_OPEN:
                self.frames.append(_Frame(mark))
            else:
                self._say(mark)

    def _opener(self, sign: str, longest: int) -> str:
        """Close a frame of this sign, of two marks sooner than of one; returns its mark, '' if none is."""
        for lengths in ((1, 2),) if longest == 3 else ((longest,), (1,)):
            for position in range(len(self.frames) - 1, 0, -1):
                mark = self.frames[position].mark
                if mark[0] == sign and len(mark) in lengths and self._holds_something(position):
                    self._close(position)
                    return mark
        return ""

    def _holds_something(self, position: int) -> bool:
        return position + 1 < len(self.frames) or bool(self.frames[position].children)

    def _close(self, position: int) -> None:
        self._give_up(position + 1)
        frame = self.frames.pop()
        kind = "bold" if len(frame.mark) == 2 else "italic"
        self.frames[-1].children.append({"kind": kind, "children": _joined(frame.children)})

    def _give_up(self, first: int) -> None:
        """Frames from `first` on were never closed: their marks are text."""
        lost = self.frames[first:]
        del self.frames[first:]
        for frame in lost:
            self._say(frame.mark)
            for node in frame.children:
                if node["kind"] == "text":
                    for part in node["parts"]:
                        self._say(part)
                else:
                    self.frames[-1].children.append(node)
        if first == 1:
            self.frames[0].children = _joined(self.frames[0].children)


def _joined(nodes: list[Node]) -> list[Node]:
    """Text nodes with their parts put together."""
    return [{"kind": "text", "text": "".join(node["parts"])} if "parts" in node else node for node in nodes]


def _tick_runs(text: str) -> dict[int, list[int]]:
    """Where runs of back-ticks begin, by their length, the last first."""
    runs: dict[int, list[int]] = {}
    for run in reversed(list(re.finditer(r"`+", text))):
        runs.setdefault(len(run.group()), []).append(run.start())
    return runs


def _flanks(run: str, before: str, after: str) -> tuple[bool, bool]:
    """Whether a run can close and can open, by what stands beside it.

    Underscores and a lone star inside a word do neither: `snake_case` and `2*3*4` are no emphasis.
    """
    close_side, open_side = not before.isspace(), not after.isspace()
    before_word, after_word = before.isalnum(), after.isalnum()
    can_close = close_side and (before_word or not after_word)
    can_open = open_side and (after_word or not before_word)
    if run[0] == "_" or run == "*":
        return can_close and not after_word, can_open and not before_word
    return can_close, can_open


def _split(sign: str, length: int) -> Iterator[str]:
    """Three marks open bold and then italic."""
    if length >= 2:
        yield sign * 2
    if length % 2:
        yield sign
