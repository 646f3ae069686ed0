"""What must hold in a run, each law by name.

A law is a function that returns what it measured, or raises `LawBroken` with its name, the value and the
place. Trainers call them at step 0 and while running; nothing here computes a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from logratio.batches import AnswerGroup, Numbers, Precision
from logratio.errors import LawBroken, NonFiniteGradient, NonFiniteLoss, ReferenceAliased
from logratio.models.turn_ends import Stop, find_ends

FLOAT32_LOGPROB_TOLERANCE = 1e-3
"""Nats a token: different orders of the same float32 sums differ by less; a wrong mask, position or
temperature differs by far more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far numbers may lie apart that are one number but for rounding."""

    logprob: float
    """Of a token's log-probability computed in two ways, in nats."""
    ratio: float
    """Of a ratio that is 1."""
    update_kl: float
    """Of a KL divergence that is 0, in nats a token."""
    loss: float
    """Of the loss of a pair before the first update."""
    reward: float
    """Of an implicit reward before the first update."""


TOLERANCES: dict[Precision, Tolerances] = {
    "fp32": Tolerances(logprob=FLOAT32_LOGPROB_TOLERANCE, ratio=1e-4, update_kl=1e-6, loss=1e-4, reward=1e-3),
    "bf16": Tolerances(logprob=0.5, ratio=0.2, update_kl=1e-3, loss=0.05, reward=0.1),
}
"""By the precision of products. bfloat16 keeps eight bits of a number, so that a sum that is taken in another
order can come out one of them apart, and some layers later a log-probability some hundredths of a nat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LawHeld:
    """A law that was checked and held, for the report."""

    law: str
    """Its name."""
    value: float
    """What was measured."""
    limit: float
    """What it was held against."""
    step: int
    """At which update."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"name": self.law, "value": self.value, "limit": self.limit, "step": self.step}


def step_zero_loss_is(expected: float, losses: Tensor, *, step: int, tolerance: float = 1e-4) -> LawHeld:
    """Before the first update policy and reference are one model, so every loss is the loss at log-ratio 0.

    For DPO that is ln 2 for every pair. A wrong reference, dropout, or two ways of computing the same
    log-probability show here first.
    """
    deviation = (losses.detach() - expected).abs()
    worst = int(deviation.argmax())
    value = float(losses[worst])
    if not float(deviation[worst]) <= tolerance:
        raise LawBroken(
            "step_zero_loss",
            value,
            f"the loss before the first update is {value:.6f} and must be {expected:.6f} ± {tolerance:g}",
            where=f"step {step}, pair {worst} of the batch",
            action="the reference is not the model training starts from, or the model is not deterministic",
        )
    return LawHeld(law="step_zero_loss", value=value, limit=expected, step=step)


def implicit_rewards_are_zero(rewards: Tensor, *, step: int, tolerance: float = 1e-3) -> LawHeld:
    """Before the first update every implicit reward `β·log(π/π_ref)` is 0."""
    worst = int(rewards.detach().abs().argmax())
    value = float(rewards[worst])
    if not abs(value) <= tolerance:
        raise LawBroken(
            "step_zero_rewards",
            value,
            f"an implicit reward before the first update is {value:.6f} and must be 0 ± {tolerance:g}",
            where=f"step {step}, answer {worst} of the batch",
            action="the reference is not the model that training starts from",
        )
    return LawHeld(law="step_zero_rewards", value=value, limit=0.0, step=step)


def layouts_agree(
    packed: Tensor, apart: Tensor, lengths: Tensor, *, step: int, tolerance: float = FLOAT32_LOGPROB_TOLERANCE
) -> LawHeld:
    """A packed batch equals its rows one by one: `[answers]` log-probabilities, compared per token."""
    deviation = (packed.detach() - apart.detach()).abs() / lengths
    worst = int(deviation.argmax())
    value = float(deviation[worst])
    if not value <= tolerance:
        raise LawBroken(
            "packed_equals_apart",
            value,
            f"packed and single log-probabilities differ by {value:.2e} nats a token (limit {tolerance:g})",
            where=f"step {step}, answer {worst} of the batch",
            action="this architecture mixes tokens outside masked attention: use layout `apart`",
        )
    return LawHeld(law="packed_equals_apart", value=value, limit=tolerance, step=step)


