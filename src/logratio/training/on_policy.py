"""What the policy-gradient trainers share: steps of an update, what a row counts, what is written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from logratio.errors import BadConfig
from logratio.kernels.rounding_error import LogprobDifference, repeat_difference
from logratio.objectives.kl import local_kl_loss
from logratio.objectives.masked import masked_mean
from logratio.policies.protocols import Actor, Partition
from logratio.training import invariants
from logratio.training.config import PolicyGradientConfig
from logratio.training.data_order import reseed
from logratio.training.gradient_noise import GradientSNR
from logratio.training.loop import Session
from logratio.training.microbatches import RowLossFunction, micro_batches_of
from logratio.training.optimizer import ParamGroupLR
from logratio.trajectories import ActionEvaluation, ItemIds, Rollout

Reduction = Literal["tokens", "sequences", "sums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTargets:
    """What an update learns from, each `[sequences · time]`; it stands still while the policy moves."""

    logprobs: Tensor
    """log-probabilities under the policy that collected."""
    advantages: Tensor
    """How much better than expected each action was."""
    returns: Tensor
    """What the critic should have said."""
    values: Tensor
    """What it said."""
    reference_logprobs: Tensor | None = None
    """log-probabilities under the reference, where there is one."""

    @classmethod
    def of(cls, rollout: Rollout, advantages: Tensor, returns: Tensor) -> UpdateTargets:
        """Flatten `[sequences, time]` columns, without their graphs."""
        rows = rollout.trajectories
        columns = (rows.logprobs, advantages, returns, rows.values)
        logprobs, advantages, returns, values = (column.detach().flatten() for column in columns)
        other = rollout.reference_logprobs
        return cls(
            logprobs=logprobs,
            advantages=advantages,
            returns=returns,
            values=values,
            reference_logprobs=None if other is None else other.flatten(),
        )


@dataclass(slots=True)
class MetricSums:
    """Sums over rows, of which the metrics of an update are means."""

    rows: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    ratio_deviation: float = 0.0
    """The largest |r − 1|."""
    weights: float = 0.0
    """Sum of the importance weights."""
    squared_weights: float = 0.0
    """Sum of their squares."""

    def add(self, rows: int, names: Iterable[str], sums: Tensor) -> None:
        """Count so many rows, with what `RowLosses.sums` gave and the names of its parts."""
        self.rows += rows
        total, squared, *parts, largest_deviation = sums.tolist()
        # NaN must not be lost to a comparison.
        self.ratio_deviation = (
            largest_deviation
            if largest_deviation != largest_deviation
            else max(self.ratio_deviation, largest_deviation)
        )
        self.weights += total
        self.squared_weights += squared
        for name, value in zip(names, parts, strict=True):
            self.totals[name] = self.totals.get(name, 0.0) + value

    def merge(self, other: MetricSums) -> None:
        """Count the rows of another tally as well."""
        self.rows += other.rows
        self.ratio_deviation = max(self.ratio_deviation, other.ratio_deviation)
        self.weights += other.weights
        self.squared_weights += other.squared_weights
        for name, total in other.totals.items():
            self.totals[name] = self.totals.get(name, 0.0) + total

    def means(self) -> dict[str, float]:
        """The mean over rows of everything that was counted."""
        return {name: total / self.rows for name, total in self.totals.items()}

    def metrics(self) -> dict[str, float]:
        """The means, the largest ratio's deviation, and the share of the rows that the weights leave.

        `(Σ w)² / (n Σ w²)`: the effective sample size over the number of rows (Kong, 1992).
        """
        share = self.weights**2 / (self.rows * self.squared_weights) if self.squared_weights else 0.0
        return self.means() | {"ratio_deviation": self.ratio_deviation, "effective_share": share}


def backpropagate(
    actor: Actor,
    rollout: Rollout,
    item_ids: ItemIds,
    losses: RowLossFunction,
    *,
    reduction: Reduction,
    step: int,
    gradient_snr: GradientSNR | None = None,
) -> MetricSums:
    """Accumulate the gradients of a minibatch, micro-batch by micro-batch, and sum its metrics.

    Args:
        actor: the policy that is re-evaluated.
        rollout: what was collected.
        item_ids: the items of the minibatch.
        losses: the trainer's loss of rows.
        reduction: how the rows' losses become one number.
        step: the update, for faults.
        gradient_snr: is shown each micro-batch's gradient, if it is given.

    Raises:
        NonFiniteLoss: before any weight would have taken it.
        InvariantViolated: `every_row_is_counted`.
    """
    weights, metric_sums = row_weights(rollout, item_ids, reduction), MetricSums()
    if gradient_snr is not None:
        gradient_snr.start_minibatch()
    for micro_batch in micro_batches_of(actor, rollout, item_ids, losses, weights):
        if not math.isfinite(float(micro_batch.loss)):
            invariants.check_loss_is_finite(micro_batch.loss[None], item_ids, step=step)
        micro_batch.backward()
        metric_sums.add(len(micro_batch.rows), micro_batch.names, micro_batch.sums)
        if gradient_snr is not None:
            gradient_snr.add_micro_batch(float(weights[micro_batch.rows].sum()))
        # With what it holds of a graph.
        del micro_batch
    invariants.check_every_row_is_counted(metric_sums.rows, weights, step=step)
    return metric_sums


def minibatches(
    num_items: int, *, num_minibatches: int, epochs: int, seed: int, step: int
) -> Iterator[np.ndarray]:
    """The items of each of the optimiser's steps: every pass a permutation drawn from (seed, step, pass)."""
    if min(num_minibatches, num_items) == 1:
        # Whatever the order, it is all of them.
        yield from [np.arange(num_items)] * epochs
        return
    bits = np.random.Philox(key=[seed, step * epochs])
    generator, num_minibatches = np.random.Generator(bits), min(num_minibatches, num_items)
    for epoch in range(epochs):
        reseed(bits, seed, step * epochs + epoch)
        for item_ids in np.array_split(generator.permutation(num_items), num_minibatches):
            item_ids.sort()
            yield item_ids


