"""Invariants of a run: functions that return what they measured, or raise `InvariantViolated`.

Trainers call them at step 0 and while training; nothing here computes a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logratio.errors import InvariantViolated, NonFiniteGradient, NonFiniteLoss, ReferenceAliased
from logratio.kernels.rounding_error import (
    LARGEST_NOISE,
    TOKEN_NOISE,
    WIDE,
    LogprobDifference,
    largest_difference,
    mean_square_difference,
    sum_difference,
)
from logratio.stats.wilson import percent
from logratio.trajectories import ItemIds

LOGIT_TOLERANCE = 1e-3
"""Of logits in float32, relative to the largest: different orders of the same sums differ by far less."""
RATIO_TOLERANCE = 1e-4
"""Of a ratio that is 1, from rows that are packed alike; a wrong mask or weight moves it far more."""
UPDATE_KL_TOLERANCE = 1e-6
"""Of a KL divergence that is 0, in nats per token: what `exp(x) − 1 − x` leaves of float32's rounding."""
COMPARE_BOTH = "compare weights, adapter, mask, temperature and dropout of both"


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantResult:
    """An invariant that was checked and held, for the report."""

    invariant: str
    """Its name."""
    value: float
    """What was measured."""
    limit: float
    """What it was held against."""
    step: int
    """At which update."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"name": self.invariant, "value": self.value, "limit": self.limit, "step": self.step}


def check_step_zero_loss(
    expected: float, losses: Tensor, *, step: int, tolerance: Tensor | float
) -> InvariantResult:
    """Before the first update policy and reference are one model, so every loss is the loss at log-ratio 0.

    For DPO that is ln 2 for every pair. A wrong reference, dropout, or two ways of computing the same
    log-probability show here first.

    Args:
        expected: the loss at log-ratio 0.
        losses: `[pairs]`.
        step: the update.
        tolerance: `[pairs]` what rounding may make of it.
    """
    worst, value, limit = _largest_deviation(losses - expected, tolerance)
    if not abs(value) <= limit:
        raise InvariantViolated(
            "step_zero_loss",
            expected + value,
            f"the loss before the first update is {expected + value:.7g} and must be {expected:.7g}"
            f" ± {limit:.2g}",
            where=f"step {step}, pair {worst} of the batch",
            action="policy and reference differ by more than rounding can explain; " + COMPARE_BOTH,
        )
    return InvariantResult(invariant="step_zero_loss", value=expected + value, limit=expected, step=step)


def check_step_zero_rewards(rewards: Tensor, *, step: int, tolerance: Tensor | float) -> InvariantResult:
    """Before the first update every implicit reward `β·log(π/π_ref)` is 0.

    Args:
        rewards: `[answers]`.
        step: the update.
        tolerance: `[answers]` what rounding may make of it, β included.
    """
    worst, value, limit = _largest_deviation(rewards, tolerance)
    if not abs(value) <= limit:
        raise InvariantViolated(
            "step_zero_rewards",
            value,
            f"an implicit reward before the first update is {value:.6g} and must be 0 ± {limit:.2g}",
            where=f"step {step}, answer {worst} of the batch",
            action="policy and reference differ by more than rounding can explain; " + COMPARE_BOTH,
        )
    return InvariantResult(invariant="step_zero_rewards", value=value, limit=0.0, step=step)


def _largest_deviation(deviations: Tensor, tolerance: Tensor | float) -> tuple[int, float, float]:
    """Which deviation is the largest beside its tolerance, its value, and that tolerance."""
    found = deviations.detach()
    limits = torch.as_tensor(tolerance, dtype=found.dtype, device=found.device).expand_as(found)
    # NaN must not be lost to a comparison.
    worst = int(torch.where(found.isnan(), torch.inf, found.abs() / limits.clamp(min=1e-30)).argmax())
    return worst, float(found[worst]), float(limits[worst])


def check_packed_equals_unpacked(
    packed: Tensor, unpacked: Tensor, lengths: Tensor, *, step: int
) -> InvariantResult:
    """A packed batch equals its rows one by one, in float32.

    Args:
        packed: `[answers]` log-probabilities of answers that share their prompt's computation.
        unpacked: `[answers]` the same of each answer behind a prompt of its own.
        lengths: `[answers]` tokens of each.
        step: the update.
    """
    limits = sum_difference(unpacked.detach(), lengths, noise=TOKEN_NOISE["fp32"])
    worst, value, limit = _largest_deviation(packed - unpacked, limits)
    if not abs(value) <= limit:
        raise InvariantViolated(
            "packed_equals_unpacked",
            value,
            f"packed and single log-probabilities of {int(lengths[worst])} tokens differ by {value:.2e} nats"
            f" (limit {limit:.2g})",
            where=f"step {step}, answer {worst} of the batch",
            action="this architecture mixes tokens outside masked attention: use layout `unpacked`",
        )
    return InvariantResult(invariant="packed_equals_unpacked", value=abs(value), limit=limit, step=step)


def check_sampled_logprobs(
    recorded: Sequence[Sequence[float]], recomputed: Sequence[Sequence[float]], *, noise: float
) -> InvariantResult:
    """Log-probabilities recorded while sampling equal those that training computes, token by token.

    Args:
        recorded: of every answer's tokens, in nats.
        recomputed: the same.
        noise: σ of a token's log-probability, as `rounding` has it.
    """
    differences = [
        [left - right for left, right in zip(before, now, strict=True)]
        for before, now in zip(recorded, recomputed, strict=True)
    ]
    flat = torch.tensor([value for answer in differences for value in answer], dtype=torch.float64)
    places = [(answer, token) for answer, row in enumerate(differences) for token in range(len(row))]
    answer, token = places[int(torch.where(flat.isnan(), torch.inf, flat.abs()).argmax())]
    return check_sampled_equals_recomputed(
        LogprobDifference.of(flat), noise=noise, step=0, where=f"answer {answer}, token {token}"
    )


def check_sampled_equals_recomputed(
    found: LogprobDifference, *, noise: float, step: int, where: str = ""
) -> InvariantResult:
    """A rollout's recomputed log-probabilities are those recorded while sampling, up to rounding.

    The largest difference shows one wrong token among thousands, such as the last one under a mask that is
    off by one; the root mean square shows a small fault of all, such as another temperature.
    """
    limits = largest_difference(noise), mean_square_difference(noise, found.num_tokens)
    if not found.explained_by(noise):
        raise InvariantViolated(
            "sampled_equals_recomputed",
            found.largest,
            f"log-probabilities of {found.num_tokens} tokens were recorded up to {found.largest:.2e} nats"
            f" away from what training computes, {found.root_mean_square:.2e} in the root mean square"
            f" (limits {limits[0]:.2g} and {limits[1]:.2g}, of {noise:.2g} nats of rounding a token)",
            where=f"step {step}" + (f", {where}" if where else ""),
            action="the sampler and the trainer do not compute the same numbers; compare model, template,"
            " temperature and precision of both",
        )
    return InvariantResult(
        invariant="sampled_equals_recomputed", value=found.largest, limit=limits[0], step=step
    )


def check_precision_suffices(noise: float, *, step: int) -> InvariantResult:
    """Rounding moves a token's log-probability by less than an update may, in the root mean square."""
    if not noise <= LARGEST_NOISE:
        raise InvariantViolated(
            "precision_suffices",
            noise,
            f"in this precision a token's log-probability is off the one of float32 by {noise:.2g} nats in"
            f" the root mean square (limit {LARGEST_NOISE:g})",
            where=f"step {step}",
            action="take --precision fp32: this model's logits are too wide for bfloat16",
        )
    return InvariantResult(invariant="precision_suffices", value=noise, limit=LARGEST_NOISE, step=step)


