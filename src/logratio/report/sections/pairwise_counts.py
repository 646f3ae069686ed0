"""Every pair of stages against each other, as it stands and with length held equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.formatting import ABSENT, fixed, interval, is_number, number, percent
from logratio.report.sections.cells import cell, rate_cell
from logratio.report.sections.section import Section, table
from logratio.report.stages import stage_label, stage_names, stage_style

HEADINGS = {
    "win_rate": "Win rate",
    "length_controlled_win_rate": "With length held equal",
    "reward_difference": "Reward gained",
    "longer_share_of_wins": "Wins with the longer answer",
    "identical": "Same answer",
}
"""What is said of a pair of stages, by its key, with the column's heading."""
LEDE = (
    "Prompt by prompt, ties as half a win. Judges often like longer answers: the second column is the win "
    "rate that a logistic fit expects were both equally long. Where they differ much, length explains part."
)


def head_to_head_section(report: Mapping[str, Any]) -> Section | None:
    """A row for every pair that was compared; a column that no pair has is left out."""
    main = {"name": "policy", "against": "reference", **{key: report.get(key) for key in HEADINGS}}
    contests = [
        contest
        for contest in report.get("comparisons") or [main]
        if isinstance(contest.get("win_rate"), Mapping)
    ]
    if not contests:
        return None
    keys = [key for key in HEADINGS if any(contest.get(key) is not None for contest in contests)]
    names = stage_names(report)
    rows = [[_pair(contest, names), *(_value(key, contest) for key in keys)] for contest in contests]
    headings = ["Who", *(HEADINGS[key] for key in keys)]
    content = table(headings, rows, caption="Head to head", class_="stages")
    return Section(anchor="head-to-head", title="Head to head, and length", lede=LEDE, body=content)


def _pair(contest: Mapping[str, Any], stages: Sequence[str]) -> str:
    name, against = (stage_label(str(contest.get(side, "")), stages) for side in ("name", "against"))
    return f"{name} against {against}"


def _value(key: str, contest: Mapping[str, Any]) -> object:
    value = contest.get(key)
    if key.endswith("win_rate"):
        return rate_cell(value, style=stage_style(str(contest.get("name", ""))))
    if isinstance(value, Mapping) and is_number(value.get("value")):
        return cell(fixed(value["value"], 3), interval([value.get("low"), value.get("high")], 3))
    if not is_number(value):
        return cell(ABSENT)
    return cell(number(value) if key == "identical" else percent(value, 0))
