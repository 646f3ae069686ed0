"""The page of `logratio verify`: what was compared, with pictures for those to whom the field is new.

In the manner of the report of a run, and with its style sheet: one file, no script, nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.progress import format_seconds
from logratio.report.frame import document, footer, header
from logratio.report.html import Html, element, join
from logratio.report.sections.section import Section, definitions, details, table
from logratio.verify.report.plots import plot_sections
from logratio.verify.report.wording import sentence, table_row

HEADINGS = ("What is compared", "Exact", "Ours", "Apart by", "May be", "")
MEANING = (
    "A language of three words and an end sign, in which no text is longer than four signs, has 121 texts. "
    "They can all be written down, so what is an average over samples elsewhere is a sum here, and has one "
    "right answer. Where a check needs something else, such as games between players or a walk over a "
    "frozen lake, that too is small enough to be solved exactly. Every line below compares what logratio "
    "computes with such an answer."
)
STYLE = Html(
    "svg.cell.good { --tone: var(--good); } svg.cell.bad { --tone: var(--bad); }"
    " svg.cell.b { --tone: var(--second); } i.key.skipped { --tone: var(--quiet); }"
    " .rows td { white-space: nowrap; } .rows tbody th { min-width: 180px; }"
    " .forms tbody th { white-space: normal; min-width: 150px; }"
    " .forms th small { display: block; font-weight: 400; color: var(--quiet); font-size: 13.5px; }"
)
"""What this page has beyond a report: bars that say right and wrong, numbers that stay on their line."""


def page(report: Mapping[str, Any]) -> Html:
    """The whole page as text.

    Args:
        report: what `gather` gives, also as read back from `verify.json`.
    """
    sections = [
        _verdict_section(report),
        *plot_sections(report["pictures"] or {}),
        _checks_section(report),
        _provenance_section(report),
    ]
    return document(
        header("logratio verify", "Held against exact answers", report["finished"]),
        sections,
        footer("verify.json"),
        title="logratio held against exact answers",
        goal="verdict",
        styles=[STYLE],
    )


def _verdict_section(report: Mapping[str, Any]) -> Section:
    word, style = ("All hold", "good") if report["passed"] else ("Not all hold", "bad")
    if report["passed"] and report["skipped"]:
        word = "All that ran hold"
    facts = [
        ("Checks", report["num_checks"]),
        *([("Checks skipped", len(report["skipped"]))] if report["skipped"] else []),
        ("Comparisons", report["num_rows"]),
        ("Wrong forms, found wrong", report["num_controls"]),
        ("Took", format_seconds(report["seconds"])),
    ]
    box = element(
        "div",
        element("p", element("span", word, class_="outcome"), class_="outcome-line"),
        element("p", sentence(report), class_="sentence"),
        element("p", MEANING),
        definitions(facts, class_="facts"),
        class_=f"verdict {style}",
    )
    return Section(anchor="verdict", title="Verdict", body=box)


def _checks_section(report: Mapping[str, Any]) -> Section:
    return Section(
        anchor="checks",
        title="Every check",
        lede="Each opens to its comparisons: the exact answer, ours, how far apart they are and how far "
        "they may be. Some try a form known to be wrong: those must be off by at least the number given.",
        body=join(_check(check) for check in report["checks"]),
    )


def _check(check: Mapping[str, Any]) -> Html:
    failed = sum(not row["passed"] for row in check["rows"])
    if check["skipped"]:
        count = "skipped"
    elif check["fault"]:
        count = "stopped by an error"
    elif failed:
        count = f"{failed} of {len(check['rows'])} do not hold"
    else:
        count = f"{len(check['rows'])} hold"
    style = "good" if check["passed"] else "skipped" if check["skipped"] else "bad"
    heading = join(
        [
            element("i", class_=f"key {style}"),
            element("strong", check["name"]),
            f" {check['title']} ",
            element("span", f"{count}, {format_seconds(check['seconds'])}", class_="count"),
        ]
    )
    rows = [_cells(row) for row in check["rows"]]
    caption = f"Comparisons of {check['name']}"
    listing = table(HEADINGS, rows, caption=caption, class_="small rows") if rows else None
    fault = element("p", check["fault"], class_="text wrong") if check["fault"] else None
    return details(heading, listing, fault, is_open=not check["passed"])


def _cells(row: Mapping[str, Any]) -> list[object]:
    cells = table_row(row)
    if not (row["passed"] or row["skipped"]):
        return [*cells[:-1], element("strong", cells[-1], class_="wrong")]
    return list(cells)


def _provenance_section(report: Mapping[str, Any]) -> Section:
    machine, versions = report["machine"], report["versions"]
    facts = [
        *machine.items(),
        *versions.items(),
        ("samples", "fewer (--quick)" if report["quick"] else "all"),
    ]
    lede = "`logratio verify` makes this page, and gives the same numbers every time on the same machine."
    return Section(
        anchor="provenance", title="Provenance", lede=lede, body=join([definitions(facts, class_="facts")])
    )
