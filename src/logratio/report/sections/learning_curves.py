"""The charts of a policy gradient: which curves are drawn together, against what, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.report.charts.lines import Level
from logratio.report.formatting import is_number, number
from logratio.report.sections.curves import Panel
from logratio.report.warnings.answers import ENDED_WARNING
from logratio.report.warnings.metric_series import MONITORED, monitored_names, setting
from logratio.report.warnings.policy_gradient import CLIP_WARNING, REPETITION_WARNING
from logratio.report.warnings.warning import curve

NAMED = "reward/"
STYLES = ("a", "b", "between", "good", "bad", "c")
UNMOVED = 1e-4
"""A ratio this near to 1 is 1 up to rounding."""
LEFT_BEHIND = "Where what is monitored stays behind, the reward is exploited."
SHARE_OF_AXIS = 0.15
"""Two rewards share an axis where each moves over this much of it; in other units they stand side by side."""


def panel_groups(report: Mapping[str, Any], stage: str) -> dict[str, list[Panel]]:
    """The charts of a stage by what they are of; those of metrics that were not logged are not drawn."""
    groups = {
        "Reward": _rewards(report, stage),
        "What an update can learn": _signal(),
        "Distance from the reference": _distances(report, stage),
        "Size of the updates": _sizes(report, stage),
        "Answers": _answers(),
    }
    return {
        name: [
            panel
            for panel in panels
            if all(means_something(report, stage, metric) for metric, _, _ in panel.metrics)
        ]
        for name, panels in groups.items()
    }


def means_something(report: Mapping[str, Any], stage: str, metric: str) -> bool:
    """Nothing is said of what is turned off, is not there, or is another curve once more."""
    values = curve(report, stage, metric)
    match metric:
        case "explained_variance":
            return bool(curve(report, stage, "value_loss"))
        case "clip_fraction":
            return setting(report, stage, "clip_range") != 0
        case "objective":
            return values != curve(report, stage, "reward")
        case "constant_groups":
            return any(values)
        case "ratio_deviation" | "effective_share":
            # With one step an update the policy does not leave the one that answered.
            return max(curve(report, stage, "ratio_deviation"), default=1.0) > UNMOVED
    return True


def _rewards(report: Mapping[str, Any], stage: str) -> list[Panel]:
    """What is learned from, with what is monitored; the objective; the parts where there are several."""
    curves = report["training"][stage]["curves"]
    names = [name for name in curves if name.startswith(NAMED)]
    monitored = monitored_names(report, stage)
    together = [name for name in monitored if share_an_axis(curves, "reward", name)]
    beside = [name for name in monitored if name not in together]
    return [
        _whole(names, together),
        *(_monitored_alone(name) for name in beside),
        Panel(
            title="Objective",
            metrics=(("objective", "objective", "a"),),
            note="The reward less β times the KL to the reference: what is really made large.",
        ),
        *(_parts(names, _weights(report, stage)) if len(names) > 1 else []),
    ]


def _whole(names: Sequence[str], monitored: Sequence[str]) -> Panel:
    """The reward that is learned from, and in the same units what is only monitored."""
    note = "Mean of the answers, before the charge for the KL."
    if len(names) == 1:
        note += f" Given by {names[0].removeprefix(NAMED)}."
    elif names:
        note += " The weighted sum of the rewards below."
    if not monitored:
        return Panel(title="Reward", metrics=(("reward", "reward", "a"),), note=note)
    lines = [
        (name, f"monitored: {name.removeprefix(MONITORED)}", STYLES[1 + index % (len(STYLES) - 1)])
        for index, name in enumerate(monitored)
    ]
    return Panel(
        title="Reward, and what is monitored",
        metrics=(("reward", "learned from", "a"), *lines),
        note=f"{note} {LEFT_BEHIND}",
    )


def _monitored_alone(name: str) -> Panel:
    """A reward that is only monitored, in units of its own."""
    return Panel(
        title=f"Monitored: {name.removeprefix(MONITORED)}",
        metrics=((name, "monitored", STYLES[1]),),
        note=LEFT_BEHIND,
    )


def _parts(names: Sequence[str], weights: Mapping[str, float]) -> list[Panel]:
    """The rewards of which a weighted sum is learned from."""
    labels = [name.removeprefix(NAMED) for name in names]
    return [
        Panel(
            title=label,
            metrics=((name, "reward", STYLES[(index + 1) % len(STYLES)]),),
            note=f"Counts {number(weights.get(label, 1.0))} times in the sum. Where it falls, another was "
            "bought with it.",
        )
        for index, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


def share_an_axis(curves: Mapping[str, Sequence[Any]], first: str, second: str) -> bool:
    """Whether two metrics can be read on one axis: drawn together, neither is pressed flat."""
    columns = [[value for value in curves.get(name) or [] if is_number(value)] for name in (first, second)]
    if not all(columns):
        return False
    whole = max(map(max, columns)) - min(map(min, columns))
    return whole == 0 or min(max(column) - min(column) for column in columns) / whole >= SHARE_OF_AXIS


def _weights(report: Mapping[str, Any], stage: str) -> dict[str, float]:
    identity = report["training"][stage].get("settings", {}).get("identity") or {}
    rewards: Sequence[Any] = identity.get("rewards") or []
    return {
        str(reward.get("name")): reward["weight"] for reward in rewards if is_number(reward.get("weight"))
    }


def _signal() -> list[Panel]:
    """What there is to learn from, and how noisy it is."""
    return [
        Panel(
            title="Prompts without spread",
            metrics=(("constant_groups", "share", "c"),),
            note="Share of prompts whose answers all earn the same: nothing is learned from them.",
        ),
        Panel(
            title="Gradient signal",
            metrics=(("gradient_signal", "‖E g‖² / tr Var(g)", "between"),),
            note="Signal over noise of an update's gradient, estimated: below 0 by chance. More answers an "
            "update raise it.",
            levels=(Level(value=0.0, label="noise alone"),),
        ),
        Panel(
            title="Explained variance",
            metrics=(("explained_variance", "share", "between"),),
            note="Of the returns, by the critic: 1 foresees each, 0 knows no more than their mean.",
            levels=(Level(value=0.0, label="the mean"),),
        ),
    ]


def _distances(report: Mapping[str, Any], stage: str) -> list[Panel]:
    """How far from the reference, and what that costs."""
    target = setting(report, stage, "target_kl")
    steered = "Steered towards the KL that is wanted." if target else "As it was given: nothing steers it."
    both = bool(curve(report, stage, "reference_log_ratio"))
    exact = ("reference_kl", "exact" if both else "KL", "a")
    return [
        Panel(
            title="KL to the reference",
            metrics=(("reference_log_ratio", "by the tokens drawn", "c"), exact) if both else (exact,),
            note="Nats per answer. Each one is paid for; reward that is not worth it is not kept."
            + " The two differ by chance alone." * both,
            levels=(Level(value=target, label="wanted"),) if target else (),
        ),
        Panel(
            title="KL coefficient",
            metrics=(("kl_coefficient", "coefficient", "c"),),
            note=f"What a nat costs, in units of reward. {steered}",
            smooth=False,
        ),
        Panel(
            title="Local KL loss",
            metrics=(("local_kl_loss", "loss", "c"),),
            note="Half the squared log-ratio to the reference, a token. Its gradient counts, not its value.",
        ),
    ]


def _sizes(report: Mapping[str, Any], stage: str) -> list[Panel]:
    """How far an update moves the policy."""
    target = setting(report, stage, "target_update_kl")
    return [
        Panel(
            title="KL of an update",
            metrics=(("update_kl", "KL", "b"),),
            note="How far the policy moved from the one that answered, nats per token.",
            levels=(Level(value=target, label="wanted"),) if target else (),
        ),
        Panel(
            title="Clip fraction",
            metrics=(("clip_fraction", "share", "b"),),
            note="Share of tokens that the clip stops. Above the line the steps are too large.",
            levels=(Level(value=CLIP_WARNING, label="too many"),),
        ),
        Panel(
            title="Ratio deviation",
            metrics=(("ratio_deviation", "|ratio − 1|", "b"),),
            note="Largest change of a token's probability in the update: 0 is none, 1 is doubled.",
        ),
        Panel(
            title="Effective share",
            metrics=(("effective_share", "share", "b"),),
            note="What the ratios to the policy that answered leave of an update's tokens: all, where it has "
            "not moved.",
        ),
    ]


def _answers() -> list[Panel]:
    """How the answers look."""
    return [
        Panel(
            title="Entropy",
            metrics=(("entropy", "entropy", "between"),),
            note="Nats per token. Near 0 the policy says one thing only, and learns nothing new.",
        ),
        Panel(
            title="Repetition",
            metrics=(("repetition", "share", "c"),),
            note="Share of an answer's triples of tokens that stood in it before.",
            levels=(Level(value=REPETITION_WARNING, label="too much"),),
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
            levels=(Level(value=ENDED_WARNING, label="too few"),),
        ),
    ]
