"""Training curves, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from logratio.report.charts.lines import Level, Series, line_chart
from logratio.report.control_runs import is_control
from logratio.report.formatting import is_number, number
from logratio.report.html import Html, element, join
from logratio.report.sections.section import Section, figure

SMOOTH_SHARE = 1 / 12
CHANCE = Level(value=0.5, label="chance")
ZERO = Level(value=0.0, label="the reference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart of a stage: which metrics it draws, against what, and how to read it."""

    title: str
    metrics: tuple[tuple[str, str, str], ...]
    """Metric, name in the legend, colour class."""
    note: str = ""
    levels: tuple[Level, ...] = ()
    smooth: bool = True


LOSS = (("loss", "loss", "a"),)
COMMON = (
    Panel(title="Gradient norm", metrics=(("gradient_norm", "norm", "c"),), note="Before clipping."),
    Panel(title="Learning rate", metrics=(("learning_rate", "rate", "c"),), smooth=False),
)
ACCURACY = Panel(
    title="Accuracy",
    metrics=(("accuracy", "accuracy", "a"),),
    note="Share of each batch's pairs that are ranked as labelled.",
    levels=(CHANCE,),
)
POLICY_GRADIENT = (
    Panel(
        title="Policy loss",
        metrics=(("policy_loss", "loss", "a"),),
        note="The gradient is what counts: this number need not fall, and near 0 says nothing.",
    ),
    Panel(
        title="Critic's loss",
        metrics=(("value_loss", "loss", "b"),),
        note="Half the squared distance from its guess to what followed.",
    ),
    Panel(
        title="Optimiser steps per update",
        metrics=(("optimiser_steps", "steps", "c"),),
        note="Fewer where the update KL passed its limit.",
        smooth=False,
    ),
    *COMMON,
)
"""What the optimiser did; what became of the answers is in the section on what was learned."""
PANELS: dict[str, tuple[Panel, ...]] = {
    "sft": (
        Panel(title="Loss", metrics=LOSS, note="Negative log-likelihood, nats per answer token."),
        *COMMON,
    ),
    "dpo": (
        Panel(title="Loss", metrics=LOSS, note="Below the line, chosen beats rejected on average."),
        Panel(
            title="Implicit rewards",
            metrics=(("chosen_reward", "chosen", "good"), ("rejected_reward", "rejected", "bad")),
            note="β · log-ratio to the reference. Both may fall; the gap between them is what is trained.",
            levels=(ZERO,),
        ),
        Panel(
            title="Margin",
            metrics=(("margin", "margin", "a"),),
            note="Implicit reward of chosen minus rejected.",
            levels=(Level(value=0.0, label="no margin"),),
        ),
        ACCURACY,
        Panel(
            title="Gradient weight",
            metrics=(("gradient_weight", "σ(−βh)", "b"),),
            note="How strongly a pair still moves the weights: 0.5 at the start, near 0 when "
            "nothing is left.",
        ),
        *COMMON,
    ),
    "reward": (
        Panel(
            title="Loss",
            metrics=LOSS,
            note="Negative log-likelihood of the labels; ln 2 is a guess.",
            levels=(Level(value=math.log(2.0), label="ln 2"),),
        ),
        ACCURACY,
        Panel(
            title="Scores",
            metrics=(("chosen_reward", "chosen", "good"), ("rejected_reward", "rejected", "bad")),
            note="Only the gap between them means something; without --centring zero lies anywhere.",
        ),
        Panel(
            title="Margin",
            metrics=(("margin", "margin", "a"),),
            note="Score of chosen minus rejected.",
            levels=(Level(value=0.0, label="no margin"),),
        ),
        *COMMON,
    ),
    "reinforce": POLICY_GRADIENT,
    "ppo": POLICY_GRADIENT,
}
STAGE_TITLES = {
    "sft": "Supervised fine-tuning",
    "dpo": "Direct preference optimisation",
    "reward": "Reward model",
    "reinforce": "Policy gradient (REINFORCE)",
    "ppo": "Proximal policy optimisation (PPO)",
}


def curves_section(report: Mapping[str, Any]) -> Section | None:
    """Every stage's curves; what drives an environment has a section of its own."""
    if is_control(report):
        return None
    training = report.get("training") or {}
    blocks = [
        _stage(name, stage)
        for name, stage in training.items()
        if isinstance(stage, Mapping) and stage.get("curves")
    ]
    if not blocks:
        return None
    return Section(
        anchor="curves",
        title="Training curves",
        lede="Measured on training batches: thin each update, thick the mean over its "
        "neighbours. They say how "
        "training went, not how good the policy is.",
        body=join(blocks),
    )


def _stage(name: str, training: Mapping[str, Any]) -> Html:
    curves = training["curves"]
    panels = PANELS.get(name) or _panels_for(curves)
    charts = [draw(panel, training) for panel in panels]
    count = number(training.get("updates") or len(curves.get("step") or []))
    return join(
        [
            element("h3", STAGE_TITLES.get(name, name), " ", element("small", f"{count} updates")),
            element("div", *charts, class_="charts"),
        ]
    )


def _panels_for(curves: Mapping[str, Any]) -> tuple[Panel, ...]:
    """A chart for each metric of a stage that this page has no plan for."""
    return tuple(Panel(title=name, metrics=((name, name, "a"),)) for name in curves if name != "step")


def draw(panel: Panel, training: Mapping[str, Any]) -> Html | None:
    """A panel of a stage's curves; `None` where the stage has logged none of its metrics."""
    series = [
        drawn
        for metric, label, style in panel.metrics
        if (drawn := _series(metric, label, style, training["curves"])) is not None
    ]
    if not series:
        return None
    levels = panel.levels or _start_level(panel, training, series)
    smooth = smoothing(len(series[0].xs)) if panel.smooth else 1
    ends = "; ".join(f"{line.label} from {number(line.ys[0])} to {number(line.ys[-1])}" for line in series)
    chart = line_chart(series, name=f"{panel.title}: {ends}", levels=levels, smooth=smooth)
    legend = [(line.label, line.style) for line in series] if len(series) > 1 else []
    return figure(chart, title=panel.title, note=panel.note, legend=legend)


def _series(metric: str, label: str, style: str, curves: Mapping[str, Any]) -> Series | None:
    values = curves.get(metric) or []
    steps = curves.get("step") or range(1, len(values) + 1)
    points = [(x, y) for x, y in zip(steps, values, strict=False) if is_number(x) and is_number(y)]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return Series(label=label, xs=xs, ys=ys, style=style)


def _start_level(panel: Panel, training: Mapping[str, Any], series: Sequence[Series]) -> tuple[Level, ...]:
    """The loss of a policy that still is its reference: what the invariant of step 0 held it against."""
    if panel.title != "Loss" or "rejected_reward" not in training["curves"]:
        return ()
    invariants = {
        invariant.get("name"): invariant.get("limit") for invariant in training.get("invariants") or []
    }
    start = invariants.get(
        "step_zero_loss", math.log(2.0) if abs(series[0].ys[0] - math.log(2.0)) < 0.01 else None
    )
    if not is_number(start):
        return ()
    is_log_two = abs(start - math.log(2.0)) < 1e-6
    return (Level(value=start, label="ln 2" if is_log_two else "the reference's"),)


def smoothing(num_values: int) -> int:
    """How many neighbours the thick line is a mean of: an odd number, 1 for short curves."""
    return 1 if num_values < 12 else max(3, round(num_values * SMOOTH_SHARE) // 2 * 2 + 1)
