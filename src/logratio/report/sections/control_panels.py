"""The charts of training in an environment: which metrics there are, in what units, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.report.charts.lines import Level
from logratio.report.formatting import number
from logratio.report.sections.curves import Panel
from logratio.report.warnings.metric_series import setting, setting_text
from logratio.report.warnings.policy_gradient import CLIP_WARNING


def panel_groups(report: Mapping[str, Any], stage: str) -> dict[str, list[Panel]]:
    """The charts of a run by what they are of; those of metrics that were not logged are not drawn.

    Args:
        report: of one run, by whose settings limits are drawn.
        stage: the run's name in it.
    """
    return {
        "Episodes, exploration, critic": _course(),
        "Size of the updates": _sizes(report, stage),
        "Losses and speed": _losses(),
    }


def _course() -> list[Panel]:
    return [
        Panel(
            title="Length of an episode",
            metrics=(("episode_length", "steps", "c"),),
            note="Steps, mean of the last 100 episodes. It rises with the return where every step is "
            "rewarded, and falls where a goal ends the episode.",
            smooth=False,
        ),
        Panel(
            title="Entropy",
            metrics=(("entropy", "entropy", "between"),),
            note="How undecided the policy is, in nats per action. It should fall slowly: where it is gone "
            "before the return has risen, nothing new is tried. Below 0 only where actions are numbers.",
        ),
        Panel(
            title="Explained variance",
            metrics=(("explained_variance", "share", "between"),),
            note="Of the returns, by the critic: 1 foresees each, 0 knows no more than their mean, below 0 "
            "it misleads.",
            levels=(Level(value=0.0, label="the mean"),),
        ),
        Panel(
            title="Gradient signal",
            metrics=(("gradient_signal", "‖E g‖² / tr Var(g)", "between"),),
            note="Signal over noise of an update's gradient, estimated: below 0 by chance. More steps an "
            "update raise it.",
            levels=(Level(value=0.0, label="noise alone"),),
        ),
    ]


def _sizes(report: Mapping[str, Any], stage: str) -> list[Panel]:
    target = setting(report, stage, "target_update_kl")
    clipped = setting(report, stage, "clip_range")
    return [
        Panel(
            title="KL of an update",
            metrics=(("update_kl", "KL", "b"),),
            note="How far the policy moved from the one that acted, in nats per action. Far above the line "
            "the advantages no longer hold; near 0 the steps are wasted.",
            levels=(Level(value=target, label="target"),) if target else (),
        ),
        *([_clip(clipped)] if clipped else []),
        Panel(
            title="Ratio deviation",
            metrics=(("ratio_deviation", "|ratio − 1|", "b"),),
            note="Largest change of an action's probability in the update: 0 is none, 1 is doubled.",
        ),
        Panel(
            title="Effective share",
            metrics=(("effective_share", "share", "b"),),
            note="What the ratios to the policy that acted leave of an update's steps: 1 where it has not "
            "moved.",
        ),
        _gradient_norm(setting(report, stage, "max_gradient_norm")),
        _learning_rate(setting(report, stage, "learning_rate"), setting_text(report, stage, "schedule")),
        Panel(
            title="KL penalty",
            metrics=(("kl_penalty", "coefficient", "c"),),
            note="What a nat of KL costs. It is doubled where an update went too far, and halved where it "
            "might have gone further.",
            smooth=False,
        ),
        Panel(
            title="Optimiser steps per update",
            metrics=(("optimiser_steps", "steps", "c"),),
            note="Fewer than planned where the update KL passed its limit (--early-stop-factor).",
            smooth=False,
        ),
    ]


def _clip(clip_range: float) -> Panel:
    return Panel(
        title="Clip fraction",
        metrics=(("clip_fraction", "share", "b"),),
        note=f"Share of the actions whose gradient the clip (ratio within 1 ± {number(clip_range)}) stops. "
        "Above the line the steps are too large; always 0, they are small.",
        levels=(Level(value=CLIP_WARNING, label="too many"),),
    )


def _gradient_norm(limit: float | None) -> Panel:
    note = f"Before it is cut to {number(limit)}: much above that, it is the cut that sets the step."
    return Panel(
        title="Gradient norm",
        metrics=(("gradient_norm", "norm", "b"),),
        note=note if limit else "It is not cut.",
        levels=(Level(value=limit, label="cut to"),) if limit else (),
    )


def _learning_rate(peak: float | None, schedule: str) -> Panel:
    course = {"constant": "it stays there", "linear": "it falls to 0 in a line", "cosine": "it falls to 0"}
    return Panel(
        title="Learning rate",
        metrics=(("learning_rate", "rate", "c"),),
        note=f"As planned: {number(peak)} at most, then {course[schedule]}." if schedule in course else "",
        smooth=False,
    )


def _losses() -> list[Panel]:
    return [
        Panel(
            title="Policy loss",
            metrics=(("policy_loss", "loss", "a"),),
            note="Its gradient is what counts: this number need not fall, and near 0 says nothing.",
        ),
        Panel(
            title="Critic's loss",
            metrics=(("value_loss", "loss", "b"),),
            note="Half the squared distance from its guess to what followed, in squared units of the reward. "
            "It grows with the return: the explained variance says whether that matters.",
        ),
        Panel(
            title="Speed",
            metrics=(("tokens_per_second", "steps per second", "c"),),
            note="Environment steps per second, training included.",
        ),
    ]
