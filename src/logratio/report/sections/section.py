"""A part of the page: heading, a sentence on how to read it, content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from logratio.report.html import Html, element, join, prose


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page."""

    anchor: str
    """Its place in the page's address."""
    title: str
    """Heading, also in the table of contents."""
    body: Html
    """Content."""
    lede: str = ""
    """How to read it."""

    def to_html(self) -> Html:
        """The section as an element."""
        heading = element("h2", self.title, id=f"{self.anchor}-title")
        lede = element("p", prose(self.lede), class_="lede") if self.lede else None
        labelled = {"id": self.anchor, "aria_labelledby": f"{self.anchor}-title"}
        return element("section", heading, lede, self.body, **labelled)


def table(
    headings: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str, class_: str = ""
) -> Html:
    """A table whose first column names the rows; it scrolls sideways by itself where the page is narrow."""
    head = element("thead", element("tr", *(element("th", heading, scope="col") for heading in headings)))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]))
        for row in rows
    ]
    named = element("caption", caption, class_="unseen-caption")
    inner = element("table", named, head if any(headings) else None, element("tbody", *body))
    frame = {"class_": f"scroll {class_}".rstrip(), "tabindex": "0", "role": "region", "aria_label": caption}
    return element("div", inner, **frame)


def definitions(pairs: Sequence[tuple[object, object]], *, class_: str) -> Html:
    """Names with their values."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in pairs),
        class_=class_,
    )


def figure(chart: Html, *, title: str, note: str = "", legend: Sequence[tuple[str, str]] = ()) -> Html:
    """A chart with its title, the names of its lines and a sentence."""
    keys = [element("span", element("i", class_=f"key {style}"), label) for label, style in legend]
    caption = element(
        "figcaption",
        element("strong", title),
        element("span", *keys, class_="legend") if keys else None,
        element("small", note) if note else None,
    )
    return element("figure", caption, chart)


def details(summary: object, *content: object, is_open: bool = False) -> Html:
    """Content that opens by its heading, without a script."""
    inside = join([element("summary", summary), *content])
    return Html(f"<details{' open' if is_open else ''}>{inside}</details>")
