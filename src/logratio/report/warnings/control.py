"""Checks of policies that drive environments: is anything learned, does it last, does every seed learn it?

The thresholds are starting points of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from logratio.report.control_runs import alone, run_label, runs_of, stage_of
from logratio.report.formatting import is_number, number, percent
from logratio.report.warnings import policy_gradient, spaces
from logratio.report.warnings.metric_series import ERRORS, STAGES, head_mean, stretches
from logratio.report.warnings.warning import SEVERITIES, ReportWarning, curve, measured, tail_mean

LOST_WARNING, LOST_SERIOUS = 0.3, 0.6
APART = 0.5
ENOUGH_RUNS = 5

Check = Callable[[Mapping[str, Any], str], ReportWarning | None]


def find_warnings(report: Mapping[str, Any]) -> list[ReportWarning]:
    """The results of all checks: of every run, the worst of each kind, then of the runs together."""
    by_check: dict[str, list[tuple[str, ReportWarning]]] = {}
    for name, run in runs_of(report).items():
        for warning in _of_one(alone(report, name), stage_of(run)):
            by_check.setdefault(warning.name, []).append((name, warning))
    together = (check(report) for check in (seeds_disagree, few_runs))
    return [
        *(_worst(findings) for findings in by_check.values()),
        *(warning for warning in together if warning is not None),
    ]


def _of_one(report: Mapping[str, Any], stage: str) -> Iterator[ReportWarning]:
    if stage not in STAGES:
        return
    for check in CHECKS:
        warning = check(report, stage)
        if warning is not None:
            yield warning


def _worst(findings: list[tuple[str, ReportWarning]]) -> ReportWarning:
    """The finding that matters most among those of the runs, with how many runs it was raised in."""
    raised = [(name, warning) for name, warning in findings if warning.raised]
    if len(findings) == 1 or not raised:
        return findings[0][1]
    name, worst = min(raised, key=lambda finding: SEVERITIES.index(finding[1].severity))
    return replace(
        worst, what=f"{worst.what} (That is {run_label(name)}; {len(raised)} of {len(findings)} runs.)"
    )


def return_stays(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The return is no higher at the end than at the beginning."""
    returns = curve(report, stage, "episode_return")
    first, last = head_mean(returns), tail_mean(returns)
    if first is None or last is None:
        return None
    return ReportWarning(
        name="ReturnDidNotRise",
        severity="serious",
        raised=last <= first,
        value=last - first,
        threshold="the return at the end is not above that at the beginning",
        what=f"In {STAGES[stage]} the return of drawn actions went from {number(first)} to {number(last)}.",
        meaning="Nothing was learned: the policy earns no more than it did before training.",
        action="Train for longer (--steps). Where observations are of very different sizes give "
        "--normalise-observations, where rewards are far from 1 --normalise-rewards; where a reward is "
        "seldom found --entropy-coefficient 0.01, and a --num-steps that holds an episode.",
    )


