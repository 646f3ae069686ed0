"""The win rate that would be left if both answers were equally long.

In the spirit of AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475): a logistic regression of who wins on
the difference of lengths, read where that difference is zero. Theirs has a term for each prompt's difficulty
as well, fitted over many models; with one pair of models there is nothing to fit it from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from logratio.evaluation.win_rate import choose_method, paired_outcomes
from logratio.stats.bootstrap import Array, Estimate
from logratio.stats.wilson import normal_quantile

RIDGE = 0.01
"""Weight of `½|θ|²`: a normal prior of standard deviation 10 on the log-odds, which keeps a fit finite where
one model wins every prompt."""
MAX_NEWTON_STEPS = 100
GRADIENT_TOLERANCE = 1e-10


def length_controlled_win_rate(
    policy_rewards: Sequence[float],
    reference_rewards: Sequence[float],
    policy_lengths: Sequence[float],
    reference_lengths: Sequence[float],
    *,
    confidence: float = 0.95,
) -> Estimate:
    """The win rate at equal length.

    `P(win) = σ(a + b·tanh(Δ / std Δ))` with Δ the difference of lengths and ties half a win; the result is
    `σ(a)`. Both models play the same part: exchanging them gives one minus the result, and a model against
    itself has one half. Where Δ is the same for every prompt nothing tells length from quality, and the
    result is the plain win rate.

    The interval is that of `a` by the delta method, `a ± z·√(H⁻¹)₀₀` with H the Hessian; where ties are many
    (`win_rate.choose_method`) the variance is multiplied by the residuals' share of a coin's variance.

    Args:
        policy_rewards: `n` rewards, one a prompt.
        reference_rewards: `n` rewards of the same prompts.
        policy_lengths: `n` lengths, in tokens.
        reference_lengths: `n` lengths, in tokens.
        confidence: coverage of the interval.

    Raises:
        ValueError: the sequences differ in length, or are empty.
    """
    outcomes = paired_outcomes(policy_rewards, reference_rewards)
    differences = [a - b for a, b in zip(policy_lengths, reference_lengths, strict=True)]
    if len(outcomes) != len(differences) or not outcomes:
        raise ValueError(f"{len(outcomes)} outcomes and {len(differences)} differences of length")
    won = np.array(outcomes)
    design = np.stack([np.ones_like(won), length_feature(differences)], axis=1)
    weights, covariance = fit_logistic(design, won)
    dispersion = 1.0 if choose_method(outcomes) == "wilson" else _dispersion(design, won, weights)
    spread = normal_quantile(confidence) * (covariance[0, 0] * dispersion) ** 0.5
    low, value, high = _sigmoid(weights[0] + np.array([-spread, 0.0, spread]))
    return Estimate(value=float(value), low=float(low), high=float(high))


def length_feature(differences: Sequence[float]) -> Array:
    """`tanh(Δ / std Δ)`: `[n]`; zeros where Δ does not vary. Not centred, so that -Δ gives the negative."""
    values = np.asarray(differences, dtype=np.float64)
    scale = values.std()
    return np.tanh(values / scale) if scale > 0 else np.zeros_like(values)


def fit_logistic(design: Array, outcomes: Array, *, ridge: float = RIDGE) -> tuple[Array, Array]:
    """Weights that minimise the cross-entropy to `outcomes` in [0, 1] plus `ridge/2·|θ|²`, by Newton.

    Args:
        design: `[n, k]`.
        outcomes: `[n]`.
        ridge: above 0, so that there is one minimum.

    Returns:
        Weights `[k]`, and the inverse Hessian `[k, k]`.
    """
    weights = np.zeros(design.shape[1])
    for _ in range(MAX_NEWTON_STEPS):
        chance = _sigmoid(design @ weights)
        gradient = design.T @ (chance - outcomes) + ridge * weights
        if np.abs(gradient).max() <= GRADIENT_TOLERANCE:
            break
        weights = _descend(design, outcomes, weights, gradient, ridge)
    return weights, np.asarray(np.linalg.inv(_hessian(design, weights, ridge)), dtype=np.float64)


def longer_share_of_wins(
    policy_rewards: Sequence[float],
    reference_rewards: Sequence[float],
    policy_lengths: Sequence[float],
    reference_lengths: Sequence[float],
) -> float | None:
    """Among the prompts won, the share on which the policy's answer is the longer; None without a win."""
    outcomes = paired_outcomes(policy_rewards, reference_rewards)
    lengths = zip(outcomes, policy_lengths, reference_lengths, strict=True)
    longer = [policy > reference for outcome, policy, reference in lengths if outcome == 1.0]
    return sum(longer) / len(longer) if longer else None


def _descend(design: Array, outcomes: Array, weights: Array, gradient: Array, ridge: float) -> Array:
    """One Newton step, halved until the loss does not rise: the full step can overshoot far from 0."""
    step = np.linalg.solve(_hessian(design, weights, ridge), gradient)
    before = _loss(design, outcomes, weights, ridge)
    for _ in range(30):
        if _loss(design, outcomes, weights - step, ridge) <= before:
            break
        step = step / 2
    return weights - step


def _loss(design: Array, outcomes: Array, weights: Array, ridge: float) -> float:
    logits = design @ weights
    return float((np.logaddexp(0, logits) - outcomes * logits).sum() + ridge / 2 * weights @ weights)


def _hessian(design: Array, weights: Array, ridge: float) -> Array:
    chance = _sigmoid(design @ weights)
    return (design.T * (chance * (1 - chance))) @ design + ridge * np.eye(design.shape[1])


def _dispersion(design: Array, outcomes: Array, weights: Array) -> float:
    """Residual variance over that of a coin; at most 1, since outcomes lie in [0, 1]."""
    chance = _sigmoid(design @ weights)
    return min(1.0, float(((outcomes - chance) ** 2).sum() / (chance * (1 - chance)).sum()))


def _sigmoid(logits: Array) -> Array:
    # tanh neither overflows nor loses its symmetry: σ(-x) is 1 - σ(x) to the last digit but one.
    return 0.5 * (1 + np.tanh(logits / 2))
