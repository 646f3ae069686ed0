"""The most reward that any policy can have at a KL to the reference, estimated from the reference alone.

Among all policies the best at a strength β of the penalty is `π* ∝ π_ref exp(r/β)` (Rafailov et al., 2023,
eq. 4), and as β falls its reward and its KL trace the edge of what is possible: no training, of whatever
kind, gets above it. Samples of the reference weighted by `exp(r/β)` stand for π*, as far as weights carry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logratio.errors import TooFewLabels
from logratio.evaluation import evaluation_warnings
from logratio.evaluation.evaluation_warnings import EvaluationWarning
from logratio.evaluation.model_comparison import REFERENCE, EvaluationResult
from logratio.objectives.importance import effective_sample_size, self_normalised_estimate
from logratio.stats.bootstrap import RESAMPLES, Estimate, mean_interval

LEAST_SAMPLES = 100.0
"""Below so many effective samples a point is left out."""
NUM_BETAS = 48
LARGEST_BETA, SMALLEST_BETA = 30.0, 0.1
"""Ends of the grid, in standard deviations of the reward: of normal rewards, KL from 0.0006 to 50 nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPoint:
    """The best policy at one strength of the penalty."""

    beta: float
    """β, in units of the reward a nat: also the slope of the bound here."""
    kl: float
    """Its KL to the reference, in nats per sequence, the mean over prompts."""
    reward: Estimate
    """Its reward, the mean over prompts, with the interval by prompt."""
    effective_samples: float
    """What a prompt's samples are worth as samples of it: the harmonic mean over prompts."""

    def to_json(self) -> dict[str, Any]:
        """`{"beta", "kl", "reward", "reward_interval", "effective_samples"}`."""
        return {
            "beta": self.beta,
            "kl": self.kl,
            "reward": self.reward.value,
            "reward_interval": [self.reward.low, self.reward.high],
            "effective_samples": self.effective_samples,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilted:
    """π* of one prompt at one β, as weights on the samples."""

    gain: float
    """Its reward less that of the reference's own samples."""
    kl: float
    """Its KL to the reference in nats."""
    effective_samples: float
    """`(Σ w)² / Σ w²`."""


def upper_bound(
    rewards: Sequence[Sequence[float]],
    *,
    reference_mean: float | None = None,
    betas: Sequence[float] | None = None,
    least_samples: float = LEAST_SAMPLES,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[BoundPoint]:
    """The edge of what is possible, from many answers of the reference to each of a few prompts.

    With `w_i ∝ exp(r_i/β)` over the N answers of a prompt: `R* = Σ w_i r_i`,
    `KL* = R*/β − log Ẑ`, `Ẑ = (1/N) Σ exp(r_i/β)`, and the means of both over the prompts. One β for all
    prompts is what makes this the most reward at that mean KL: KL is spent where a nat buys most.

    A point is kept where `least_samples` effective samples a prompt carry it, by their harmonic mean over
    prompts. That is the mean that the error asks for: `log Ẑ` is too low by `(1/ESS − 1/N)/2` on average, so
    what counts is the mean of 1/ESS; the plain mean would hide a prompt with 3 effective samples behind one
    with 400, and the smallest would let the oddest of many prompts end the curve for all.

    It is biased low, and little. A point lies below the tangent of the true curve by β times the error of
    `log Ẑ`: at 100 effective samples by less than β/200, where the curve climbs β a nat. R* and KL* each are
    further off, together along the curve. What no sample shows, such as a rare and very good answer, is
    in none of these numbers. The interval is by prompt, and narrow for few of them: in place of 95 % it
    covers 78 % with 4 prompts, 89 % with 8, 93 % with 16 (normal gains, by simulation).

    Args:
        rewards: of each prompt the rewards of its N answers, drawn at temperature 1 from the whole
            distribution, cut at the length at which the policies' answers are cut.
        reference_mean: the reference's mean reward over all prompts that the policies are judged on. Prompts
            that are sampled so densely are few, and few prompts have an average of their own; so what π*
            gains over the reference on the same prompts is added to this number, and the interval is the
            gain's alone. None adds it to the prompts' own mean.
        betas: the β; None takes a grid from the spread of the rewards.
        least_samples: effective samples that a point needs.
        seed: of the bootstrap over prompts.
        resamples: its draws.

    Returns:
        Points by rising KL; none where rewards do not vary, or no β has the samples.

    Raises:
        TooFewLabels: there are fewer than two prompts, or one is without answers.
        ValueError: a β is not above 0.
    """
    _ensure_answers(rewards)
    columns = [torch.tensor(prompt_rewards, dtype=torch.float64) for prompt_rewards in rewards]
    starts = [float(own.mean()) if reference_mean is None else reference_mean for own in columns]
    points = []
    for beta in sorted(beta_grid(rewards) if betas is None else betas, reverse=True):
        tilts = [tilt(prompt_rewards, beta=beta) for prompt_rewards in columns]
        effective = len(tilts) / math.fsum(1 / tilted.effective_samples for tilted in tilts)
        if effective < least_samples:
            continue
        values = [start + tilted.gain for start, tilted in zip(starts, tilts, strict=True)]
        kl = math.fsum(tilted.kl for tilted in tilts) / len(tilts)
        reward = mean_interval(values, seed=seed, resamples=resamples)
        points.append(BoundPoint(beta=beta, kl=kl, reward=reward, effective_samples=effective))
    return points


def _ensure_answers(rewards: Sequence[Sequence[float]]) -> None:
    if len(rewards) < 2 or not all(rewards):
        raise TooFewLabels(
            f"{sum(map(bool, rewards))} of {len(rewards)} prompts have answers: a bound needs some of"
            " each, and its interval 2 prompts at least",
            action="draw several hundred answers of the reference to each of a few prompts",
        )


def tilt(rewards: Tensor, *, beta: float) -> Tilted:
    """Weight one prompt's samples by `exp(r/β)`.

    Args:
        rewards: `[N]` in float64.
        beta: β, above 0.

    Raises:
        ValueError: β is not above 0.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}; the strength of a penalty must be above 0")
    # Rewards from their mean: the gain directly, and no digits lost where β is large.
    centred = rewards - rewards.mean()
    log_weights = centred / beta
    gain = float(self_normalised_estimate(centred, log_weights))
    log_z = float(log_weights.logsumexp(dim=0)) - math.log(len(rewards))
    return Tilted(
        gain=gain,
        kl=max(0.0, gain / beta - log_z),
        effective_samples=float(effective_sample_size(log_weights)),
    )


def beta_grid(rewards: Sequence[Sequence[float]]) -> list[float]:
    """Strengths from hardly any KL to more than samples can carry; none where no prompt's rewards vary.

    Geometric, in units of the rewards' standard deviation s within prompts: of normal rewards, KL is
    `s²/(2β²)`.
    """
    variances = [
        float(torch.tensor(prompt_rewards, dtype=torch.float64).var(correction=0))
        for prompt_rewards in rewards
    ]
    spread = math.sqrt(math.fsum(variances) / len(variances))
    if spread == 0:
        return []
    step = (SMALLEST_BETA / LARGEST_BETA) ** (1 / (NUM_BETAS - 1))
    return [spread * LARGEST_BETA * step**index for index in range(NUM_BETAS)]


def bound_at(points: Sequence[BoundPoint], kl: float) -> Estimate:
    """What no policy's reward exceeds at a KL, also beyond the last point.

    `E_π[r] ≤ β log Z + β KL[π, π_ref]` for every policy and every β (weak duality), with equality at π*. So
    each point bounds the reward at every KL by its tangent, `R* + β (kl − KL*)`, and the least of them holds.

    Args:
        points: of `upper_bound`, at least one.
        kl: in nats per sequence.

    Returns:
        The least tangent; its ends are the least tangents of the points' own ends.
    """
    sides = ("value", "low", "high")
    least = [
        min(getattr(point.reward, side) + point.beta * (kl - point.kl) for point in points) for side in sides
    ]
    return Estimate(**dict(zip(sides, least, strict=True)))


def above_the_bound(points: Sequence[BoundPoint], evaluation: EvaluationResult) -> list[EvaluationWarning]:
    """Which stages have more reward than any policy can have at their KL: then the KL or the split is wrong.

    A stage is above where the interval of its gain over the reference, paired by prompt, lies beyond the
    bound's own interval at the upper end of its KL. Policies that train badly lie below; none can lie above.

    Args:
        points: of `upper_bound`, with the mean reward of the evaluation's reference as `reference_mean`.
        evaluation: of the stages, with the same judge and the same limit on the length of answers.
    """
    start = evaluation.stages[0].reward.value
    gains = {
        contest.name: contest.reward_difference
        for contest in evaluation.contests
        if contest.against == REFERENCE
    }
    warnings: list[EvaluationWarning] = []
    for stage in evaluation.stages:
        if stage.kl is None or not points:
            continue
        most = bound_at(points, stage.kl.high)
        if start + gains[stage.name].low > most.high:
            warnings += evaluation_warnings.above_bound(stage.name, stage.reward, stage.kl, most)
    return warnings
