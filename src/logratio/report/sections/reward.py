"""How good the reward model is on comparisons it has not seen, and whether it can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.charts import Level, Series, line_chart
from logratio.report.digits import fixed, is_number, number, percent
from logratio.report.markup import Html, element, join
from logratio.report.sections.cells import rate_cell
from logratio.report.sections.section import Section, definitions, details, figure, table

LEDE = (
    "On pairs kept out of training: how often the model gives the preferred answer the higher score. A rule "
    "as simple as “the longer wins” is the least to beat; labels that contradict each other set the most "
    "there is to gain."
)


def reward_section(report: Mapping[str, Any]) -> Section | None:
    """Accuracy beside its baselines, calibration, accuracy by difference of length."""
    found = report.get("reward_model")
    if not isinstance(found, Mapping) or not isinstance(found.get("accuracy"), Mapping):
        return None
    sure, longer = (_bins(found, key) for key in ("calibration", "by_length"))
    charts = [*_calibration(found, sure), *_lengths(longer)]
    body = join(
        [
            _accuracy(found),
            element("h3", "How sure it is, and what length explains"),
            element("div", *charts, class_="charts two") if charts else None,
            definitions(_facts(found), class_="facts"),
            *_tables(sure, longer),
        ]
    )
    return Section(anchor="reward-model", title="The reward model", lede=LEDE, body=body)


def _accuracy(found: Mapping[str, Any]) -> Html:
    agreement = found.get("agreement") or {}
    named = (
        ("Reward model", found["accuracy"], "policy"),
        (*_length_rule(found.get("longer_wins")), "reference"),
        ("The reward that the labels were drawn from", found.get("judge_accuracy"), "between"),
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


def _calibration(found: Mapping[str, Any], bins: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Confidence against accuracy, on the line of a model that is right as often as it says."""
    if not bins:
        return []
    xs, ys = _points(bins)
    observed = Series(label="this model", xs=xs, ys=ys, style="a")
    perfect = Series(label="right as often as it says", xs=(0.5, 1.0), ys=(0.5, 1.0), style="c")
    told = "; ".join(f"says {percent(x, 0)}, is right {percent(y, 0)}" for x, y in zip(xs, ys, strict=True))
    chart = line_chart([perfect, observed], name=f"Calibration: {told}", x_label="how sure the model is")
    error, chance = found.get("calibration_error"), found.get("calibration_error_by_chance")
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
    told = "; ".join(f"{_signed(x)} tokens {percent(y, 0)}" for x, y in zip(xs, ys, strict=True))
    chart = line_chart(
        [Series(label="ranked as labelled", xs=xs, ys=ys, style="a")],
        name=f"Accuracy by how much longer the preferred answer is: {told}",
        x_label="the preferred answer is longer by, tokens",
        levels=[Level(value=0.5, label="chance")],
    )
    note = (
        "How often it is right, from pairs won by the shorter answer to pairs won by the longer. A model "
        "that has learned length alone is right at one end and wrong at the other."
    )
    return [figure(chart, title="By difference of length", note=note)]


def _points(bins: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [one["mean"] for one in bins], [one["accuracy"]["value"] for one in bins]


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
                    [write(one["low"]), write(one["high"]), number(one["accuracy"].get("n")), _rate(one)]
                    for one in bins
                ],
                caption=heading,
                class_="small",
            ),
        )
        for heading, bins, write in drawn
        if bins
    ]


def _rate(one: Mapping[str, Any]) -> Html:
    return rate_cell(one["accuracy"], style="policy")


def _bins(found: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [
        one
        for one in found.get(key) or []
        if is_number(one.get("mean")) and is_number((one.get("accuracy") or {}).get("value"))
    ]


def _facts(found: Mapping[str, Any]) -> list[tuple[object, object]]:
    facts: list[tuple[object, object]] = [
        ("Held-out pairs", number(found["accuracy"].get("n"))),
        ("Prompts", number(found.get("num_prompts"))),
        ("Loss, nats (0.693 is a guess)", fixed(found.get("loss"), 3)),
        ("Mean score, preferred", fixed(found.get("chosen_reward"), 3)),
        ("Mean score, others", fixed(found.get("rejected_reward"), 3)),
        ("Correlation of score and length", fixed(found.get("length_correlation"), 2)),
    ]
    if found.get("num_ties"):
        facts.append(("Ties, not counted in accuracy", number(found["num_ties"])))
    if is_number(found.get("ceiling")):
        facts.append(("Most that labels so noisy allow", percent(found["ceiling"])))
    return facts


def _signed(value: float) -> str:
    return f"+{number(round(value))}" if value > 0 else number(round(value))
