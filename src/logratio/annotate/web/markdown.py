"""A readable subset of Markdown as a tree: no HTML, no images, no links, and linear in the text's length.

The page builds its elements from this tree, so no text can become markup. What the subset does not know
stays on the screen as it was written. Line ends inside a paragraph are kept: in an answer they are meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from logratio.annotate.domain.invisible_characters import raw, without_surrogates
from logratio.annotate.web.inline import Budget, Node, parse_inline

__all__ = ["MAX_DEPTH", "parse", "raw"]

MAX_DEPTH: Final = 8
"""Quotes and lists inside one another; what lies deeper is a paragraph."""
MAX_COLUMNS: Final = 64
"""Columns of a table; what stands behind them is part of the last cell."""

FENCE: Final = re.compile(r" {0,3}(`{3,}+|~{3,}+) {0,9}+([^`\s]{0,40}+)[^`]*+$")
HEADING: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]|$)")
ITEM: Final = re.compile(r"( {0,3})([-*+•]|\d{1,9}[.)])( {1,4}|\t|$)")
DELIMITER_CELL: Final = re.compile(r":?-+:?")
CELL_END: Final = re.compile(r"(?<!\\)\|")


def parse(text: str) -> list[Node]:
    """The tree of a text.

    Args:
        text: a prompt, an answer or guidelines, from anywhere.

    Returns:
        Nodes `{"kind", ...}`: paragraph, heading (`level`), list (`ordered`, `start`), item, quote,
        code (`text`, `language`), table, row, cell (`align`), rule, and inside them text, bold, italic,
        inline_code, break. Containers have `children`.
    """
    lines = re.sub(r"\r\n?", "\n", without_surrogates(text)).split("\n")
    return _Blocks(lines, Budget(), 0).parse()


class _Blocks:
    """Reads lines into blocks; each line is looked at a bounded number of times per depth."""

    def __init__(self, lines: Sequence[str], budget: Budget, depth: int) -> None:
        self.lines = lines
        self.budget = budget
        self.depth = depth
        self.position = 0

    def parse(self) -> list[Node]:
        nodes: list[Node] = []
        while self.position < len(self.lines):
            if not self.lines[self.position].strip():
                self.position += 1
            elif self.budget.spend():
                nodes.append(self._block())
            else:
                rest = "\n".join(self.lines[self.position :])
                nodes.append({"kind": "paragraph", "children": [{"kind": "text", "text": rest}]})
                break
        return nodes

    def _block(self) -> Node:
        line = self.lines[self.position]
        if fence := FENCE.match(line):
            return self._fenced(fence)
        if heading := HEADING.match(line):
            return self._heading(line, len(heading[1]))
        if _is_rule(line):
            self.position += 1
            return {"kind": "rule"}
        if self.depth < MAX_DEPTH and _is_quote(line):
            return self._quote()
        if self.depth < MAX_DEPTH and ITEM.match(line):
            return self._list()
        if _is_indented(line):
            return self._indented()
        if columns := self._columns():
            return self._table(columns)
        return self._paragraph()

    def _inside(self, lines: Sequence[str]) -> list[Node]:
        return _Blocks(lines, self.budget, self.depth + 1).parse()

    def _fenced(self, fence: re.Match[str]) -> Node:
        mark = fence[1]
        start = self.position + 1
        end = start
        while end < len(self.lines) and not _closes(self.lines[end], mark):
            end += 1
        self.position = end + 1
        return {"kind": "code", "text": "\n".join(self.lines[start:end]), "language": fence[2]}

    def _heading(self, line: str, level: int) -> Node:
        self.position += 1
        title = line.strip()[level:].strip()
        bare = title.rstrip("#")
        if bare != title and (not bare or bare[-1].isspace()):
            title = bare.rstrip()
        return {"kind": "heading", "level": level, "children": parse_inline(title, self.budget)}

    def _quote(self) -> Node:
        lines: list[str] = []
        while self.position < len(self.lines) and _is_quote(self.lines[self.position]):
            inner = self.lines[self.position].lstrip()[1:]
            lines.append(inner.removeprefix(" "))
            self.position += 1
        return {"kind": "quote", "children": self._inside(lines)}

    def _list(self) -> Node:
        first = ITEM.match(self.lines[self.position])
        assert first is not None
        ordered = first[2][-1] in ".)"
        items: list[Node] = []
        while (item := self._item_mark(first[2][-1])) and self.budget.spend():
            items.append({"kind": "item", "children": self._inside(self._item_lines(item))})
        node: Node = {"kind": "list", "ordered": ordered, "children": items}
        return node | {"start": int(first[2][:-1])} if ordered else node

    def _item_mark(self, sign: str) -> re.Match[str] | None:
        """The mark of this list's next item, over blank lines."""
        position = self.position
        while position < len(self.lines) and not self.lines[position].strip():
            position += 1
        if position == len(self.lines) or _is_rule(self.lines[position]):
            return None
        mark = ITEM.match(self.lines[position])
        if mark is None or mark[2][-1] != sign:
            return None
        self.position = position
        return mark

    def _item_lines(self, mark: re.Match[str]) -> list[str]:
        """The lines of one item, its indentation taken away."""
        width = len(mark[1]) + 2
        lines = [self.lines[self.position][mark.end() :]]
        fence = _opens(lines[0])
        self.position += 1
        while self.position < len(self.lines):
            line = self.lines[self.position]
            if not self._belongs(line, width, fence):
                break
            lines.append(_dedented(line, mark.end()))
            fence = _fence_after(fence, lines[-1])
            self.position += 1
        return lines

    def _belongs(self, line: str, width: int, fence: str) -> bool:
        """Whether a line goes on with an item: indented, blank before such a line, or a running sentence."""
        if line.strip():
            if _indent(line) >= width:
                return True
            lazy = bool(self.lines[self.position - 1].strip()) and not fence
            return lazy and not _begins_block(line) and not ITEM.match(line)
        after = self.position + 1
        return after < len(self.lines) and _indent(self.lines[after]) >= width

    def _indented(self) -> Node:
        lines: list[str] = []
        while self.position < len(self.lines):
            line = self.lines[self.position]
            if line.strip() and not _is_indented(line):
                break
            lines.append(_dedented(line, 4))
            self.position += 1
        return {"kind": "code", "text": "\n".join(lines).rstrip(), "language": ""}

    def _columns(self) -> list[str]:
        """How the columns of a table that begins here are set, or nothing if none begins."""
        if self.position + 1 >= len(self.lines) or "|" not in self.lines[self.position]:
            return []
        second = self.lines[self.position + 1]
        if "-" not in second or second.strip(" \t|:-"):
            return []
        cells = _cells(second)
        if not all(DELIMITER_CELL.fullmatch(cell) for cell in cells):
            return []
        if len(cells) > MAX_COLUMNS or len(cells) != len(_cells(self.lines[self.position])):
            return []
        return [_alignment(cell) for cell in cells]

    def _table(self, columns: list[str]) -> Node:
        rows = [self._row(columns)]
        self.position += 1
        while self.position < len(self.lines) and "|" in self.lines[self.position] and self.budget.spend():
            rows.append(self._row(columns))
        return {"kind": "table", "children": rows}

    def _row(self, columns: list[str]) -> Node:
        """One row; a short one is not filled up, or a wide heading could make millions of cells."""
        cells: list[Node] = []
        for column, cell in enumerate(_cells(self.lines[self.position])):
            self.budget.spend()
            align = columns[column] if column < len(columns) else ""
            children = parse_inline(cell.replace("\\|", "|"), self.budget)
            cells.append({"kind": "cell", "align": align, "children": children})
        self.position += 1
        return {"kind": "row", "children": cells}

    def _paragraph(self) -> Node:
        start = self.position
        self.position += 1
        while self.position < len(self.lines) and not self._ends_paragraph():
            self.position += 1
        text = "\n".join(line.rstrip() for line in self.lines[start : self.position])
        return {"kind": "paragraph", "children": parse_inline(text, self.budget)}

    def _ends_paragraph(self) -> bool:
        line = self.lines[self.position]
        if not line.strip() or _begins_block(line):
            return True
        item = ITEM.match(line) if self.depth < MAX_DEPTH else None
        if item and item[3] and (item[2] in "-*+•" or item[2][:-1] == "1"):
            return True
        return bool(self._columns())