def return_lost(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The return was much higher before."""
    returns = curve(report, stage, "episode_return")
    means, first, last = stretches(returns), head_mean(returns), tail_mean(returns)
    if not means or first is None or last is None or max(means) <= first:
        return None
    best = max(means)
    lost = (best - last) / (best - first)
    return ReportWarning(
        name="ReturnFellFromItsBest",
        severity="serious" if lost > LOST_SERIOUS else "warning",
        raised=lost > LOST_WARNING,
        value=lost,
        threshold=f"more than {percent(LOST_WARNING, 0)} of what was gained is lost again at the end "
        f"(serious above {percent(LOST_SERIOUS, 0)})",
        what=f"In {STAGES[stage]} the return rose from {number(first)} to {number(best)} and ended at "
        f"{number(last)}.",
        meaning="The policy was better before: an update went further than its data could tell, or the "
        "critic lost its way. What is judged is the policy of the end; `checkpoints/` has the best as well.",
        action="Lower --learning-rate or --update-epochs, --early-stop-factor 1.5, or collect more "
        "for each (--num-envs, --num-steps).",
    )


def drawn_earn_more(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The most probable actions earn less than drawn ones."""
    measurements = [
        measured(report, "evaluation", way, name)
        for way in ("deterministic", "stochastic")
        for name in ("mean_return", "std_return", "episodes")
    ]
    if not all(is_number(value) for value in measurements):
        return None
    probable, spread, count, drawn, drawn_spread, drawn_count = (
        float(value or 0.0) for value in measurements
    )
    error = (spread**2 / max(count, 1.0) + drawn_spread**2 / max(drawn_count, 1.0)) ** 0.5
    return ReportWarning(
        name="DrawnActionsEarnMore",
        severity="warning",
        raised=drawn - probable > ERRORS * error and drawn > probable,
        value=drawn - probable,
        threshold=f"drawn actions earn more than the most probable ones by over {ERRORS:g} standard errors",
        what=f"The most probable actions earn {number(probable)}, drawn ones {number(drawn)}.",
        meaning="The policy lives by chance: most often because one observation does not tell enough, or "
        "because it is not done learning.",
        action="Give it a memory (--recurrent-width 64), train for longer, or use it with drawn actions.",
    )


def episodes_unended(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """Some of the episodes that judge did not come to their end."""
    counts = [measured(report, "evaluation", way, "unended") for way in ("deterministic", "stochastic")]
    if any(count is None for count in counts):
        return None
    unended = sum(count or 0.0 for count in counts)
    return ReportWarning(
        name="EpisodesDidNotEnd",
        severity="warning",
        raised=unended > 0,
        value=unended,
        threshold="an episode that judges is left before its end",
        what=f"{number(int(unended))} of the episodes that judge were left: they had gone on for too long.",
        meaning="They count with what they had earned by then: the policy may go in circles for ever.",
        action="Register the environment with max_episode_steps, or train for longer.",
    )


def critic_explains_nothing(report: Mapping[str, Any], stage: str) -> ReportWarning | None:
    """The critic predicts returns no better than their mean does."""
    warning = policy_gradient.critic_explains_nothing(report, stage)
    if warning is None:
        return None
    return replace(
        warning,
        # Where every episode goes the same way there is hardly any variance to explain.
        severity="note",
        action="Raise --value-coefficient or --critic-learning-rate, or give --normalise-rewards; where the "
        "return is as high as it can be, let it be.",
    )


def seeds_disagree(report: Mapping[str, Any]) -> ReportWarning | None:
    """The worst run learned much less than the others."""
    seeds = [seed for seed in _seeds(report) if is_number(seed.get("mean_return"))]
    middle = measured(report, "evaluation", "interquartile_mean", "value")
    starts = [
        start
        for run in runs_of(report).values()
        if (
            start := head_mean(
                [value for value in run["curves"].get("episode_return") or [] if is_number(value)]
            )
        )
        is not None
    ]
    if len(seeds) < 2 or middle is None or not starts:
        return None
    worst = min(seeds, key=lambda seed: float(seed["mean_return"]))
    gained = middle - fmean(starts)
    behind = (middle - worst["mean_return"]) / gained if gained > 0 else 0.0
    return ReportWarning(
        name="SeedsDisagree",
        severity="warning",
        raised=behind > APART,
        value=behind,
        threshold=f"the worst run lacks more than {percent(APART, 0)} of what the runs gained",
        what=f"Seed {number(worst.get('seed'))} earns {number(worst['mean_return'])}; the interquartile mean "
        f"of {len(seeds)} runs is {number(middle)}.",
        meaning="With these settings it is chance whether it is learned: the best run is no result.",
        action="Look at the worst run's own page; lower --learning-rate, or train for longer (--steps).",
    )


def few_runs(report: Mapping[str, Any]) -> ReportWarning | None:
    """An interval over few runs is rough."""
    count = len(_seeds(report))
    if count < 2:
        return None
    return ReportWarning(
        name="FewRuns",
        severity="note",
        raised=count < ENOUGH_RUNS,
        value=float(count),
        threshold=f"fewer than {ENOUGH_RUNS} runs",
        what=f"The interval is of {count} runs.",
        meaning="A bootstrap draws from the runs that there are: of so few its interval is too narrow.",
        action=f"Train with more seeds: the same command with --resume and --seeds {ENOUGH_RUNS} adds them.",
    )


def _seeds(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How each of several runs was judged; none where there is one run."""
    judged = report.get("evaluation")
    seeds = judged.get("seeds") if isinstance(judged, Mapping) else None
    return [seed for seed in seeds or [] if isinstance(seed, Mapping)]


CHECKS: tuple[Check, ...] = (
    return_stays,
    return_lost,
    drawn_earn_more,
    episodes_unended,
    spaces.actions_clipped,
    spaces.observations_outside,
    spaces.masks_missing,
    policy_gradient.update_kl_high,
    policy_gradient.clip_fraction_high,
    policy_gradient.clip_never_active,
    policy_gradient.ratio_far,
    policy_gradient.effective_share_low,
    critic_explains_nothing,
)
