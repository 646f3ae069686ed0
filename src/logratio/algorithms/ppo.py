"""Proximal policy optimisation (Schulman et al. 2017): many steps from what one policy did, held near it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from logratio.errors import BadConfig
from logratio.objectives.advantages import gae
from logratio.objectives.kl import k3
from logratio.objectives.masked import masked_whiten
from logratio.objectives.ppo import AdaptivePenalty, clip_active, clip_loss, penalty_loss, value_loss
from logratio.policies.microbatches import RowLosses
from logratio.policies.protocols import Actor, Collector
from logratio.run_directory import RunDirectory
from logratio.training import invariants
from logratio.training.config import PolicyGradientConfig, bad_setting, check_not_negative, check_positive
from logratio.training.on_policy import MetricSums, Reduction, UpdateTargets, auxiliary_losses
from logratio.training.on_policy_loop import OnPolicyUpdate, on_policy_updates
from logratio.trajectories import ActionEvaluation, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(PolicyGradientConfig):
    """Settings of proximal policy optimisation."""

    update_epochs: int = 4
    """PPO epochs per rollout."""
    minibatches: int = 4
    """Steps of the optimiser in a pass."""
    clip_range: float = 0.2
    """The ratio to the policy that collected is clipped at 1 ± this; 0 turns the clip off."""
    clip_range_high: float = 0.0
    """Another range above 1; 0 takes --clip-range."""
    dual_clip: float = 0.0
    """Where the advantage is negative, the ratio has no more gradient above this; 0 turns it off."""
    kl_penalty: float = 0.0
    """Initial coefficient of KL[old, new], which is then doubled or halved towards --target-update-kl; 0: no
    penalty. With a clip range both hold."""
    target_update_kl: float = 0.02
    """KL[old, new] that an update should make, in nats per action."""
    early_stop_factor: float = 1.5
    """An update ends early where KL[old, new] passes this many times the target; 0: it never does."""
    value_clip: float = 0.0
    """The critic's values are clipped at this distance from the old ones; 0 turns it off, as one should."""
    whiten_advantages: bool = True
    """Scale the advantages of a batch to mean 0 and deviation 1, over real rows alone."""
    reduction: Reduction = "tokens"
    """Mean over all tokens, over sequences of their means, or over sequences of their sums."""

    def __post_init__(self) -> None:
        PolicyGradientConfig.__post_init__(self)
        check_positive(self, "update_epochs", "minibatches", "target_update_kl")
        check_not_negative(
            self,
            *("clip_range", "clip_range_high", "dual_clip", "kl_penalty", "early_stop_factor", "value_clip"),
        )
        if not (self.clip_range or self.kl_penalty):
            raise BadConfig(
                "neither a clip nor a penalty holds the policy near the one that collected",
                where="--clip-range",
                action="give --clip-range 0.2, or --kl-penalty 1, or both",
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
        InvariantViolated: on the first minibatch of an update a ratio is not 1, among others.
        NonFiniteLoss, NonFiniteGradient: before the weights would have taken it.
        PolicyRunaway: KL, repetition or length left their limits; the weights are those of the best
            checkpoint then.
        Interrupted: on a signal, after a checkpoint.
    """
    kl_penalty = new_kl_penalty(config) if config.kl_penalty else None
    for update in on_policy_updates(
        *(actor, collector, config, run),
        stage="ppo",
        num_minibatches=config.minibatches,
        controllers={"kl_penalty": kl_penalty} if kl_penalty else {},
    ):
        targets = estimate(update.rollout, config)
        losses = partial(row_losses, config=config, beta=kl_penalty.beta if kl_penalty else 0.0)
        update_kl = 0.0
        for sums in update.minibatches(
            targets, losses, reduction=config.reduction, epochs=config.update_epochs
        ):
            update_kl = sums.means()["update_kl"]
            if update.num_steps == 0:
                check_first_step(update, sums, config)
            if config.early_stop_factor and update_kl > config.early_stop_factor * config.target_update_kl:
                update.zero_grad()
                break
            update.optimizer_step()
        update.metrics = {"update_kl": update_kl, "optimiser_steps": float(update.num_steps)}
        if kl_penalty:
            update_kl_after = measure_update_kl(actor, update.rollout, targets)
            update.metrics["update_kl_after"] = update_kl_after
            update.metrics["kl_penalty"] = kl_penalty.update(update_kl_after)
    return run.summary


def check_first_step(update: OnPolicyUpdate, sums: MetricSums, config: PPOConfig) -> None:
    """Before the first step of an update θ is θ', so their KL is 0 and nothing is clipped."""
    session, step, means = update.session, update.step, sums.means()
    tolerance = invariants.update_kl_tolerance(update.noise, sums.rows)
    session.record_invariant(
        invariants.check_update_kl_is_zero(means["update_kl"], step=step, tolerance=tolerance)
    )
    if not config.clip_range or invariants.ratio_tolerance(update.noise) < config.clip_range:
        session.record_invariant(invariants.check_nothing_is_clipped(means["clip_fraction"], step=step))


def new_kl_penalty(config: PPOConfig) -> AdaptivePenalty:
    """The penalty's controller at the start of a run."""
    return AdaptivePenalty(beta=config.kl_penalty, target=config.target_update_kl)


def estimate(rollout: Rollout, config: PPOConfig) -> UpdateTargets:
    """Advantages and returns of the rows, from the critic as it was when they were collected."""
    rows = rollout.trajectories
    advantages = gae(rows.rewards, rows.values, rows.next_values, rows.discounts, rows.traces)
    returns = advantages + rows.values
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, rows.mask)
    return UpdateTargets.of(rollout, advantages, returns)


def row_losses(now: ActionEvaluation, *, targets: UpdateTargets, config: PPOConfig, beta: float) -> RowLosses:
    """The loss of every row with its parts, `[R]` each."""
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
    added, parts = auxiliary_losses(now, targets, log_ratio, config)
    parts |= {"policy_loss": policy_loss, "update_kl": update_kl, "clip_fraction": active}
    loss = sum(added, start=policy_loss)
    if now.values is not None:
        returns = targets.returns[at].to(now.values)
        old = targets.values[at].to(now.values) if config.value_clip else None
        parts["value_loss"] = value_loss(
            now.values, returns, old_values=old, clip_range=config.value_clip or None
        )
        loss = loss + config.value_coefficient * parts["value_loss"]
    return RowLosses(loss, log_ratio, log_weights=log_ratio, parts=parts)


@torch.no_grad()
def measure_update_kl(actor: Actor, rollout: Rollout, targets: UpdateTargets) -> float:
    """KL[θ', θ] over the whole batch after the last step, in nats per row: what the penalty adapts to."""
    item_ids = list(range(len(rollout.items)))
    divergences = [
        k3(targets.logprobs[now.rows].to(now.logprobs) - now.logprobs)
        for now in actor.evaluate(rollout.items, item_ids, rollout)
    ]
    return float(torch.cat(divergences).cpu().double().mean())