def _begins_block(line: str) -> bool:
    return bool(FENCE.match(line) or HEADING.match(line) or _is_rule(line) or _is_quote(line))


def _is_rule(line: str) -> bool:
    signs = line.strip()
    if signs[:1] not in ("-", "*", "_") or _indent(line) > 3:
        return False
    bare = signs.replace(" ", "").replace("\t", "")
    return len(bare) >= 3 and not bare.strip(bare[0])


def _is_quote(line: str) -> bool:
    return line[:4].lstrip(" ").startswith(">")


def _is_indented(line: str) -> bool:
    return line.startswith(("    ", "\t")) and bool(line.strip())


def _indent(line: str) -> int:
    """Columns of white space before the text; 0 for a blank line."""
    bare = line.lstrip(" \t")
    if not bare.strip():
        return 0
    return len(line[: len(line) - len(bare)].expandtabs(4))


def _dedented(line: str, width: int) -> str:
    """The line without up to `width` columns of white space before it."""
    bare = line.lstrip(" \t")
    columns = len(line[: len(line) - len(bare)].expandtabs(4))
    return " " * max(0, columns - width) + bare


def _opens(line: str) -> str:
    """The mark of a fence that this line opens, or ''."""
    fence = FENCE.match(line)
    return fence[1] if fence else ""


def _fence_after(fence: str, line: str) -> str:
    """The fence that stands open after a line."""
    if not fence:
        return _opens(line)
    return "" if _closes(line, fence) else fence


def _closes(line: str, mark: str) -> bool:
    """Whether a line closes a fence: the same sign, at least as many."""
    signs = line.strip()
    return signs.startswith(mark) and not signs.strip(mark[0])


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    cells = [cell.strip() for cell in CELL_END.split(inner, maxsplit=MAX_COLUMNS)]
    if len(cells) > 1 and not cells[-1]:
        cells.pop()
    return cells


def _alignment(cell: str) -> str:
    if cell.endswith(":"):
        return "center" if cell.startswith(":") else "right"
    return "left" if cell.startswith(":") else ""
