"""DPO, PPO and best-of-n in numbers, beneath the picture on which they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.formatting import ABSENT, fixed, interval, is_number
from logratio.report.html import Html, element, join
from logratio.report.sections.cells import cell, rate_cell
from logratio.report.sections.section import table

METHODS = {"dpo": ("DPO", "policy"), "ppo": ("PPO", "ppo"), "best_of_n": ("Best of n", "best")}
"""Of each method its name and the class of its colour."""
HEADINGS = ("Method", "Wins against the reference", "Mean reward", "KL to the reference")


def methods_table(report: Mapping[str, Any]) -> Html | None:
    """A row a method; none where a report compares no methods."""
    methods = report.get("methods")
    if not isinstance(methods, Mapping):
        return None
    rows = [_row(name, methods[name]) for name in METHODS if isinstance(methods.get(name), Mapping)]
    return table(HEADINGS, rows, caption="Methods side by side", class_="stages") if rows else None


def _row(name: str, method: Mapping[str, Any]) -> list[Html]:
    label, style = METHODS[name]
    if is_number(method.get("n")):
        label = f"Best of {method['n']}"
    return [
        join([element("i", class_=f"key {style}"), label]),
        rate_cell(method.get("win_rate"), style=style),
        _number(method, "reward", 3),
        _kl(method),
    ]


def _number(method: Mapping[str, Any], key: str, decimals: int) -> Html:
    value = method.get(key)
    if not is_number(value):
        return cell(ABSENT)
    return cell(fixed(value, decimals), interval(method.get(f"{key}_interval"), decimals))


def _kl(method: Mapping[str, Any]) -> Html:
    if not method.get("kl_is_bound") or not is_number(method.get("kl")):
        return _number(method, "kl", 2)
    return cell(f"at most {fixed(method['kl'], 2)}", "a bound, not a measurement")
