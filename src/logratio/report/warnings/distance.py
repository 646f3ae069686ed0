"""Checks of how far a policy gradient goes from its reference, of its price, and of its measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from logratio.report.formatting import is_number, number
from logratio.report.warnings.metric_series import STAGES, setting, stretch_length, stretches
from logratio.report.warnings.warning import MIN_TAIL, ReportWarning, curve, mean_at_end, measured

KL_FACTOR, KL_WARNING, KL_SERIOUS = 2.0, 30.0, 50.0
DRIFT = 10.0
ESTIMATE_ERRORS, ESTIMATE_SHARE, NEGATIVE_ERRORS = 4.0, 0.1, 3.0
"""Standard errors, and share of the KL, by which its two estimates may differ; standard errors below 0."""
NORMAL_MEDIAN = 1.4826
"""A normal distribution's deviation over the median distance from its middle."""


def reference_kl_high(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The policy is further from its reference than wanted."""
    kl = mean_at_end(report, stage, "reference_kl")
    if kl is None:
        return None
    target = setting(report, stage, "target_kl")
    limit = KL_FACTOR * target if target else KL_WARNING
    limit_text = f"{KL_FACTOR:g} times the target of {number(target)}" if target else f"{number(limit)}"
    return ReportWarning(
        name="ReferenceKLTooHigh",
        severity="serious" if kl > KL_SERIOUS else "warning",
        raised=kl > limit,
        value=kl,
        threshold=f"KL to the reference above {limit_text} nats per answer (serious above {KL_SERIOUS:g})",
        what=f"At the end of {STAGES[stage]} the KL to the reference is {number(kl)} nats per answer.",
        meaning="This far away a policy usually exploits its reward rather than improving.",
        action="Raise --kl-coefficient, or where --target-kl steers it lower --kl-horizon, so that it "
        "follows faster; lower --learning-rate; read the answers.",
    )


def kl_coefficient_drifted(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The controller of β has gone far from where it began."""
    values, target = curve(report, stage, "kl_coefficient"), setting(report, stage, "target_kl")
    last = mean_at_end(report, stage, "kl_coefficient")
    if last is None or not target or not values[0] > 0:
        return None
    ratio = last / values[0]
    up = ratio > 1.0
    return ReportWarning(
        name="KLCoefficientDrifted",
        severity="warning",
        raised=not 1.0 / DRIFT <= ratio <= DRIFT,
        value=ratio,
        threshold=f"more than {DRIFT:g} times as high or as low as at the beginning",
        what=f"In {STAGES[stage]} the KL coefficient went from {number(values[0])} to {number(last)}, to "
        f"hold the KL at {number(target)} nats per answer.",
        meaning="The KL stays above its target: the reward pulls harder than the charge held back at first."
        if up
        else "The KL stays below its target, so that hardly anything is charged for it: the reward does not "
        "carry the policy that far.",
        action=f"Begin with --kl-coefficient {number(last)}, "
        + ("lower --learning-rate, or allow more" if up else "or ask for less")
        + " (--target-kl).",
    )


def kl_estimates_disagree(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The KL by the tokens drawn is not the KL by the whole vocabulary, or is below 0, beyond chance.

    Of N answers the two differ by chance with variance 2·KL/N: where policies are close, the variance of a
    token's log-ratio is twice its KL. Where updates scatter more than that, their own scatter counts.
    """
    exact, drawn = _together(report, stage)
    answers = _answers_an_update(report, stage)
    if len(exact) < MIN_TAIL or not answers:
        return None
    variances = [2.0 * max(kl, 0.0) / answers for kl in exact]
    scatter = _scatter(exact, drawn, variances)
    lengths = [*[stretch_length(len(exact))] * len(stretches(exact)), len(exact)]
    columns = [[*stretches(values), fmean(values)] for values in (exact, drawn, variances)]
    comparisons = [
        (abs(k1 - kl) / error, k1, kl, error)
        for length, kl, k1, variance in zip(lengths, *columns, strict=True)
        if (error := scatter * (variance / length) ** 0.5) > 0
    ]
    errors, k1, kl, error = max(comparisons, default=(0.0, 0.0, 0.0, 1.0))
    return ReportWarning(
        name="KLEstimatesDisagree",
        severity="serious" if k1 < -NEGATIVE_ERRORS * error else "warning",
        raised=errors > ESTIMATE_ERRORS and abs(k1 - kl) > ESTIMATE_SHARE * kl,
        value=k1 - kl,
        threshold=f"the two estimates of the KL are more than {ESTIMATE_ERRORS:g} standard errors apart in a "
        "tenth of the run or over all of it (serious where the one from the tokens drawn is more than "
        f"{NEGATIVE_ERRORS:g} below 0)",
        what=f"Where they differ most, the tokens drawn in {STAGES[stage]} say that the KL to the reference "
        f"is {number(k1)} nats per answer, the whole vocabulary that it is {number(kl)}.",
        meaning="Both measure one divergence on the same answers. Where more than chance is between them, "
        "answers are drawn from another distribution than the one that is trained, as at another temperature "
        "or from a part of the vocabulary; a KL below 0 usually comes before training that fails.",
        action="Believe neither this KL nor what was learned under it. Draw answers at temperature 1 from "
        "the whole vocabulary; where they were, this is a bug in logratio: report it.",
    )


def _together(report: Mapping[str, Any], stage: str) -> tuple[list[float], list[float]]:
    """The exact KL and the one from the tokens drawn, of the updates that have both."""
    curves = ((report.get("training") or {}).get(stage) or {}).get("curves") or {}
    columns = [curves.get(name) or [] for name in ("reference_kl", "reference_log_ratio")]
    pairs = [(kl, k1) for kl, k1 in zip(*columns, strict=False) if is_number(kl) and is_number(k1)]
    return [kl for kl, _ in pairs], [k1 for _, k1 in pairs]


def _scatter(exact: Sequence[float], drawn: Sequence[float], variances: Sequence[float]) -> float:
    """How many times as far as their variances say the updates scatter about their middle; 1 at least.

    By the median, so that a stretch in which something is wrong is not taken for scatter.
    """
    scores = [
        (k1 - kl) / variance**0.5
        for kl, k1, variance in zip(exact, drawn, variances, strict=True)
        if variance > 0
    ]
    if not scores:
        return 1.0
    middle = median(scores)
    return max(1.0, NORMAL_MEDIAN * median(abs(score - middle) for score in scores))


def _answers_an_update(report: Mapping[str, Any], stage: str) -> float:
    """Answers that an update's KL is the mean of; 0 where it is not known."""
    prompts = setting(report, stage, "batch_size") or 0.0
    there_are = measured(report, "training", stage, "examples") or prompts
    return min(prompts, there_are) * (setting(report, stage, "num_samples") or 0.0)
