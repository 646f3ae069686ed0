"""The updates of an on-policy method: what was collected, the optimiser's steps on it, and all around them.

A method estimates advantages and says the loss of a row. Everything that on-policy methods have in common is
here: the session, the reference's fingerprint, controllers, collecting, invariants, metrics, and the guard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from logratio.kernels.rounding_error import LogprobDifference, repeat_difference
from logratio.objectives.masked import masked_mean
from logratio.policies.microbatches import RowLossFunction
from logratio.policies.protocols import Actor, Collector, Controller, Partition
from logratio.run_directory import RunDirectory
from logratio.training import invariants
from logratio.training.config import PolicyGradientConfig
from logratio.training.divergence_guard import RunawayGuard
from logratio.training.gradient_noise import GradientSNR
from logratio.training.loop import Session, memory_fault
from logratio.training.on_policy import MetricSums, Reduction, UpdateTargets, backpropagate, minibatches
from logratio.training.optimizer import ParamGroupLR
from logratio.trajectories import ItemIds, Rollout


class OnPolicyUpdate:
    """One update: a rollout, and the optimiser's steps on its minibatches.

    Args:
        session: the run.
        actor: what is trained.
        rollout: what it did.
        step: the number of the update.
        examples: what the rollout is of.
        num_minibatches: optimiser steps in a pass over the rollout.
    """

    def __init__(
        self,
        session: Session,
        actor: Actor,
        rollout: Rollout,
        *,
        step: int,
        examples: list[int],
        num_minibatches: int,
    ) -> None:
        self.session, self.actor, self.rollout, self.step = session, actor, rollout, step
        self.metrics: dict[str, float] = {}
        """What the method writes down beside what all write down."""
        self.noise = 0.0
        """σ of the rounding of a token's log-probability between collecting and updating, in nats."""
        self._examples, self._num_minibatches = examples, num_minibatches
        self._targets: UpdateTargets | None = None
        self._metric_sums, self._gradient_snr = MetricSums(), GradientSNR(actor.module)
        self._gradient_norms: list[float] = []

    @property
    def num_steps(self) -> int:
        """The optimiser's steps so far."""
        return len(self._gradient_norms)

    def minibatches(
        self, targets: UpdateTargets, losses: RowLossFunction, *, reduction: Reduction, epochs: int = 1
    ) -> Iterator[MetricSums]:
        """Accumulate the gradients of one minibatch after another.

        Args:
            targets: what the update learns from.
            losses: the method's loss of rows, but for the targets.
            reduction: how the rows' losses become one number.
            epochs: passes over the rollout.

        Yields:
            What was counted in a minibatch, whose gradients stand until `optimizer_step` or `zero_grad`.

        Raises:
            NonFiniteLoss: before any weight would have taken it.
            InvariantViolated: a row is left out; before the first step a ratio is not 1, among others.
        """
        session, config, self._targets = self.session, self.session.config, targets
        losses = partial(losses, targets=targets)
        parts = minibatches(
            len(self.rollout.items),
            num_minibatches=self._num_minibatches,
            epochs=epochs,
            seed=config.loop.seed,
            step=self.step,
        )
        for number, item_ids in enumerate(parts):
            with memory_fault(step=self.step, config=config, longest=1):
                sums = backpropagate(
                    *(self.actor, self.rollout, item_ids, losses),
                    reduction=reduction,
                    step=self.step,
                    # Later passes see answers again whose noise the policy has learned already.
                    gradient_snr=self._gradient_snr if number < self._num_minibatches else None,
                )
            # What ends an update is counted as well: it is where the policy has gone farthest.
            self._metric_sums.merge(sums)
            if number == 0:
                recompute = partial(recompute_logprobs, self.actor, self.rollout, item_ids)
                self.noise = check_first_minibatch(
                    session, self.rollout, sums, step=self.step, recompute=recompute
                )
            yield sums

    def optimizer_step(self) -> None:
        """Move the weights along the gradients that stand."""
        self._gradient_norms.append(self.session.optimizer_step(self.step, self._examples))

    def zero_grad(self) -> None:
        """Forget the gradients that stand: the update ends before their step."""
        self.session.zero_grad()

    def all_metrics(self) -> dict[str, float]:
        """The metrics of an update that is over."""
        assert self._targets is not None
        metrics = self._metric_sums.metrics()
        metrics["gradient_norm"] = sum(self._gradient_norms) / self.num_steps
        metrics |= self.metrics
        critic = "value_loss" in metrics
        return metrics | rollout_metrics(self.rollout, self._targets, self._gradient_snr, critic=critic)


def on_policy_updates(
    actor: Actor,
    collector: Collector,
    config: PolicyGradientConfig,
    run: RunDirectory,
    *,
    stage: str,
    num_minibatches: int,
    controllers: Mapping[str, Controller],
) -> Iterator[OnPolicyUpdate]:
    """The updates of a run, from its last checkpoint on; between them all is checked, logged and guarded.

    Args:
        actor: what is trained.
        collector: lets the actor act and brings the rewards.
        config: settings.
        run: the run directory; when the updates are over, it holds the run's summary.
        stage: the method's name, as in the metrics.
        num_minibatches: optimiser steps in a pass over a rollout.
        controllers: what the method itself adapts from update to update, by its name in checkpoints.

    Yields:
        Every update with its rollout, for the method to make the steps.

    Raises:
        InvariantViolated: the reference changed.
        PolicyRunaway: KL, repetition or length left their limits; the weights are those of the best
            checkpoint then.
        Interrupted: on a signal, after a checkpoint.
    """
    reference = collector.reference_fingerprint()
    with (
        actor.accumulate_in_place(),
        Session(
            *(actor.module, config, run),
            stage=stage,
            num_examples=collector.num_examples,
            unit=collector.unit,
            param_group_lr=critic_param_group(actor, config),
        ) as session,
    ):
        guard = RunawayGuard()
        for name, controller in {"runaway_guard": guard, **controllers, **collector.controllers}.items():
            session.register_state(name, controller)
        for step in session.steps():
            examples = session.batch(step)
            partition = first_epoch_partition(config, num_minibatches=num_minibatches, step=step)
            rollout = collector.collect(step, examples, partition)
            update = OnPolicyUpdate(
                session, actor, rollout, step=step, examples=examples, num_minibatches=num_minibatches
            )
            yield update
            metrics = update.all_metrics() | collector.update_controllers(rollout)
            session.log(step, len(examples), metrics)
            if reason := guard.observe(metrics, config):
                raise session.runaway(reason)
        now = collector.reference_fingerprint()
        session.record_invariant(invariants.check_reference_unchanged(reference, now, step=session.step))
        session.finish()


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
        minibatches(num_items, num_minibatches=num_minibatches, epochs=1, seed=config.loop.seed, step=step)
    )


def critic_param_group(actor: Actor, config: PolicyGradientConfig) -> ParamGroupLR | None:
    """The critic's own learning rate, where it has weights of its own and another rate."""
    if not config.critic_learning_rate or not actor.critic_parameters:
        return None
    scale = config.critic_learning_rate / config.optimizer.learning_rate
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