def sampled_logprobs_are_recomputed(
    recorded: Sequence[Sequence[float]],
    recomputed: Sequence[Sequence[float]],
    *,
    tolerance: float = FLOAT32_LOGPROB_TOLERANCE,
) -> LawHeld:
    """Log-probabilities recorded while sampling equal those that training computes, token by token."""
    worst, place = 0.0, (0, 0)
    for answer, (before, now) in enumerate(zip(recorded, recomputed, strict=True)):
        for token, (left, right) in enumerate(zip(before, now, strict=True)):
            if not abs(left - right) <= worst:
                worst, place = abs(left - right), (answer, token)
    if not worst <= tolerance:
        raise LawBroken(
            "sampled_equals_recomputed",
            worst,
            f"a token's log-probability was recorded {worst:.2e} nats away from what training computes",
            where=f"answer {place[0]}, token {place[1]}",
            action="the answers come from another model, another template or another precision",
        )
    return LawHeld(law="sampled_equals_recomputed", value=worst, limit=tolerance, step=0)


def sampler_and_trainer_agree(
    deviation: float, *, step: int, tolerance: float = FLOAT32_LOGPROB_TOLERANCE
) -> LawHeld:
    """The largest difference of a rollout's recomputed log-probabilities to those recorded while sampling."""
    if not deviation <= tolerance:
        raise LawBroken(
            "sampled_equals_recomputed",
            deviation,
            f"a token's log-probability was recorded {deviation:.2e} nats away from what training computes"
            f" (limit {tolerance:g})",
            where=f"step {step}",
            action="the sampler and the trainer do not compute the same model; report this",
        )
    return LawHeld(law="sampled_equals_recomputed", value=deviation, limit=tolerance, step=step)


def end_token_carries_loss(
    groups: Sequence[AnswerGroup], finished: Sequence[Sequence[bool]], stop_ids: Collection[Stop]
) -> LawHeld:
    """The last predicted token of every finished answer is an end token, and there is only one."""
    for number, (group, flags) in enumerate(zip(groups, finished, strict=True)):
        for answer, is_finished in zip(group.answers, flags, strict=True):
            ends = find_ends(answer, stop_ids)
            count = len(ends)
            if is_finished and (count != 1 or ends[0][1] != len(answer)):
                raise LawBroken(
                    "end_token_carries_loss",
                    float(count),
                    f"a finished answer has {count} end tokens and ends in token {answer[-1]}",
                    where=f"example {number}",
                    action="the model would not learn to stop; check the tokenizer's end token and template",
                )
    num_finished = sum(flag for flags in finished for flag in flags)
    return LawHeld(law="end_token_carries_loss", value=float(num_finished), limit=float(num_finished), step=0)


def accumulation_equals_batch(shares: Sequence[float], losses: Tensor, *, step: int) -> LawHeld:
    """The parts that were accumulated add up to the loss of the batch as a whole."""
    whole = float(losses.detach().cpu().double().mean())
    value = abs(sum(shares) - whole)
    limit = 1e-5 * max(1.0, abs(whole))
    if not value <= limit:
        raise LawBroken(
            "accumulation_equals_batch",
            value,
            f"the accumulated parts of the loss differ from the batch's mean by {value:.2e}",
            where=f"step {step}",
            action="a part was divided by its own count instead of the batch's; report this",
        )
    return LawHeld(law="accumulation_equals_batch", value=value, limit=limit, step=step)


def loss_is_finite(losses: Tensor, examples: Numbers, *, step: int) -> None:
    """No loss is NaN or infinite; `examples` are the numbers of the batch's examples in the data."""
    for place, value in enumerate(losses.detach().tolist()):
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss is {value}",
                where=f"step {step}, example {examples[place]}",
                action="the weights are as they were; look at this example, or lower --learning-rate",
            )


def gradient_is_finite(norm: float, examples: Sequence[int], *, step: int) -> None:
    """The gradient's norm is finite; otherwise the optimiser must not step."""
    if not math.isfinite(norm):
        raise NonFiniteGradient(
            f"the gradient's norm is {norm} though the loss is finite",
            where=f"step {step}, examples {', '.join(map(str, examples))}",
            action="the weights are as they were; lower --learning-rate or look at these examples",
        )


def ratio_is_one(deviation: float, *, step: int, tolerance: float = 1e-4) -> LawHeld:
    """On the first minibatch of an update the policy is the one that sampled: the largest |r − 1| is 0.

    What shows here is a log-probability recomputed after a step, at another temperature, with dropout or
    through another layout than the one that recorded it.
    """
    if not deviation <= tolerance:
        raise LawBroken(
            "ratio_is_one",
            deviation,
            f"before the first step of an update a ratio is off 1 by {deviation:.2e} (limit {tolerance:g})",
            where=f"step {step}",
            action="the batch was not sampled by this policy, or its numbers were computed otherwise",
        )
    return LawHeld(law="ratio_is_one", value=deviation, limit=tolerance, step=step)


