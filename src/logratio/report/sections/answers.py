"""Answers side by side: prompt, every stage's answer, reward and KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.formatting import fixed, number
from logratio.report.html import Html, element, foreign_text, join
from logratio.report.samples import Answer, AnswerRow, AnswerSet, answer_sets
from logratio.report.sections.section import Section, details
from logratio.report.stages import stage_label, stage_names, stage_style


def answers_section(report: Mapping[str, Any]) -> Section | None:
    """The sets of answers, each behind its own heading."""
    order = stage_names(report)
    sets = answer_sets(report, order)
    if not sets:
        return None
    return Section(
        anchor="answers",
        title="Answers side by side",
        lede="Read some: numbers do not show what a judge overlooks. Characters that do not "
        "show themselves, such "
        "as those that turn the reading direction, are written out.",
        body=element(
            "div",
            *(_set(answers, order, is_open=index == 0) for index, answers in enumerate(sets)),
            class_="sets",
        ),
    )


def _set(answers: AnswerSet, stages: Sequence[str], *, is_open: bool) -> Html:
    shown = len(answers.rows)
    count = f"{shown} of {answers.num_all}" if shown < answers.num_all else str(shown)
    heading = join([element("strong", answers.title), " ", element("span", count, class_="count")])
    rows = [_row(row, stages) for row in answers.rows]
    meaning = answers.meaning + (" All are in report.json." if shown < answers.num_all else "")
    return details(heading, element("p", meaning, class_="lede") if meaning else None, *rows, is_open=is_open)


def _row(row: AnswerRow, stages: Sequence[str]) -> Html:
    prompt = element("div", element("h4", "Prompt"), _text(row.prompt), class_="prompt")
    answers = element("div", *(_answer(answer, stages) for answer in row.answers), class_="side-by-side")
    return element("article", prompt, answers, class_="row")


def _answer(answer: Answer, stages: Sequence[str]) -> Html:
    label, facts = stage_label(answer.name, stages), []
    if answer.reward is not None:
        facts.append(f"reward {fixed(answer.reward, 3)}")
    if answer.kl is not None:
        facts.append(f"KL {fixed(answer.kl, 2)}")
    if answer.length is not None:
        facts.append(f"{number(answer.length)} tokens")
    if answer.finish_reason == "length":
        facts.append("cut off")
    return element(
        "div",
        element("h4", element("i", class_=f"key {stage_style(answer.name)}"), label),
        _text(answer.text) if answer.text.strip() else element("p", "(nothing)", class_="text empty"),
        element("p", join(facts, " · "), class_="numbers") if facts else None,
        class_="answer",
    )


def _text(text: str) -> Html:
    return element("p", foreign_text(text), class_="text", dir="auto")