def row_weights(rollout: Rollout, item_ids: ItemIds, reduction: Reduction) -> Tensor:
    """`[sequences · time]` what each row counts in the loss of a minibatch; 0 for rows that are not in it.

    `tokens`: all rows alike, 1 in all. `sequences`: all sequences alike, and a sequence's rows alike: long
    sequences count for less a row, which changes the gradient's direction. `sums`: every row 1 over the
    number of sequences, the policy gradient as it is written.
    """
    mask = rollout.trajectories.mask.numpy(force=True)
    if len(item_ids) < len(rollout.items):
        chosen = np.zeros(len(rollout.items), dtype=bool)
        chosen[item_ids] = True
        return _weights_of(mask & chosen[rollout.item_of_row.numpy(force=True)], rollout, reduction)
    if reduction not in rollout.reduction_weights:
        rollout.reduction_weights[reduction] = _weights_of(mask, rollout, reduction)
    return rollout.reduction_weights[reduction]


def _weights_of(counted: np.ndarray, rollout: Rollout, reduction: Reduction) -> Tensor:
    # With numpy: so small a sum takes torch several times as long.
    if reduction == "tokens":
        weights = counted * (1.0 / np.count_nonzero(counted))
    else:
        lengths = counted.sum(axis=1, keepdims=True)
        weights = counted / float((lengths > 0).sum())
        if reduction == "sequences":
            weights /= np.maximum(lengths, 1.0)
    rewards = rollout.trajectories.rewards
    return torch.from_numpy(weights.astype(rewards.numpy(force=True).dtype).ravel()).to(rewards.device)


