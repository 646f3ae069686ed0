"""What every page has around its sections: one HTML file, no script, nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from logratio.report.html import Html, element, join
from logratio.report.sections.section import Section

POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "media-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)


def document(
    header: Html,
    sections: Sequence[Section],
    footer: Html,
    *,
    title: str,
    goal: str = "result",
    styles: Iterable[Html] = (),
    notice: Html | None = None,
) -> Html:
    """The whole page as text.

    Args:
        header: what stands above the sections.
        sections: in their order; the first is what a reader without a mouse may skip to.
        footer: what stands below them.
        title: of the window.
        goal: what the link that skips calls the first section.
        styles: sheets beyond that of a report.
        notice: what stands before the first section.
    """
    links = [element("li", element("a", section.title, href=f"#{section.anchor}")) for section in sections]
    body = element(
        "body",
        element("a", f"Skip to the {goal}", href=f"#{sections[0].anchor}", class_="skip"),
        header,
        element(
            "div",
            element("nav", element("ul", *links), aria_label="Contents"),
            element("main", notice, *(section.to_html() for section in sections)),
            class_="columns",
        ),
        footer,
    )
    return join([Html("<!doctype html>\n"), element("html", _head(title, styles), body, lang="en"), "\n"])


def header(brand: str, heading: str, lede: str) -> Html:
    """The command that made the page, what the page is of, and when it was made, where that is known."""
    return element(
        "header",
        element("p", brand, class_="brand"),
        element("h1", heading),
        element("p", lede, class_="lede") if lede else None,
    )


def footer(file: str, *, made_by: str = "") -> Html:
    """Where the page's numbers stand."""
    where = [f"{made_by}Every number of this page is in ", element("code", file), "."]
    return element("footer", element("p", *where))


def _head(title: str, styles: Iterable[Html]) -> Html:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(POLICY)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", join([style_sheet(), *styles])),
    )


def style_sheet() -> Html:
    """The style sheet beside this module; it holds nothing that came from a run."""
    return Html(files("logratio.report").joinpath("style.css").read_text(encoding="utf-8"))