def update_kl_is_zero(update_kl: float, *, step: int, tolerance: float = 1e-6) -> LawHeld:
    """On the first minibatch of an update KL[θ', θ] is 0, in nats a token."""
    return _divergence_is_zero("update_kl_is_zero", update_kl, "the policy that sampled", step, tolerance)


def nothing_is_clipped(clip_fraction: float, *, step: int) -> LawHeld:
    """On the first minibatch of an update no ratio is at the clip."""
    if not clip_fraction == 0.0:
        raise LawBroken(
            "nothing_is_clipped",
            clip_fraction,
            f"before the first step of an update the clip stops {clip_fraction:.1%} of the rows",
            where=f"step {step}",
            action="the batch was not collected by this policy",
        )
    return LawHeld(law="nothing_is_clipped", value=clip_fraction, limit=0.0, step=step)


def reference_kl_is_zero(reference_kl: float, *, step: int, tolerance: float = 1e-6) -> LawHeld:
    """Before the first update of a run that starts from its reference KL[π, π_ref] is 0 at every token."""
    return _divergence_is_zero("reference_kl_is_zero", reference_kl, "the reference", step, tolerance)


def _divergence_is_zero(law: str, value: float, other: str, step: int, tolerance: float) -> LawHeld:
    if not abs(value) <= tolerance:
        raise LawBroken(
            law,
            value,
            f"before the first step the KL divergence to {other} is {value:.2e} nats a token, not 0",
            where=f"step {step}",
            action=f"the policy and {other} are not one model here, or are computed in two ways",
        )
    return LawHeld(law=law, value=value, limit=tolerance, step=step)


def every_row_is_counted(counted: int, weights: Tensor, *, step: int) -> LawHeld:
    """A minibatch's parts hold each of its rows once; `weights` is not 0 for the rows that it has."""
    # With numpy: so small a count takes torch several times as long.
    expected = int(np.count_nonzero(weights.numpy(force=True)))
    if counted != expected:
        raise LawBroken(
            "every_row_is_counted",
            float(counted),
            f"a minibatch has {expected} rows and its parts have {counted}",
            where=f"step {step}",
            action="the policy evaluated other rows than were collected; report this",
        )
    return LawHeld(law="every_row_is_counted", value=float(counted), limit=float(expected), step=step)


def exact_kl_is_not_negative(kl: Sequence[float], *, tolerance: float = 1e-4) -> LawHeld:
    """A KL divergence summed over the full vocabulary is never negative, up to rounding."""
    value = min(kl)
    if not value >= -tolerance:
        raise LawBroken(
            "exact_kl_not_negative",
            value,
            f"an exact KL divergence is {value:.2e}",
            where=f"sequence {list(kl).index(value)}",
            action="the two distributions are not normalised alike; report this",
        )
    return LawHeld(law="exact_kl_not_negative", value=value, limit=-tolerance, step=0)


def merged_is_the_adapter(
    before: Tensor, merged: Tensor, *, tolerance: float = FLOAT32_LOGPROB_TOLERANCE
) -> LawHeld:
    """A model with its adapter folded in has the logits that it had with the adapter beside the weights.

    `max |merged − before| / max(1, max |before|)`: the same sums in another order.
    """
    value = float((merged - before).abs().max()) / max(1.0, float(before.abs().max()))
    if not value <= tolerance:
        raise LawBroken(
            "merged_equals_adapter",
            value,
            f"with the adapter folded in, logits are off by {value:.2e} (limit {tolerance:g})",
            where="saving the model",
            action="the adapter by itself is saved and right; use it on its base, and report this",
        )
    return LawHeld(law="merged_equals_adapter", value=value, limit=tolerance, step=0)


def reference_is_unchanged(before: str, now: str, *, step: int) -> LawHeld:
    """What stands for the reference has the same hash as before the first update."""
    if before != now:
        raise LawBroken(
            "reference_unchanged",
            float("nan"),
            "the reference changed while the policy was trained",
            where=f"step {step}",
            action="policy and reference share storage; give the reference weights of its own",
        )
    return LawHeld(law="reference_unchanged", value=0.0, limit=0.0, step=step)


def reference_is_separate(policy: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """No tensor of the policy shares its storage with one of the reference."""
    storages = {tensor.untyped_storage().data_ptr(): name for name, tensor in reference.items()}
    for name, tensor in policy.items():
        other = storages.get(tensor.untyped_storage().data_ptr())
        if other is not None:
            raise ReferenceAliased(
                f"the policy's {name} and the reference's {other} are one tensor",
                action="load the reference anew or copy its weights",
            )
