"""What a policy gradient learned: reward, distance from the reference, size of updates, answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from logratio.report.charts import Level
from logratio.report.checks import policy_gradient as checks
from logratio.report.digits import is_number, number, percent
from logratio.report.finding import curve, tail_mean
from logratio.report.markup import Html, element, join
from logratio.report.sections.cells import cell
from logratio.report.sections.curves import Panel, draw
from logratio.report.sections.section import Section, table

LEDE = (
    "Each update the model answers, is rewarded, and makes better answers more probable. Healthy training "
    "raises the reward while the model stays near its reference, moves little at a time and goes on trying "
    "different answers."
)
NAMED = "reward/"
STYLES = ("a", "b", "between", "good", "bad", "c")

Row = tuple[str, str, Callable[[float | None], str], str, str]
ROWS: tuple[Row, ...] = (
    ("reward", "Reward", number, "rising", "RewardFell"),
    ("reward_std", "Spread of rewards", number, "above 0", "RewardConstant"),
    ("reference_kl", "KL to the reference", number, "", "ReferenceKLTooHigh"),
    ("update_kl", "KL of an update", number, "", "UpdateTooLarge"),
    ("clip_fraction", "Clip fraction", percent, "2 to 15 %", "ClipTooActive"),
    ("ratio_deviation", "Ratio deviation", number, "below 1", "RatioFarFromOne"),
    ("effective_share", "Effective share", percent, "above 50 %", "FewEffectiveSamples"),
    ("explained_variance", "Explained variance", percent, "above 30 %", "CriticExplainsNothing"),
    ("entropy", "Entropy", number, "falling slowly", "EntropyLost"),
    ("answer_tokens", "Tokens an answer", number, "much as at first", "AnswerLengthChanged"),
    ("ended", "Ended answers", percent, "above 90 %", "AnswersCutOff"),
)
"""Metric, what it is, how it is written, what is healthy, and the check that watches it."""


def policy_gradient_section(report: Mapping[str, Any]) -> Section | None:
    """The course of every policy-gradient stage: a table from beginning to end, then its curves."""
    training = report.get("training") or {}
    stages = [
        stage
        for stage in checks.STAGES
        if isinstance(training.get(stage), Mapping) and training[stage].get("curves")
    ]
    if not stages:
        return None
    return Section(
        anchor="policy-gradient",
        title="What was learned from reward",
        lede=LEDE,
        body=join(_stage(report, stage, titled=len(stages) > 1) for stage in stages),
    )


def _stage(report: Mapping[str, Any], stage: str, *, titled: bool) -> Html:
    training = report["training"][stage]
    charts = [draw(panel, training) for panel in panels(report, stage)]
    return join(
        [
            element("h3", checks.STAGES[stage]) if titled else None,
            table(
                ["Metric", "First update", "At the end"],
                _rows(report, stage),
                caption=f"{checks.STAGES[stage]} from its beginning to its end",
            ),
            element("h3", "Update by update"),
            element("div", *charts, class_="charts"),
        ]
    )


def _rows(report: Mapping[str, Any], stage: str) -> list[list[object]]:
    raised = {finding.name: finding.raised for finding in checks.findings_of(report, stage)}
    rows: list[list[object]] = []
    for metric, label, write, healthy, check in ROWS:
        values = curve(report, stage, metric)
        if not values or not _means_something(report, stage, metric):
            continue
        last = tail_mean(values)
        told = _target(report, stage, metric) or healthy
        written = write(values[-1] if last is None else last)
        warning = element("a", "see the warning", href="#warnings") if raised.get(check) else None
        end = cell(written, f"healthy: {told}" if told else "", warning)
        rows.append([label, write(values[0]), end])
    return rows


def _means_something(report: Mapping[str, Any], stage: str, metric: str) -> bool:
    """Nothing is said of a critic where there is none, or of a clip that is turned off."""
    if metric == "explained_variance":
        return bool(curve(report, stage, "value_loss"))
    return metric != "clip_fraction" or checks.setting(report, stage, "clip_range") != 0


def _target(report: Mapping[str, Any], stage: str, metric: str) -> str:
    """What the run's own settings ask of a metric."""
    name = {"reference_kl": "target_kl", "update_kl": "target_update_kl"}.get(metric)
    target = checks.setting(report, stage, name) if name else None
    unit = f"nats {'an answer' if metric == 'reference_kl' else 'a token'}"
    if target:
        return f"{'near' if metric == 'reference_kl' else 'up to'} {number(target)} {unit}"
    return f"below {number(checks.KL_WARNING)} {unit}" if metric == "reference_kl" else ""


