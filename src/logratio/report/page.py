"""The page: one self-contained HTML file with no script that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from logratio.report.collect import collect
from logratio.report.html import Html, element, join, prose
from logratio.report.sections.answers import answers_section
from logratio.report.sections.control import control_section
from logratio.report.sections.control_course import control_course_section
from logratio.report.sections.curves import curves_section
from logratio.report.sections.data import data_section
from logratio.report.sections.frontier import frontier_section
from logratio.report.sections.invariants import invariants_section
from logratio.report.sections.pairwise_counts import head_to_head_section
from logratio.report.sections.policy_gradient import policy_gradient_section
from logratio.report.sections.provenance import provenance_section
from logratio.report.sections.reward import reward_section
from logratio.report.sections.section import Section
from logratio.report.sections.steps import steps_section
from logratio.report.sections.verdict import verdict_section
from logratio.report.sections.warnings import warnings_section
from logratio.report.video import with_film
from logratio.run_directory import REPORT, atomic_write, write_json
from logratio.version import __version__

PAGE = "report.html"
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
SECTIONS = (
    verdict_section,
    control_section,
    control_course_section,
    reward_section,
    steps_section,
    frontier_section,
    head_to_head_section,
    policy_gradient_section,
    curves_section,
    answers_section,
    data_section,
    warnings_section,
    invariants_section,
    provenance_section,
)


def render(run_path: Path | str) -> Path:
    """Write `report.json` and `report.html` into a run directory.

    Args:
        run_path: the directory of a quickstart, of one training run or of an evaluation.

    Returns:
        The path of `report.html`.

    Raises:
        FileNotReadable: there is no such run, or a file in it is not JSON.
        DiskFull, NotWritable: the directory takes no file.
    """
    return write_report(run_path, collect(run_path))


def write_report(run_path: Path | str, report: Mapping[str, Any]) -> Path:
    """Write what `collect` gave into the run directory, as numbers and as a page; returns the page's path.

    Raises:
        DiskFull, NotWritable: the directory takes no file.
    """
    path = Path(run_path)
    text = page(with_film(report, path), name=path.resolve().name)
    write_json(path / REPORT, report)
    with atomic_write(path / PAGE) as stream:
        stream.write(text)
    return path / PAGE


def page(report: Mapping[str, Any], *, name: str) -> Html:
    """The whole page as text.

    Args:
        report: what `collect` gives.
        name: the run's name, for the title.
    """
    sections = [section for make in SECTIONS if (section := make(report)) is not None]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(POLICY)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{name} – logratio report"),
        element("style", style_sheet()),
    )
    body = element(
        "body",
        element("a", "Skip to the result", href=f"#{sections[0].anchor}", class_="skip"),
        _header(report, name),
        element(
            "div",
            _contents(sections),
            element("main", _missing(report), *(section.to_html() for section in sections)),
            class_="columns",
        ),
        _footer(),
    )
    return join([Html("<!doctype html>\n"), element("html", head, body, lang="en"), "\n"])


def style_sheet() -> Html:
    """The style sheet beside this module; it holds nothing that came from a run."""
    return Html(files("logratio.report").joinpath("style.css").read_text(encoding="utf-8"))


def _header(report: Mapping[str, Any], name: str) -> Html:
    made = (report.get("provenance") or {}).get("finished") or ""
    return element(
        "header",
        element("p", "logratio report", class_="brand"),
        element("h1", name),
        element("p", made, class_="lede") if made else None,
    )


def _contents(sections: list[Section]) -> Html:
    links = [element("li", element("a", one.title, href=f"#{one.anchor}")) for one in sections]
    return element("nav", element("ul", *links), aria_label="Contents")


def _missing(report: Mapping[str, Any]) -> Html | None:
    sentences = [element("li", prose(sentence)) for sentence in report.get("missing") or []]
    if not sentences:
        return None
    title = element("p", element("b", "This report is of a part"))
    return element("div", title, element("ul", *sentences), class_="missing", role="note")


def _footer() -> Html:
    return element(
        "footer",
        element(
            "p",
            f"Made by logratio {__version__}. Every number of this page is in ",
            element("code", REPORT),
            ".",
        ),
    )
