"""The verdict: what is shown, by how much, who judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.charts.bars import interval_bar, share_bar
from logratio.report.control_runs import is_control
from logratio.report.formatting import is_number, number, percent, percent_interval
from logratio.report.html import Html, element, join, prose
from logratio.report.sections.section import Section, definitions
from logratio.report.stages import stage_names
from logratio.report.warnings.verdict import allowed_verdict

OUTCOMES = {"better": ("Better", "good"), "worse": ("Worse", "bad"), "not shown": ("Not shown", "open")}
METHODS = {"wilson": "Wilson, ties as half a win", "bootstrap": "bootstrap over prompts"}


def verdict_section(report: Mapping[str, Any]) -> Section | None:
    """The verdict box; where nothing was evaluated it says so. Control has no reference beside it."""
    if is_control(report):
        return None
    verdict = report.get("verdict")
    win_rate = report.get("win_rate")
    if not isinstance(verdict, Mapping) and not isinstance(win_rate, Mapping):
        return Section(anchor="verdict", title="Verdict", body=_no_verdict(report))
    verdict = verdict if isinstance(verdict, Mapping) else {}
    outcome, sentence = allowed_verdict(report)
    word, style = OUTCOMES.get(outcome, OUTCOMES["not shown"])
    parts: list[Html | None] = [
        element("p", element("span", word, class_="outcome"), class_="outcome-line"),
        element("p", prose(sentence), class_="sentence"),
    ]
    if isinstance(win_rate, Mapping):
        parts.append(_win_rate(win_rate))
    parts.append(definitions(_facts(report, verdict, win_rate or {}), class_="facts"))
    parts.append(_warned(report))
    return Section(anchor="verdict", title="Verdict", body=element("div", *parts, class_=f"verdict {style}"))


def _warned(report: Mapping[str, Any]) -> Html | None:
    """How many warnings stand further down: a verdict is not read without them."""
    raised = [
        warning.get("severity") for warning in report.get("warnings") or [] if isinstance(warning, Mapping)
    ]
    counts = [(raised.count(severity), severity) for severity in ("serious", "warning", "note")]
    names = {"serious": "serious", "warning": "to heed", "note": "to note"}
    counts_text = ", ".join(f"{count} {names[severity]}" for count, severity in counts if count)
    if not counts_text:
        return None
    return element("p", "Warnings: ", element("a", counts_text, href="#warnings"), class_="warned")


def _no_verdict(report: Mapping[str, Any]) -> Html:
    return element(
        "div",
        element("p", element("span", "No verdict yet", class_="outcome"), class_="outcome-line"),
        element(
            "p",
            "Nothing here compares the policy with a reference, so nothing is claimed. ",
            element("code", "logratio evaluate"),
            " does that on held-out prompts.",
            class_="sentence",
        ),
        _warned(report),
        class_="verdict open",
    )


def _win_rate(win_rate: Mapping[str, Any]) -> Html:
    value, low, high = (win_rate.get(key) for key in ("value", "low", "high"))
    if not (is_number(value) and is_number(low) and is_number(high)):
        return join([])
    headline = element(
        "p",
        element("strong", percent(value)),
        element(
            "span", prose(f" win rate against the reference, 95 % interval {percent_interval(low, high)}")
        ),
        class_="headline",
    )
    scale = element(
        "p",
        element("span", "0 %"),
        element("span", "50 %: no difference"),
        element("span", "100 %"),
        class_="scale",
        aria_hidden="true",
    )
    return join([headline, interval_bar(value, low, high, name="Win rate"), scale, _shares(win_rate)])


def _shares(win_rate: Mapping[str, Any]) -> Html | None:
    counts = [win_rate.get(key) for key in ("wins", "ties", "losses")]
    if not all(is_number(count) for count in counts):
        return None
    names = [("wins", "good"), ("ties", "even"), ("losses", "bad")]
    parts = [(name, float(count or 0), style) for (name, style), count in zip(names, counts, strict=True)]
    keys = [
        element("span", element("i", class_=f"key {style}"), f"{number(int(n))} {name}")
        for name, n, style in parts
    ]
    return join([share_bar(parts, name="Prompts"), element("p", *keys, class_="legend")])


def _facts(
    report: Mapping[str, Any], verdict: Mapping[str, Any], win_rate: Mapping[str, Any]
) -> list[tuple[object, object]]:
    facts: list[tuple[object, object]] = []
    if "ppo" in stage_names(report):
        facts.append(("The policy", "DPO; PPO has been judged beside it"))
    if verdict.get("judge"):
        facts.append(("Judged by", verdict["judge"]))
    if is_number(win_rate.get("n")):
        facts.append(("Held-out prompts", number(win_rate["n"])))
    controlled = report.get("length_controlled_win_rate")
    if isinstance(controlled, Mapping):
        interval = percent_interval(controlled.get("low"), controlled.get("high"))
        facts.append(("With length held equal", f"{percent(controlled.get('value'))} ({interval})"))
    if win_rate.get("method"):
        facts.append(("Method of the interval", METHODS.get(win_rate["method"], win_rate["method"])))
    return facts
