"""Proximal policy optimisation: many updates from one batch, held near the policy that sampled it.

`log_ratio` is log π_θ − log π_θ' of the sampled actions, θ' the policy that sampled them: the behaviour
policy.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Samples = Float[Tensor, "*samples"]


def clip_loss(
    log_ratio: Samples,
    advantages: Samples,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Samples:
    """The clipped surrogate, as a loss.

    `−min(r·A, clip(r, 1 − ε, 1 + ε_high)·A)` (Schulman et al., 2017, arXiv:1707.06347, eq. 7). Its gradient
    is 0 where A > 0 and r > 1 + ε_high, or A < 0 and r < 1 − ε; elsewhere it is that of −r·A. At r = 1 it is
    the policy gradient. `clip_range_high` above ε is DAPO's asymmetric clip (Yu et al., 2025,
    arXiv:2503.14476). With `dual_clip` c, where A < 0 the value is at most −c·A and the gradient is 0 for
    r > c (Ye et al., 2019, arXiv:1912.09729).

    Args:
        log_ratio: log π_θ − log π_θ' of the actions.
        advantages: A, the same shape; no gradient flows through them.
        clip_range: ε.
        clip_range_high: ε_high; ε without it.
        dual_clip: c, above 1.

    Returns:
        The same shape, in the unit of the advantages.

    Raises:
        ValueError: a range is not above 0, ε is not below 1, or c is not above 1.
    """
    low, high = _bounds(clip_range, clip_range_high)
    advantages = advantages.detach()
    clipped = clip_active(
        log_ratio, advantages, clip_range=clip_range, clip_range_high=clip_range_high, dual_clip=dual_clip
    )
    # Cut here, the gradient of a ratio beyond the number format is 0 as well; further on it is 0 times inf.
    ratio = torch.where(clipped, log_ratio.detach(), log_ratio).exp()
    bound = ratio.detach().clamp(low, high)
    if dual_clip is not None:
        bound = torch.where(advantages < 0, ratio.detach().clamp(low, dual_clip), bound)
    return -torch.where(clipped, bound, ratio) * advantages


def clip_active(
    log_ratio: Samples,
    advantages: Samples,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> Bool[Tensor, "*samples"]:
    """Where the clip takes the gradient away: what a clip fraction counts.

    Not the same as |r − 1| > ε, which also counts actions whose gradient is left as it is.

    Args:
        log_ratio: as in `clip_loss`, and so the others.
        advantages: A.
        clip_range: ε.
        clip_range_high: ε_high.
        dual_clip: c.

    Returns:
        True where the gradient of `clip_loss` is 0 on account of the clip.

    Raises:
        ValueError: as `clip_loss`.
    """
    low, high = _bounds(clip_range, clip_range_high)
    _check_dual(dual_clip)
    ratio = log_ratio.exp()
    active = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    return active if dual_clip is None else active | ((advantages < 0) & (ratio > dual_clip))


def penalty_loss(log_ratio: Samples, advantages: Samples, update_kl: Samples, *, beta: float) -> Samples:
    """The surrogate with a KL penalty in the place of the clip.

    `−r·A + β·KL[θ', θ]` (Schulman et al., 2017, arXiv:1707.06347, eq. 8), with KL from the policy that
    sampled to the one that is updated, state by state.

    Args:
        log_ratio: log π_θ − log π_θ' of the actions.
        advantages: A; no gradient flows through them.
        update_kl: KL[θ', θ] at each state in nats, differentiable by θ.
        beta: β, as `AdaptivePenalty` sets it.

    Returns:
        The same shape.
    """
    return beta * update_kl - log_ratio.exp() * advantages.detach()


def value_loss(
    values: Samples, returns: Samples, *, old_values: Samples | None = None, clip_range: float | None = None
) -> Samples:
    """Half the squared error of the critic.

    `½ (V − R)²`; with a clip range, `½ max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²)`, which keeps parity
    with early code and has been found useless or harmful (Engstrom et al., 2020; Andrychowicz et al., 2021).

    Args:
        values: V, what the critic says now.
        returns: R, what it should have said; no gradient flows through them.
        old_values: V_old, what it said when the batch was collected; for the clip.
        clip_range: ε, in the unit of the returns.

    Returns:
        The same shape.

    Raises:
        ValueError: only one of `old_values` and `clip_range` is given, or ε is not above 0.
    """
    if (old_values is None) != (clip_range is None):
        raise ValueError("clipping values needs old_values and clip_range, both or neither")
    returns = returns.detach()
    error = (values - returns).square()
    if old_values is None or clip_range is None:
        return error / 2
    if not clip_range > 0:
        raise ValueError(f"clip_range is {clip_range}; it must be above 0")
    old = old_values.detach()
    near = old + (values - old).clamp(-clip_range, clip_range)
    return torch.maximum(error, (near - returns).square()) / 2


@dataclass
class AdaptivePenalty:
    """The coefficient β of `penalty_loss`, adapted once after each policy update.

    `d < target/1.5: β ← β/2`; `d > 1.5·target: β ← 2β` (Schulman et al., 2017, arXiv:1707.06347, section 4),
    d the mean KL[θ', θ] over the batch after the update's last step. Within the minibatches of an update β
    stands still.
    """

    beta: float
    """β, the present coefficient."""
    target: float
    """The KL divergence that an update is to make, in nats a state."""
    floor: float = 1e-6
    """β does not fall below this: a run of small updates would lose it to underflow."""
    ceiling: float = 1e6
    """β does not rise above this."""

    def __post_init__(self) -> None:
        if not self.target > 0:
            raise ValueError(f"target is {self.target}; it must be above 0")
        if not 0 < self.floor <= self.beta <= self.ceiling:
            raise ValueError(f"beta is {self.beta}; it must be within {self.floor} and {self.ceiling}")

    def update(self, update_kl: float) -> float:
        """Adapt to the KL divergence of the update just made; returns the new β.

        Raises:
            ValueError: the divergence is NaN.
        """
        if math.isnan(update_kl):
            raise ValueError("the KL divergence of the update is NaN")
        if update_kl < self.target / 1.5:
            self.beta = max(self.floor, self.beta / 2)
        elif update_kl > 1.5 * self.target:
            self.beta = min(self.ceiling, self.beta * 2)
        return self.beta


@dataclass
class ReferenceKLController:
    """The coefficient of the KL to the reference in the reward, steered to a target per sequence.

    `e = clip(KL/target − 1, −0.2, 0.2)`, `β ← β (1 + e·n/horizon)` (Ziegler et al., 2019, arXiv:1909.08593,
    section 2.2), n the number of sequences that KL is the mean of. Neither the rule nor the KL of
    `AdaptivePenalty`.
    """

    coefficient: float
    """The present coefficient, in units of reward a nat."""
    target: float
    """KL[π, π_ref] wanted, in nats per sequence."""
    horizon: float = 10_000.0
    """Sequences over which a lasting error of 20 % changes the coefficient by 20 %."""

    def __post_init__(self) -> None:
        for name in ("coefficient", "target", "horizon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")

    def update(self, reference_kl: float, *, num_sequences: int) -> float:
        """Adapt to the mean KL of a batch of sequences; returns the new coefficient.

        Raises:
            ValueError: the divergence is NaN, or the batch is so large that one step would turn the
                coefficient's sign: five times the horizon or more.
        """
        if math.isnan(reference_kl):
            raise ValueError("the KL divergence to the reference is NaN")
        if not 0 < num_sequences < 5 * self.horizon:
            raise ValueError(
                f"num_sequences is {num_sequences}; it must be within 0 and 5 × {self.horizon:g}"
            )
        error = min(max(reference_kl / self.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * num_sequences / self.horizon
        return self.coefficient


def _bounds(clip_range: float, clip_range_high: float | None) -> tuple[float, float]:
    high = clip_range if clip_range_high is None else clip_range_high
    if not (0 < clip_range < 1 and high > 0):
        raise ValueError(f"the clip is ({clip_range}, {high}); it must be within 0 and 1, and above 0")
    return 1.0 - clip_range, 1.0 + high


def _check_dual(dual_clip: float | None) -> None:
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; it must be above 1")