def auxiliary_losses(
    now: ActionEvaluation, targets: UpdateTargets, log_ratio: Tensor, config: PolicyGradientConfig
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What both trainers add to a row's loss, `[R]` each, and its parts: entropy bonus and local KL.

    Raises:
        BadConfig: a local KL is wanted where nothing is known of a reference.
    """
    added, parts = list[Tensor](), {"entropy": now.entropy}
    if config.entropy_coefficient:
        added.append(-config.entropy_coefficient * now.entropy)
    if config.local_kl:
        if targets.reference_logprobs is None:
            raise BadConfig(
                "there is no reference whose KL could be charged",
                where="--local-kl",
                action="leave it at 0, or give a reference",
            )
        other = targets.reference_logprobs[now.rows].to(now.logprobs)
        parts["local_kl_loss"] = local_kl_loss(now.logprobs - other, log_weights=log_ratio)
        added.append(config.local_kl * parts["local_kl_loss"])
    return added, parts


def check_first_minibatch(
    session: Session, rollout: Rollout, metric_sums: MetricSums, *, step: int, recompute: Callable[[], Tensor]
) -> float:
    """Before the first step of an update the policy is the one that collected, as it was recorded.

    Args:
        session: where the invariants are recorded.
        rollout: what was collected.
        metric_sums: what the first minibatch said.
        step: the update.
        recompute: the log-probabilities of the minibatch once more, `[R]`.

    Returns:
        σ of the rounding of a token's log-probability between collecting and updating, in nats; 0 where both
        compute the same numbers.
    """
    metrics = rollout.metrics
    if "sampled_deviation" in metrics:
        noise = rollout.sampling_noise
        difference = LogprobDifference(
            metrics["sampled_deviation"], metrics["sampled_deviation_rms"], int(metrics["tokens"])
        )
        session.record_invariant(invariants.check_precision_suffices(noise, step=step))
        session.record_invariant(
            invariants.check_sampled_equals_recomputed(difference, noise=noise, step=step)
        )
    if "kl_at_reference" in metrics:
        session.record_invariant(invariants.check_reference_kl_is_zero(metrics["kl_at_reference"], step=step))
    noise = rollout.recomputed_noise
    if not metric_sums.ratio_deviation <= invariants.ratio_tolerance(noise):
        # Only a device that does not compute the same numbers twice gets room for that.
        noise += float(repeat_difference(recompute).square().mean().sqrt())
    session.record_invariant(
        invariants.check_ratio_is_one(
            metric_sums.ratio_deviation, step=step, tolerance=invariants.ratio_tolerance(noise)
        )
    )
    session.record_invariant(
        invariants.check_every_row_is_counted(metric_sums.rows, torch.ones(metric_sums.rows), step=step)
    )
    return noise


def recompute_logprobs(actor: Actor, rollout: Rollout, item_ids: ItemIds) -> Tensor:
    """`[R]` log-probabilities of a minibatch as the actor computes them now, without their graphs."""
    parts = actor.evaluate(rollout.items_of(item_ids), item_ids, rollout)
    return torch.cat([part.logprobs.detach() for part in parts])


def first_epoch_partition(config: PolicyGradientConfig, *, num_minibatches: int, step: int) -> Partition:
    """The minibatches of an update's first pass, from the number of its items."""
    return lambda num_items: list(
        minibatches(num_items, num_minibatches=num_minibatches, epochs=1, seed=config.seed, step=step)
    )


def critic_param_group(actor: Actor, config: PolicyGradientConfig) -> ParamGroupLR | None:
    """The critic's own learning rate, where it has weights of its own and another rate."""
    if not config.critic_learning_rate or not actor.critic_parameters:
        return None
    scale = config.critic_learning_rate / config.learning_rate
    return None if scale == 1.0 else ParamGroupLR(parameters=actor.critic_parameters, scale=scale)


def rollout_metrics(
    rollout: Rollout, targets: UpdateTargets, gradient_snr: GradientSNR, *, critic: bool
) -> dict[str, float]:
    """What the collector said, the mean return, the gradient's signal, and how well the critic foresaw.

    `explained_variance` is `1 − Var(R − V)/Var(R)`: 1 is all, 0 as a constant would; left out where all
    returns are the same, and nothing is to be explained.
    """
    mask = rollout.trajectories.mask.flatten()
    returns, values = targets.returns.double(), targets.values.double()
    metrics = rollout.metrics | {"return": float(masked_mean(returns, mask)), "rows": float(mask.sum())}
    ratio = gradient_snr.signal_to_noise()
    if ratio is not None:
        metrics["gradient_signal"] = ratio
    if critic:
        spread = _variance(returns, mask)
        if spread > 0:
            metrics["explained_variance"] = 1.0 - _variance(returns - values, mask) / spread
    return metrics


def _variance(values: Tensor, mask: Tensor) -> float:
    return float(masked_mean((values - masked_mean(values, mask)).square(), mask))
