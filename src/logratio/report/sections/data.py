"""Data counts: sums that add up, then the single counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from logratio.report.formatting import number
from logratio.report.html import element, join
from logratio.report.row_accounting import Total, groups, single_counts, totals
from logratio.report.sections.section import Section, definitions

NAMES = {
    "num_rows": "rows read",
    "num_usable": "usable pairs",
    "num_pairs": "pairs",
    "pairs_considered": "pairs considered",
    "held_out": "held out",
    "num_prompts": "prompts",
    "num_answers": "answers",
    "identical": "of identical answers",
    "empty": "with an empty answer",
}


def data_section(report: Mapping[str, Any]) -> Section | None:
    """Data counts as sums, then the single counts."""
    data = report.get("data") or {}
    sums = totals(data)
    lines = [element("p", *_sum(group, total), class_="sum") for group, total in sums]
    in_sums = {
        (group, name) for group, total in sums for name in (total.name, *(part for part, _ in total.parts))
    }
    rest = [
        (f"{group}: {_name(name)}" if group else _name(name), _count(value))
        for group, counts in groups(data)
        for name, value in single_counts(counts)
        if (group, name) not in in_sums
    ]
    if not lines and not rest:
        return None
    return Section(
        anchor="data",
        title="Data",
        lede="Nothing is dropped silently: what was read is what was used and what was set aside, by reason.",
        body=join([*lines, definitions(rest, class_="facts") if rest else None]),
    )


def _sum(group: str, total: Total) -> Iterator[object]:
    if group:
        yield element("span", f"{_name(group)}: ", class_="group")
    yield element("b", number(total.value))
    yield f" {_name(total.name)} = "
    for index, (name, count) in enumerate(total.parts):
        yield " + " if index else ""
        yield element("b", number(count))
        yield f" {_name(name)}"
    if not total.adds_up:
        parts = sum(count for _, count in total.parts)
        yield element("strong", f" does not add up: the parts give {number(parts)}", class_="wrong")


def _count(value: float) -> str:
    return number(int(value)) if value == int(value) else number(value)


def _name(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))
