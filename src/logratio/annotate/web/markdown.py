"""Markdown as a tree of known kinds: CommonMark and tables, and nothing that a browser would act on.

markdown-it-py reads the text, and the page builds its elements from the tree, so no text can become markup.
HTML, images, entities and reference definitions stay on the screen as they were written. Line ends inside a
paragraph are kept: in an answer they are meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from markdown_it import MarkdownIt
from markdown_it.parser_block import RuleFuncBlockType
from markdown_it.rules_block import StateBlock, blockquote, list_block, table
from markdown_it.rules_inline import StateInline, link
from markdown_it.token import Token

from logratio.annotate.domain.invisible_characters import raw, without_surrogates

__all__ = ["MAX_CHARACTERS", "MAX_DEPTH", "MAX_LEVEL", "parse", "raw"]

Node = dict[str, Any]

MAX_CHARACTERS: Final = 50_000
"""Characters read as Markdown; what follows is plain text, so that a page of a million stars still opens."""
MAX_LEVEL: Final = 16
"""Levels of quotes (one each) and lists (two each); from its own limit, 20, the library drops the text."""
MAX_DEPTH: Final = 40
"""Nodes inside one another; marks of emphasis that lie deeper are text."""

KINDS: Final = {
    **{"paragraph": "paragraph", "heading": "heading", "blockquote": "quote", "list_item": "item"},
    **{"bullet_list": "list", "ordered_list": "list", "table": "table", "tr": "row", "th": "cell"},
    **{"td": "cell", "strong": "bold", "em": "italic"},
}
"""The library's containers and ours; what is not among them is left out around its content."""
NOT_READ: Final = ("reference", "autolink", "entity")
"""Rules that would hide a part of the text, or show another one."""

IMAGE: Final = re.compile(r"!\[[^\[\]\n]{0,2000}\]\([^()\s]{0,2000}\)")
STAR_IN_WORD: Final = re.compile(r"(?<=[^\W_])\*(?=[^\W_])")
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
    source = without_surrogates(text)
    end = len(source)
    if end > MAX_CHARACTERS:
        end = source.rfind("\n", 0, MAX_CHARACTERS) + 1 or MAX_CHARACTERS
    nodes = _tree(_flat(_parser().parse(source[:end])))
    rest = source[end:]
    return [*nodes, {"kind": "paragraph", "children": [_text(rest)]}] if rest.strip() else nodes


def _parser() -> MarkdownIt:
    """A parser for one text: rules are compiled as they are used, which threads must not share."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(NOT_READ)
    block, inline = parser.block.ruler, parser.inline.ruler
    block.at("table", _table, {"alt": ["paragraph"]})
    block.at("blockquote", _limited(blockquote), {"alt": ["paragraph", "blockquote", "list"]})
    block.at("list", _limited(list_block), {"alt": ["paragraph", "blockquote"]})
    inline.at("link", _link)
    inline.at("image", _image)
    inline.before("emphasis", "star_in_word", _star_in_word)
    return parser


# --- rules of our own ---------------------------------------------------------------------------------


def _limited(rule: RuleFuncBlockType) -> RuleFuncBlockType:
    """The rule of a container, down to a level: what lies deeper is a paragraph."""

    def limited(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        return state.level < MAX_LEVEL and rule(state, start, end, silent)

    return limited


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A table in which cells behind the last column, which GFM drops, are part of that column."""
    first = len(state.tokens)
    found = table(state, start, end, silent)
    row: list[Token] = []
    for token in state.tokens[first:]:
        if token.type == "inline":
            row.append(token)
        elif token.type == "tr_close":
            _append_rest(state, row)
            row = []
    return found


def _append_rest(state: StateBlock, row: list[Token]) -> None:
    """Give the last cell what stands behind it in the line."""
    assert row[0].map is not None
    line = row[0].map[0]
    written = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip()
    cells = [cell.strip() for cell in CELL_END.split(written.removeprefix("|"))]
    if not cells[-1]:
        cells.pop()
    row[-1].content = " | ".join([row[-1].content, *cells[len(row) :]])


def _link(state: StateInline, silent: bool) -> bool:
    """A link is its text and, behind it, its address as it was written."""
    start = state.pos
    if not link(state, silent):
        return False
    if not silent:
        end = state.md.helpers.parseLinkLabel(state, start, True)
        shown, address = state.src[start + 1 : end], state.src[end + 1 : state.pos]
        if address != f"({shown})":
            state.tokens[-1].markup = f" {address}" if shown else address
    return True


def _image(state: StateInline, silent: bool) -> bool:
    """An image stays as it was written."""
    return _literal(IMAGE, state, silent)


def _star_in_word(state: StateInline, silent: bool) -> bool:
    """A lone star between letters or digits multiplies: `2*3*4` is no emphasis, whatever CommonMark says."""
    return _literal(STAR_IN_WORD, state, silent)


def _literal(pattern: re.Pattern[str], state: StateInline, silent: bool) -> bool:
    found = pattern.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.pending += found.group()
    state.pos = found.end()
    return True


# --- tokens to nodes ----------------------------------------------------------------------------------


def _flat(tokens: Iterable[Token]) -> Iterator[Token]:
    for token in tokens:
        if token.type == "inline":
            yield from token.children or ()
        else:
            yield token


def _tree(tokens: Iterable[Token]) -> list[Node]:
    """The tree of a balanced stream; a container that is left out adds its marks to what is around it."""
    root: list[Node] = []
    open_children = [root]
    for token in tokens:
        around = open_children[-1]
        if token.nesting == 0:
            _add(around, _leaf(token))
        elif token.nesting == 1:
            node = _container(token) if len(open_children) < MAX_DEPTH else None
            _add(around, _text(token.markup) if node is None else node)
            open_children.append(around if node is None else node["children"])
        elif open_children.pop() is open_children[-1]:
            _add(around, _text(token.markup))
        elif token.type == "table_close":
            _drop_filled_up(around)
    return root


def _add(nodes: list[Node], node: Node) -> None:
    """Append a node; text joins the text before it."""
    if node["kind"] != "text":
        nodes.append(node)
    elif nodes and nodes[-1]["kind"] == "text":
        nodes[-1]["text"] += node["text"]
    elif node["text"]:
        nodes.append(node)


def _drop_filled_up(rows: list[Node]) -> None:
    """Take empty cells from the ends of rows: below a wide heading, short rows make tens of thousands."""
    for row in rows[1:]:
        while row["children"] and not row["children"][-1]["children"]:
            row["children"].pop()


def _container(token: Token) -> Node | None:
    name = token.type.removesuffix("_open")
    if name not in KINDS:
        return None
    node: Node = {"kind": KINDS[name], "children": []}
    if name == "heading":
        node["level"] = int(token.tag[1:])
    elif node["kind"] == "list":
        node["ordered"] = name == "ordered_list"
        if node["ordered"]:
            node["start"] = token.attrs.get("start", 1)
    elif node["kind"] == "cell":
        node["align"] = str(token.attrs.get("style", "")).removeprefix("text-align:")
    return node


def _leaf(token: Token) -> Node:
    if token.type in ("fence", "code_block"):
        return {"kind": "code", "text": token.content.removesuffix("\n"), "language": token.info.strip()}
    if token.type == "code_inline":
        return {"kind": "inline_code", "text": token.content}
    if token.type == "hr":
        return {"kind": "rule"}
    if token.type in ("softbreak", "hardbreak"):
        return {"kind": "break"}
    return _text(token.content)


def _text(content: str) -> Node:
    return {"kind": "text", "text": content}
