"""Proximal policy optimisation (Schulman et al. 2017): many steps from what one policy did, held near it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logratio.batches import Evaluation, Rollout
from logratio.errors import BadConfig
from logratio.objectives.advantages import gae
from logratio.objectives.kl import k3
from logratio.objectives.masked import masked_whiten
from logratio.objectives.ppo import AdaptivePenalty, clip_active, clip_loss, penalty_loss, value_loss
from logratio.policies.actor import Actor, Collector
from logratio.runs import RunDirectory
from logratio.training import laws
from logratio.training.session import Session, memory_fault
from logratio.training.settings import TrainingConfig, bad_setting, check_not_negative, check_positive
from logratio.training.updates import (
    Reduction,
    Tally,
    Targets,
    describe,
    first_minibatch_laws,
    minibatches,
    row_weights,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(TrainingConfig):
    """Settings of proximal policy optimisation."""

    update_epochs: int = 4
    """Passes over what was collected, before the policy collects again."""
    minibatches: int = 4
    """Steps of the optimiser in a pass."""
    clip_range: float = 0.2
    """The ratio to the policy that collected is clipped at 1 ± this; 0 turns the clip off."""
    clip_range_high: float = 0.0
    """Another range above 1; 0 takes --clip-range."""
    dual_clip: float = 0.0
    """Where the advantage is negative, the ratio has no more gradient above this; 0 turns it off."""
    penalty: float = 0.0
    """Initial coefficient of KL[old, new], which is then doubled or halved towards --target-update-kl; 0: no
    penalty. With a clip range both hold."""
    target_update_kl: float = 0.02
    """KL[old, new] that an update should make, in nats an action."""
    stop_at: float = 1.5
    """An update ends early where KL[old, new] passes this many times the target; 0: it never does."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss."""
    value_clip: float = 0.0
    """The critic's values are clipped at this distance from the old ones; 0 turns it off, as one should."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    whiten_advantages: bool = True
    """Scale the advantages of a batch to mean 0 and deviation 1, over real rows alone."""
    reduction: Reduction = "tokens"
    """Mean over all tokens, over sequences of their means, or over sequences of their sums."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        check_positive(self, "update_epochs", "minibatches", "target_update_kl")
        check_not_negative(
            self,
            *("clip_range", "clip_range_high", "dual_clip", "penalty", "stop_at"),
            *("value_coefficient", "value_clip", "entropy_coefficient"),
        )
        if not (self.clip_range or self.penalty):
            raise BadConfig(
                "neither a clip nor a penalty holds the policy near the one that collected",
                where="--clip-range",
                action="give --clip-range 0.2, or --penalty 1, or both",
            )
        if self.clip_range >= 1:
            raise bad_setting("clip_range", self.clip_range, "below 1")
        if self.dual_clip and self.dual_clip <= 1:
            raise bad_setting("dual_clip", self.dual_clip, "above 1")

    @property
    def clip(self) -> dict[str, Any]:
        """The clip as the objectives take it."""
        return {
            "clip_range": self.clip_range,
            "clip_range_high": self.clip_range_high or None,
            "dual_clip": self.dual_clip or None,
        }


def train_ppo(actor: Actor, collector: Collector, config: PPOConfig, run: RunDirectory) -> dict[str, Any]:
    """Make actions that turned out better than the critic expected more probable, in small steps.

    `L = −min(r·A, clip(r, 1 ± ε)·A) + β·KL[θ', θ] + c₁·½(V − R)² − c₂·H` (arXiv 1707.06347, equations 7 to
    9), r the ratio of the policy θ to the policy θ' that collected, A the generalised advantage.

    Args:
        actor: changed in place.
        collector: lets the actor act and brings the rewards.
        config: settings.
        run: the run directory, which holds checkpoints to go on from where there are any.

    Returns:
        The run's summary.

    Raises:
        LawBroken: on the first minibatch of an update a ratio is not 1, among others.
        NonFiniteLoss, NonFiniteGradient: before the weights would have taken it.
        Interrupted: on a signal, after a checkpoint.
    """
    actor.module.eval()
    with Session(
        actor.module, config, run, stage="ppo", num_examples=collector.num_examples, unit=collector.unit
    ) as session:
        penalty = session.keep("penalty", new_penalty(config)) if config.penalty else None
        for name, controller in collector.controllers.items():
            session.keep(name, controller)
        for step in session.steps():
            examples = session.batch(step)
            rollout = collector.collect(step, examples)
            targets = estimate(rollout, config)
            beta, update_kl = penalty.beta if penalty else 0.0, 0.0
            tally, norms = Tally(), list[float]()
            for numbers in minibatches(
                len(rollout.items),
                parts=config.minibatches,
                epochs=config.update_epochs,
                seed=config.seed,
                step=step,
            ):
                with memory_fault(step=step, config=config, longest=1):
                    part = backpropagate(actor, rollout, numbers, targets, config, beta=beta, step=step)
                update_kl = part.means()["update_kl"]
                # What ends an update is counted as well: it is where the policy has gone farthest.
                tally.merge(part)
                if not norms:
                    first_minibatch_laws(session, rollout, part, step=step)
                    session.held(laws.update_kl_is_zero(update_kl, step=step))
                if config.stop_at and update_kl > config.stop_at * config.target_update_kl:
                    session.drop_gradients()
                    break
                norms.append(session.move(step, examples))
            metrics = tally.means() | {
                "update_kl": update_kl,
                "ratio_deviation": tally.ratio_deviation,
                "gradient_norm": sum(norms) / len(norms),
                "optimiser_steps": float(len(norms)),
            }
            if penalty:
                metrics["update_kl_after"] = measure_update_kl(actor, rollout, targets)
                metrics["penalty"] = penalty.update(metrics["update_kl_after"])
            metrics |= describe(rollout, targets, critic="value_loss" in metrics)
            metrics |= rollout.metrics | collector.learn(rollout)
            session.log(step, len(examples), metrics)
        return session.finish()