def panels(report: Mapping[str, Any], stage: str) -> list[Panel]:
    """The charts of a stage; those whose metrics it has not logged are left out when they are drawn."""
    made = [*_rewards(report, stage), *_distances(report, stage), *_answers()]
    return [
        one for one in made if all(_means_something(report, stage, metric) for metric, _, _ in one.metrics)
    ]


def _rewards(report: Mapping[str, Any], stage: str) -> list[Panel]:
    """What is learned from, and its parts where there are several."""
    curves = report["training"][stage]["curves"]
    names = [name for name in curves if name.startswith(NAMED)]
    weights = _weights(report, stage)
    labels = {name: name.removeprefix(NAMED) for name in names}
    whole = Panel(
        title="Reward",
        metrics=(("reward", "reward", "a"),),
        note="Mean over an update's answers, before the charge for the KL. "
        + (f"Given by {labels[names[0]]}." if len(names) == 1 else "The weighted sum of the rewards below."),
    )
    parts = [
        Panel(
            title=labels[name],
            metrics=((name, "reward", STYLES[(place + 1) % len(STYLES)]),),
            note=f"Counts {number(weights.get(labels[name], 1.0))} times in the sum. Where it falls, another "
            "was bought with it.",
        )
        for place, name in enumerate(names)
    ]
    return [whole, *(parts if len(names) > 1 else [])]


def _weights(report: Mapping[str, Any], stage: str) -> dict[str, float]:
    identity = report["training"][stage].get("settings", {}).get("identity") or {}
    rewards: Sequence[Any] = identity.get("rewards") or []
    return {str(one.get("name")): one["weight"] for one in rewards if is_number(one.get("weight"))}


def _distances(report: Mapping[str, Any], stage: str) -> list[Panel]:
    """How far from the reference, and how far at a time."""
    to_reference, of_update = (
        (Level(value=target, label="wanted"),) if (target := checks.setting(report, stage, name)) else ()
        for name in ("target_kl", "target_update_kl")
    )
    steered = (
        "Steered towards the KL that is wanted." if to_reference else "As it was given: nothing steers it."
    )
    return [
        Panel(
            title="KL to the reference",
            metrics=(("reference_kl", "KL", "a"),),
            note="Nats an answer. Each one is paid for; reward that is not worth it is not kept.",
            levels=to_reference,
        ),
        Panel(
            title="KL coefficient",
            metrics=(("kl_coefficient", "coefficient", "c"),),
            note=f"What a nat costs, in units of reward. {steered}",
            smooth=False,
        ),
        Panel(
            title="KL of an update",
            metrics=(("update_kl", "KL", "b"),),
            note="How far the policy moved from the one that answered, nats a token.",
            levels=of_update,
        ),
        Panel(
            title="Clip fraction",
            metrics=(("clip_fraction", "share", "b"),),
            note="Share of tokens that the clip stops. Above the line the steps are too large.",
            levels=(Level(value=checks.CLIP_WARNING, label="too many"),),
        ),
        Panel(
            title="Ratio deviation",
            metrics=(("ratio_deviation", "|ratio − 1|", "b"),),
            note="Largest change of a token's probability in the update: 0 is none, 1 is doubled.",
        ),
        Panel(
            title="Effective share",
            metrics=(("effective_share", "share", "b"),),
            note="What importance weights leave of an update's tokens; 1 where the policy has not moved.",
        ),
    ]


def _answers() -> list[Panel]:
    """What the critic foresees, and how the answers look."""
    return [
        Panel(
            title="Explained variance",
            metrics=(("explained_variance", "share", "between"),),
            note="Of the returns, by the critic: 1 foresees each, 0 knows no more than their mean.",
            levels=(Level(value=0.0, label="the mean"),),
        ),
        Panel(
            title="Entropy",
            metrics=(("entropy", "entropy", "between"),),
            note="Nats a token. Near 0 the policy says one thing only, and learns nothing new.",
        ),
        Panel(
            title="Tokens an answer",
            metrics=(("answer_tokens", "tokens", "c"),),
            note="Reward that comes with length alone shows here.",
        ),
        Panel(
            title="Ended by themselves",
            metrics=(("ended", "share", "c"),),
            note="The rest are cut off at the token limit.",
            levels=(Level(value=checks.ENDED_WARNING, label="too few"),),
        ),
    ]
