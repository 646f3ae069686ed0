"""How good the reward model is on comparisons it has not seen, and whether it can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.charts.lines import Level, Series, line_chart
from logratio.report.formatting import fixed, is_number, number, percent
from logratio.report.html import Html, element, join
from logratio.report.sections.cells import rate_cell
from logratio.report.sections.section import Section, definitions, details, figure, table

LEDE = (
    "On pairs kept out of training: how often the model gives the preferred answer the higher score. A rule "
    "as simple as “the longer wins” is the least to beat; labels that contradict each other set the most "
    "there is to gain."
)


def reward_section(report: Mapping[str, Any]) -> Section | None:
    """Accuracy beside its baselines, calibration, accuracy by difference of length."""
    evaluation = report.get("reward_model")
    if not isinstance(evaluation, Mapping) or not isinstance(evaluation.get("accuracy"), Mapping):
        return None
    sure, longer = (_bins(evaluation, key) for key in ("calibration", "by_length"))
    charts = [*_calibration(evaluation, sure), *_lengths(longer)]
    body = join(
        [
            _accuracy(evaluation),
            element("h3", "How sure it is, and what length explains"),
            element("div", *charts, class_="charts two") if charts else None,
            definitions(_facts(evaluation), class_="facts"),
            *_tables(sure, longer),
        ]
    )
    return Section(anchor="reward-model", title="The reward model", lede=LEDE, body=body)


def _accuracy(evaluation: Mapping[str, Any]) -> Html:
    agreement = evaluation.get("agreement") or {}
    named = (
        ("Reward model", evaluation["accuracy"], "policy"),
        (*_length_rule(evaluation.get("longer_wins")), "reference"),
        ("The reward that the labels were drawn from", evaluation.get("judge_accuracy"), "between"),
        (f"Two labels of one pair agree ({number(agreement.get('n'))} pairs)", agreement, "between"),
    )
    rows = [[label, rate_cell(share, style=style)] for label, share, style in named if share]
    return table(["Who", "Ranked as labelled"], rows, caption="Accuracy on held-out pairs", class_="stages")


def _length_rule(longer: Any) -> tuple[str, Any]:
    """The rule of length that does better: where people like short answers, that is the one to beat."""
    if not isinstance(longer, Mapping) or not is_number(longer.get("value")) or longer["value"] >= 0.5:
        return "The longer answer wins", longer
    mirrored = {"value": 1 - longer["value"], "low": 1 - longer["high"], "high": 1 - longer["low"]}
    return "The shorter answer wins", mirrored


def _calibration(evaluation: Mapping[str, Any], bins: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Confidence against accuracy, on the line of a model that is right as often as it says."""
    if not bins:
        return []
    xs, ys = _points(bins)
    observed = Series(label="this model", xs=xs, ys=ys, style="a")
    perfect = Series(label="right as often as it says", xs=(0.5, 1.0), ys=(0.5, 1.0), style="c")
    points_text = "; ".join(
        f"says {percent(x, 0)}, is right {percent(y, 0)}" for x, y in zip(xs, ys, strict=True)
    )
    chart = line_chart(
        [perfect, observed], name=f"Calibration: {points_text}", x_label="how sure the model is"
    )
    error, chance = evaluation.get("calibration_error"), evaluation.get("calibration_error_by_chance")
    note = (
        "Upwards, how often it is right. Below the straight line it is surer than it may be. Mean distance "
        f"{fixed(error, 3)}; noise alone makes about {fixed(chance, 3)} on so few pairs."
    )
    legend = [("this model", "a"), ("right as often as it says", "c")]
    return [figure(chart, title="Calibration", note=note, legend=legend)]


def _lengths(bins: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Accuracy where the preferred answer is shorter and where it is longer."""
    if len(bins) < 2:
        return []
    xs, ys = _points(bins)
    points_text = "; ".join(f"{_signed(x)} tokens {percent(y, 0)}" for x, y in zip(xs, ys, strict=True))
    chart = line_chart(
        [Series(label="ranked as labelled", xs=xs, ys=ys, style="a")],
        name=f"Accuracy by how much longer the preferred answer is: {points_text}",
        x_label="the preferred answer is longer by, tokens",
        levels=[Level(value=0.5, label="chance")],
    )
    note = (
        "How often it is right, from pairs won by the shorter answer to pairs won by the longer. A model "
        "that has learned length alone is right at one end and wrong at the other."
    )
    return [figure(chart, title="By difference of length", note=note)]


def _points(bins: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [bucket["mean"] for bucket in bins], [bucket["accuracy"]["value"] for bucket in bins]


def _tables(sure: Sequence[Mapping[str, Any]], longer: Sequence[Mapping[str, Any]]) -> list[Html]:
    """The numbers that the two charts draw, with their intervals."""
    drawn = (
        ("How sure it is", sure, lambda value: percent(value, 0)),
        ("The preferred answer is longer by, in tokens", longer, _signed),
    )
    return [
        details(
            heading,
            table(
                ["From", "To", "Pairs", "Ranked as labelled"],
                [
                    [
                        write(bucket["low"]),
                        write(bucket["high"]),
                        number(bucket["accuracy"].get("n")),
                        _rate(bucket),
                    ]
                    for bucket in bins
                ],
                caption=heading,
                class_="small",
            ),
        )
        for heading, bins, write in drawn
        if bins
    ]


def _rate(bucket: Mapping[str, Any]) -> Html:
    return rate_cell(bucket["accuracy"], style="policy")


def _bins(evaluation: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [
        bucket
        for bucket in evaluation.get(key) or []
        if is_number(bucket.get("mean")) and is_number((bucket.get("accuracy") or {}).get("value"))
    ]


def _facts(evaluation: Mapping[str, Any]) -> list[tuple[object, object]]:
    facts: list[tuple[object, object]] = [
        ("Held-out pairs", number(evaluation["accuracy"].get("n"))),
        ("Prompts", number(evaluation.get("num_prompts"))),
        ("Loss, nats (0.693 is a guess)", fixed(evaluation.get("loss"), 3)),
        ("Mean score, preferred", fixed(evaluation.get("chosen_reward"), 3)),
        ("Mean score, others", fixed(evaluation.get("rejected_reward"), 3)),
        ("Correlation of score and length", fixed(evaluation.get("length_correlation"), 2)),
    ]
    if evaluation.get("num_ties"):
        facts.append(("Ties, not counted in accuracy", number(evaluation["num_ties"])))
    if is_number(evaluation.get("ceiling")):
        facts.append(("Most that labels so noisy allow", percent(evaluation["ceiling"])))
    return facts


def _signed(value: float) -> str:
    return f"+{number(round(value))}" if value > 0 else number(round(value))