def mean_difference(mean: float, count: int) -> float:
    """How far the mean of `count` losses of one sign may be off, for having been added up in parts."""
    return WIDE * math.sqrt(count) * torch.finfo(torch.float32).eps / 2.0 * max(1.0, abs(mean))


def check_accumulation_equals_batch(
    micro_batch_losses: Sequence[float], losses: Tensor, *, step: int
) -> InvariantResult:
    """Gradient accumulation: the losses of the micro-batches add up to that of the batch as a whole."""
    whole = float(losses.detach().cpu().double().mean())
    value = abs(sum(micro_batch_losses) - whole)
    limit = mean_difference(whole, len(losses))
    if not value <= limit:
        raise InvariantViolated(
            "accumulation_equals_batch",
            value,
            f"the accumulated parts of the loss differ from the batch's mean by {value:.2e}",
            where=f"step {step}",
            action="a part was divided by its own count instead of the batch's; report this",
        )
    return InvariantResult(invariant="accumulation_equals_batch", value=value, limit=limit, step=step)


def check_loss_is_finite(losses: Tensor, examples: ItemIds, *, step: int) -> None:
    """No loss is NaN or infinite; `examples` are the numbers of the batch's examples in the data."""
    for place, value in enumerate(losses.detach().tolist()):
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss is {value}",
                where=f"step {step}, example {examples[place]}",
                action="the weights are as they were; look at this example, or lower --learning-rate",
            )


