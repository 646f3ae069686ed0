"""The page: one self-contained HTML file with no script that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logratio.report.collect import collect
from logratio.report.frame import document, footer, header
from logratio.report.html import Html, element, prose
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
from logratio.report.sections.steps import steps_section
from logratio.report.sections.verdict import verdict_section
from logratio.report.sections.warnings import warnings_section
from logratio.report.video import with_film
from logratio.run_directory import REPORT, atomic_write, write_json
from logratio.version import __version__

PAGE = "report.html"
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
    finished = (report.get("provenance") or {}).get("finished") or ""
    return document(
        header("logratio report", name, finished),
        sections,
        footer(REPORT, made_by=f"Made by logratio {__version__}. "),
        title=f"{name} – logratio report",
        notice=_missing(report),
    )


def _missing(report: Mapping[str, Any]) -> Html | None:
    sentences = [element("li", prose(sentence)) for sentence in report.get("missing") or []]
    if not sentences:
        return None
    title = element("p", element("b", "This report is of a part"))
    return element("div", title, element("ul", *sentences), class_="missing", role="note")