def new_penalty(config: PPOConfig) -> AdaptivePenalty:
    """The penalty's controller at the start of a run."""
    return AdaptivePenalty(beta=config.penalty, target=config.target_update_kl)


def estimate(rollout: Rollout, config: PPOConfig) -> Targets:
    """Advantages and returns of the rows, from the critic as it was when they were collected."""
    rows = rollout.trajectories
    advantages = gae(rows.rewards, rows.values, rows.next_values, rows.discounts, rows.traces)
    returns = advantages + rows.values
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, rows.mask)
    return Targets.of(rollout, advantages, returns)


def backpropagate(
    actor: Actor,
    rollout: Rollout,
    numbers: Sequence[int],
    targets: Targets,
    config: PPOConfig,
    *,
    beta: float,
    step: int,
) -> Tally:
    """Add the gradients of a minibatch, part by part, and count what it said."""
    weights, tally = row_weights(rollout, numbers, config.reduction), Tally()
    for now in actor.evaluate([rollout.items[number] for number in numbers], numbers, rollout):
        values, log_ratio = row_losses(now, targets, config, beta=beta)
        loss = (values.pop("loss") * weights[now.rows].to(log_ratio)).sum()
        laws.loss_is_finite(loss[None], numbers, step=step)
        loss.backward()
        tally.add(values, log_ratio)
    laws.every_row_is_counted(tally.rows, weights, step=step)
    return tally


def row_losses(
    now: Evaluation, targets: Targets, config: PPOConfig, *, beta: float
) -> tuple[dict[str, Tensor], Tensor]:
    """The loss of every row with its parts, `[R]` each, and the log-ratio."""
    at = now.rows
    log_ratio = now.logprobs - targets.logprobs[at].to(now.logprobs)
    advantages = targets.advantages[at].to(now.logprobs)
    # k3 of the reversed log-ratio: from actions of θ' an unbiased estimate of KL[θ', θ] and of its gradient.
    update_kl = k3(-log_ratio)
    if config.clip_range:
        policy_loss = clip_loss(log_ratio, advantages, **config.clip)
        active = clip_active(log_ratio, advantages, **config.clip).to(log_ratio)
        policy_loss = policy_loss + beta * update_kl if beta else policy_loss
    else:
        policy_loss = penalty_loss(log_ratio, advantages, update_kl, beta=beta)
        active = torch.zeros_like(log_ratio)
    parts = {
        "policy_loss": policy_loss,
        "entropy": now.entropy,
        "update_kl": update_kl,
        "clip_fraction": active,
    }
    loss = policy_loss
    if config.entropy_coefficient:
        loss = loss - config.entropy_coefficient * now.entropy
    if now.values is not None:
        returns = targets.returns[at].to(now.values)
        old = targets.values[at].to(now.values) if config.value_clip else None
        critic = value_loss(now.values, returns, old_values=old, clip_range=config.value_clip or None)
        parts["value_loss"] = critic
        loss = loss + config.value_coefficient * critic
    return parts | {"loss": loss}, log_ratio


@torch.no_grad()
def measure_update_kl(actor: Actor, rollout: Rollout, targets: Targets) -> float:
    """KL[θ', θ] over the whole batch after the last step, in nats a row: what the penalty adapts to."""
    numbers = list(range(len(rollout.items)))
    divergences = [
        k3(targets.logprobs[now.rows].to(now.logprobs) - now.logprobs)
        for now in actor.evaluate(rollout.items, numbers, rollout)
    ]
    return float(torch.cat(divergences).double().mean())