def check_gradient_is_finite(norm: float, examples: Sequence[int], *, step: int) -> None:
    """The gradient's norm is finite; otherwise the optimiser must not step."""
    if not math.isfinite(norm):
        raise NonFiniteGradient(
            f"the gradient's norm is {norm} though the loss is finite",
            where=f"step {step}, examples {', '.join(map(str, examples))}",
            action="the weights are as they were; lower --learning-rate or look at these examples",
        )


def check_ratio_is_one(deviation: float, *, step: int, tolerance: float = RATIO_TOLERANCE) -> InvariantResult:
    """On the first minibatch of an update the policy is the one that sampled: the largest |r − 1| is 0.

    What shows here is a log-probability recomputed after a step, at another temperature, with dropout or
    through another layout than the one that recorded it.
    """
    if not deviation <= tolerance:
        raise InvariantViolated(
            "ratio_is_one",
            deviation,
            f"before the first step of an update a ratio is off 1 by {deviation:.2e} (limit {tolerance:g})",
            where=f"step {step}",
            action="the policy differs from the one that collected by more than rounding can explain; "
            + COMPARE_BOTH,
        )
    return InvariantResult(invariant="ratio_is_one", value=deviation, limit=tolerance, step=step)


def ratio_tolerance(noise: float) -> float:
    """How far a ratio may be off 1 where each log-probability is rounded by σ = `noise` nats."""
    return RATIO_TOLERANCE + math.expm1(largest_difference(noise))


def update_kl_tolerance(noise: float, num_tokens: int) -> float:
    """The same of a KL divergence in nats per token: `½ E[δ²]` of differences δ of log-probabilities."""
    return UPDATE_KL_TOLERANCE + mean_square_difference(noise, num_tokens) ** 2 / 2.0


def check_update_kl_is_zero(
    update_kl: float, *, step: int, tolerance: float = UPDATE_KL_TOLERANCE
) -> InvariantResult:
    """On the first minibatch of an update KL[θ', θ] is 0, in nats per token."""
    return _check_zero("update_kl_is_zero", update_kl, "the policy that sampled", step, tolerance)


def check_nothing_is_clipped(clip_fraction: float, *, step: int) -> InvariantResult:
    """On the first minibatch of an update no ratio is at the clip."""
    if not clip_fraction == 0.0:
        raise InvariantViolated(
            "nothing_is_clipped",
            clip_fraction,
            f"before the first step of an update the clip stops {percent(clip_fraction)} of the rows",
            where=f"step {step}",
            action="the batch was not collected by this policy",
        )
    return InvariantResult(invariant="nothing_is_clipped", value=clip_fraction, limit=0.0, step=step)


