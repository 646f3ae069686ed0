"""HTML and SVG as escaped text: what is not `Html` is escaped, so no text can become markup.

Answers come from models and prompts from anywhere, so a text may hold tags, terminal escapes, characters
that turn the reading direction round or that have no width. All of them are shown, none of them acts.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

from logratio.data.character_shapes import code_point, has_no_shape, written_out
from logratio.report.formatting import NO_BREAK

VOID_ELEMENTS = frozenset({"meta", "br", "hr", "col"})


class Html(str):
    """Markup that was built here, and is not escaped again."""

    __slots__ = ()


def is_invisible(character: str) -> bool:
    """Whether a character has no shape of its own: control, direction, zero width, surrogate, unassigned."""
    return character not in "\n\t" and has_no_shape(character)


def visible(text: str) -> str:
    """The text with every unseen character written out, as in `⟨U+202E⟩`; line ends become plain ones."""
    text = re.sub(r"\r\n?", "\n", text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(written_out(character) if is_invisible(character) else character for character in text)


def escape(text: object) -> Html:
    """Text as HTML, fit for the inside of an element and of an attribute in double quotes."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(visible(str(text)), quote=True))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """An element: children that are not `Html` are escaped, `None` children and attributes are left out.

    An underscore in an attribute's name stands for a hyphen, one at its end for nothing: `class_`,
    `aria_label`.
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID_ELEMENTS:
        return Html(f"<{tag}{named}>")
    return Html(f"<{tag}{named}>{join(children)}</{tag}>")


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Escaped parts one after the other; `None` is left out."""
    return Html(separator.join(escape(part) for part in parts if part is not None))


def prose(text: str) -> Html:
    """A sentence of ours: `code` between back-ticks, and no line ends between a number and its per cent."""
    pieces = re.sub(r"(\d) %", f"\\1{NO_BREAK}%", text).split("`")
    return join(element("code", piece) if index % 2 else piece for index, piece in enumerate(pieces))


def foreign_text(text: str, *, limit: int = 4000) -> Html:
    """A prompt or an answer: unseen characters as small badges with their names, very long texts cut.

    The badge is an element, so a reader can tell it from an answer that spells out `⟨U+202E⟩`.
    """
    text = re.sub(r"\r\n?", "\n", text)
    parts: list[object] = []
    for piece in re.split(r"([^\n\t -~]+)", text[:limit]):
        parts.extend(_badges(piece))
    if len(text) > limit:
        more = f"… {len(text) - limit:,} more characters, which report.json has"
        parts.append(element("em", more, class_="cut"))
    return join(parts)


def _badges(piece: str) -> list[object]:
    if all(not is_invisible(character) for character in piece):
        return [piece]
    return [_badge(character) if is_invisible(character) else character for character in piece]


def _badge(character: str) -> Html:
    name = unicodedata.name(character, "a character that does not show")
    return element("span", code_point(character), class_="unseen", title=name)
