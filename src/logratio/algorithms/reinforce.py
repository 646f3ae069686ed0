"""REINFORCE (Williams 1992): the policy gradient, with a choice of baselines and with importance weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from logratio.errors import BadConfig
from logratio.objectives.advantages import discounted_returns, gae, group_centred, leave_one_out
from logratio.objectives.importance import truncate_weights
from logratio.objectives.masked import masked_whiten
from logratio.objectives.policy_gradient import greedy_baseline, reinforce_loss
from logratio.objectives.ppo import value_loss
from logratio.policies.protocols import Actor, Collector
from logratio.run_directory import RunDirectory
from logratio.training import invariants
from logratio.training.config import PolicyGradientConfig, check_not_negative, check_positive
from logratio.training.divergence_guard import RunawayGuard
from logratio.training.gradient_noise import GradientSNR
from logratio.training.loop import Session, memory_fault
from logratio.training.microbatches import RowLosses
from logratio.training.on_policy import (
    MetricSums,
    Reduction,
    UpdateTargets,
    auxiliary_losses,
    backpropagate,
    check_first_minibatch,
    critic_param_group,
    first_epoch_partition,
    minibatches,
    recompute_logprobs,
    rollout_metrics,
)
from logratio.trajectories import ActionEvaluation, Rollout

Baseline = Literal["none", "batch-mean", "leave-one-out", "group-centred", "greedy", "critic"]
GROUP_BASELINES = ("leave-one-out", "group-centred")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforceConfig(PolicyGradientConfig):
    """Settings of the policy gradient."""

    baseline: Baseline = "leave-one-out"
    """What is taken off the return: the mean of the batch, of the other answers to the prompt, of all answers
    to it, the return of the greedy answer, or what the critic says (then with generalised advantages)."""
    credit: Literal["reward-to-go", "return"] = "reward-to-go"
    """What an action is credited with: the rewards from it on, or those of the whole sequence."""
    whiten_advantages: bool = False
    """Scale the advantages of a batch to mean 0 and deviation 1, over real rows alone."""
    reduction: Reduction = "sums"
    """Over sequences of their sums, which is the policy gradient; or a mean over all tokens, or over
    sequences of their means."""
    minibatches: int = 1
    """Steps of the optimiser on what was collected. After the first the policy is another than the one that
    collected; see --weights."""
    weights: Literal["none", "token", "sequence"] = "sequence"
    """Importance weights where the policy has moved: of the whole sequence (unbiased), of the token alone (a
    surrogate of less variance), or none."""
    weight_ceiling: float = 2.0
    """Importance weights are cut to this; 0 leaves them as they are."""

    def __post_init__(self) -> None:
        PolicyGradientConfig.__post_init__(self)
        check_positive(self, "minibatches")
        check_not_negative(self, "weight_ceiling")
        if self.credit == "return" and self.baseline == "critic":
            raise BadConfig(
                "a critic's advantages are of what follows an action, not of the whole sequence",
                where="--credit",
                action="leave --credit out, or take another --baseline",
            )


def train_reinforce(
    actor: Actor, collector: Collector, config: ReinforceConfig, run: RunDirectory
) -> dict[str, Any]:
    """Make what brought more than the baseline more probable.

    `∇J = E[Σ_t ∇ log π(a_t|s_t)·(Ψ_t − b)]`, Ψ the return or the reward-to-go; for sequences of a policy that
    has been left behind, weighed by `π/μ`.

    Args:
        actor: changed in place.
        collector: lets the actor act and brings the rewards.
        config: settings.
        run: the run directory, which holds checkpoints to go on from where there are any.

    Returns:
        The run's summary.

    Raises:
        BadConfig: a baseline of siblings without siblings, or one that the collector or the actor lacks.
        InvariantViolated: on the first minibatch of an update a ratio is not 1, among others.
        NonFiniteLoss, NonFiniteGradient: before the weights would have taken it.
        PolicyRunaway: KL, repetition or length left their limits; the weights are those of the best
            checkpoint then.
        Interrupted: on a signal, after a checkpoint.
    """
    actor.module.eval()
    frozen = collector.reference_fingerprint()
    with (
        actor.accumulate_in_place(),
        Session(
            *(actor.module, config, run),
            stage="reinforce",
            num_examples=collector.num_examples,
            unit=collector.unit,
            param_group_lr=critic_param_group(actor, config),
        ) as session,
    ):
        guard = session.register_state("runaway_guard", RunawayGuard())
        for name, controller in collector.controllers.items():
            session.register_state(name, controller)
        for step in session.steps():
            examples = session.batch(step)
            rollout = collector.collect(
                step, examples, first_epoch_partition(config, num_minibatches=config.minibatches, step=step)
            )
            targets = estimate(rollout, config)
            time = rollout.trajectories.mask.shape[1]
            losses = partial(row_losses, targets=targets, config=config, time=time)
            metric_sums, gradient_snr, norms = MetricSums(), GradientSNR(actor.module), list[float]()
            for item_ids in minibatches(
                len(rollout.items), num_minibatches=config.minibatches, epochs=1, seed=config.seed, step=step
            ):
                with memory_fault(step=step, config=config, longest=1):
                    minibatch_sums = backpropagate(
                        *(actor, rollout, item_ids, losses),
                        reduction=config.reduction,
                        step=step,
                        gradient_snr=gradient_snr,
                    )
                if not norms:
                    recompute = partial(recompute_logprobs, actor, rollout, item_ids)
                    check_first_minibatch(session, rollout, minibatch_sums, step=step, recompute=recompute)
                norms.append(session.optimizer_step(step, examples))
                metric_sums.merge(minibatch_sums)
            metrics = metric_sums.metrics() | {"gradient_norm": sum(norms) / len(norms)}
            metrics |= rollout_metrics(rollout, targets, gradient_snr, critic=config.baseline == "critic")
            metrics |= collector.update_controllers(rollout)
            session.log(step, len(examples), metrics)
            if reason := guard.observe(metrics, config):
                raise session.runaway(reason)
        session.record_invariant(
            invariants.check_reference_unchanged(frozen, collector.reference_fingerprint(), step=session.step)
        )
        return session.finish()


def estimate(rollout: Rollout, config: ReinforceConfig) -> UpdateTargets:
    """What each action is credited with, less the baseline; and the critic's targets.

    Raises:
        BadConfig: a baseline of siblings without siblings, or a greedy one without greedy answers.
    """
    rows = rollout.trajectories
    if config.baseline == "critic":
        advantages = gae(rows.rewards, rows.values, rows.next_values, rows.discounts, rows.traces)
        returns = advantages + rows.values
    else:
        returns = discounted_returns(rows.rewards, rows.discounts)
        sequence_returns = returns[:, 0]
        credit = sequence_returns[:, None].expand_as(returns) if config.credit == "return" else returns
        advantages = credit - _baseline(sequence_returns, rollout, config)[:, None]
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, rows.mask)
    return UpdateTargets.of(rollout, advantages, returns)


def _baseline(returns: Tensor, rollout: Rollout, config: ReinforceConfig) -> Tensor:
    """`[sequences]` what is taken off the return of each."""
    if config.baseline in GROUP_BASELINES and rollout.group_size < 2:
        raise BadConfig(
            f"the baseline {config.baseline!r} needs at least two answers to a prompt",
            where="--baseline",
            action="sample more answers, or take --baseline batch-mean",
        )
    match config.baseline:
        case "leave-one-out":
            return returns - leave_one_out(returns, group_size=rollout.group_size)
        case "group-centred":
            return returns - group_centred(returns, group_size=rollout.group_size)
        case "batch-mean":
            return returns.mean().expand_as(returns)
        case "greedy":
            if rollout.greedy_returns is None:
                raise BadConfig(
                    "nothing greedy was collected to compare with",
                    where="--baseline",
                    action="take another baseline",
                )
            return returns - greedy_baseline(returns, rollout.greedy_returns)
    return torch.zeros_like(returns)


def row_losses(
    now: ActionEvaluation, *, targets: UpdateTargets, config: ReinforceConfig, time: int
) -> RowLosses:
    """The loss of every row with its parts, `[R]` each."""
    at = now.rows
    log_ratio = (now.logprobs - targets.logprobs[at].to(now.logprobs)).detach()
    advantages = targets.advantages[at].to(now.logprobs)
    log_weights = importance_log_weights(log_ratio, at // time, config)
    policy_loss = reinforce_loss(now.logprobs, advantages, log_weights=log_weights)
    added, parts = auxiliary_losses(now, targets, log_ratio, config)
    parts["policy_loss"] = policy_loss
    loss = sum(added, start=policy_loss)
    if config.baseline == "critic":
        if now.values is None:
            raise BadConfig(
                "this policy has no critic", where="--baseline", action="take another baseline, or add one"
            )
        parts["value_loss"] = value_loss(now.values, targets.returns[at].to(now.values))
        loss = loss + config.value_coefficient * parts["value_loss"]
    return RowLosses(loss, log_ratio, log_weights=log_weights, parts=parts)


def importance_log_weights(log_ratio: Tensor, sequence: Tensor, config: ReinforceConfig) -> Tensor:
    """`[R]` logarithms of the importance weights of rows; `sequence` says which sequence each is of."""
    if config.weights == "none":
        return torch.zeros_like(log_ratio)
    if config.weights == "sequence":
        _, place = sequence.unique(return_inverse=True)
        sums, place = log_ratio.new_zeros(int(place.max()) + 1), place.to(log_ratio.device)
        log_ratio = sums.index_add(0, place, log_ratio)[place]
    return truncate_weights(log_ratio, ceiling=config.weight_ceiling) if config.weight_ceiling else log_ratio