def check_reference_kl_is_zero(
    reference_kl: float, *, step: int, tolerance: float = UPDATE_KL_TOLERANCE
) -> InvariantResult:
    """Before the first update of a run that starts from its reference KL[π, π_ref] is 0 at every token."""
    return _check_zero("reference_kl_is_zero", reference_kl, "the reference", step, tolerance)


def _check_zero(invariant: str, value: float, other: str, step: int, tolerance: float) -> InvariantResult:
    if not abs(value) <= tolerance:
        raise InvariantViolated(
            invariant,
            value,
            f"before the first step the KL divergence to {other} is {value:.2e} nats per token, not 0",
            where=f"step {step}",
            action=f"the policy and {other} differ by more than rounding can explain; " + COMPARE_BOTH,
        )
    return InvariantResult(invariant=invariant, value=value, limit=tolerance, step=step)


def check_every_row_is_counted(counted: int, weights: Tensor, *, step: int) -> InvariantResult:
    """A minibatch's parts hold each of its rows once; `weights` is not 0 for the rows that it has."""
    # With numpy: so small a count takes torch several times as long.
    expected = int(np.count_nonzero(weights.numpy(force=True)))
    if counted != expected:
        raise InvariantViolated(
            "every_row_is_counted",
            float(counted),
            f"a minibatch has {expected} rows and its parts have {counted}",
            where=f"step {step}",
            action="the policy evaluated other rows than were collected; report this",
        )
    value, limit = float(counted), float(expected)
    return InvariantResult(invariant="every_row_is_counted", value=value, limit=limit, step=step)


def check_exact_kl_not_negative(kl: Sequence[float], *, tolerance: float = 1e-4) -> InvariantResult:
    """A KL divergence summed over the full vocabulary is never negative, up to rounding."""
    value = min(kl)
    if not value >= -tolerance:
        raise InvariantViolated(
            "exact_kl_not_negative",
            value,
            f"an exact KL divergence is {value:.2e}",
            where=f"sequence {list(kl).index(value)}",
            action="the two distributions are not normalised alike; report this",
        )
    return InvariantResult(invariant="exact_kl_not_negative", value=value, limit=-tolerance, step=0)


def check_merged_equals_adapter(
    before: Tensor, merged: Tensor, *, tolerance: float = LOGIT_TOLERANCE
) -> InvariantResult:
    """A model with its adapter folded in has the logits that it had with the adapter beside the weights.

    `max |merged − before| / max(1, max |before|)`: the same sums in another order.
    """
    value = float((merged - before).abs().max()) / max(1.0, float(before.abs().max()))
    if not value <= tolerance:
        raise InvariantViolated(
            "merged_equals_adapter",
            value,
            f"with the adapter folded in, logits are off by {value:.2e} (limit {tolerance:g})",
            where="saving the model",
            action="the adapter by itself is saved and right; use it on its base, and report this",
        )
    return InvariantResult(invariant="merged_equals_adapter", value=value, limit=tolerance, step=0)


def check_reference_unchanged(before: str, now: str, *, step: int) -> InvariantResult:
    """What stands for the reference has the same hash as before the first update."""
    if before != now:
        raise InvariantViolated(
            "reference_unchanged",
            float("nan"),
            "the reference changed while the policy was trained",
            where=f"step {step}",
            action="policy and reference share storage; give the reference weights of its own",
        )
    return InvariantResult(invariant="reference_unchanged", value=0.0, limit=0.0, step=step)


def check_reference_is_separate(policy: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """No tensor of the policy shares its storage with one of the reference."""
    storages = {tensor.untyped_storage().data_ptr(): name for name, tensor in reference.items()}
    for name, tensor in policy.items():
        other = storages.get(tensor.untyped_storage().data_ptr())
        if other is not None:
            raise ReferenceAliased(
                f"the policy's {name} and the reference's {other} are one tensor",
                action="load the reference anew or copy its weights",
            )
