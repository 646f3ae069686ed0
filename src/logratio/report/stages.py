"""What each step did: one row of numbers for the reference, every middle stage and the policy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

METRICS = ("reward", "kl", "length", "eos_rate", "distinct_2", "repetition")
LABELS = {"reference": "Reference", "sft": "After SFT", "policy": "Policy", "ppo": "PPO"}
COLOURED = ("reference", "policy", "ppo")
"""Stages with a colour of their own."""


def stage_label(name: str, beside: Collection[str] = ()) -> str:
    """How the page calls a stage: the policy is DPO where a stage that PPO trained stands beside it.

    Args:
        name: the stage.
        beside: all stages of the report.
    """
    return "DPO" if name == "policy" and "ppo" in beside else LABELS.get(name, name)


def stage_style(name: str) -> str:
    """The style sheet's class of a stage's colour."""
    return name if name in COLOURED else "between"


def stage_names(report: Mapping[str, Any]) -> list[str]:
    """The names of all stages, in their order."""
    return [str(row["name"]) for row in report.get("stages") or [] if "name" in row]


def stage_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a stage, the reference first and the policy last.

    What the evaluation said of a stage in `stages` is kept; numbers that it gave by metric and name
    (`report["reward"]["sft"]`) are laid beside it.
    """
    entries = [
        entry if isinstance(entry, Mapping) else {"name": str(entry)} for entry in report.get("stages") or []
    ]
    rows = {row["name"]: dict(row) for row in entries if "name" in row}
    for metric in METRICS:
        for key in (metric, f"{metric}_interval"):
            values = report.get(key)
            for name, value in values.items() if isinstance(values, Mapping) else ():
                rows.setdefault(name, {"name": name}).setdefault(key, value)
    if "policy" in rows and isinstance(report.get("win_rate"), Mapping):
        rows["policy"].setdefault("win_rate", report["win_rate"])
    if "reference" in rows and "kl" in report:
        # The reference's divergence from itself is 0 by definition, not a measurement.
        rows["reference"].setdefault("kl", 0.0)
    return [rows[name] for name in sorted(rows, key=_place)]


def _place(name: str) -> int:
    """The reference first, the policy last; between them as they came (sorting is stable)."""
    return {"reference": 0, "policy": 2}.get(name, 1)
