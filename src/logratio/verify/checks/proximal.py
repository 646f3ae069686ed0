"""Proximal policy optimisation where it can be worked out by hand or enumerated: P1, P2, P3 and P7."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logratio.objectives.importance import log_weights
from logratio.objectives.kl import exact_kl, k3
from logratio.objectives.masked import masked_mean, masked_sum
from logratio.objectives.policy_gradient import reinforce_loss
from logratio.objectives.ppo import (
    AdaptivePenalty,
    ReferenceKLController,
    clip_active,
    clip_loss,
    penalty_loss,
    value_loss,
)
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.verify.checks.advantages import exact_gradient
from logratio.verify.checks.rows import Check, Row, control, equal, relative
from logratio.verify.worlds.transformer import small_llama
from logratio.verify.worlds.world import World, token_logprobs


def check_first_gradient(quick: bool) -> list[Row]:
    """Before the first step nothing is clipped, and PPO's gradient is the policy gradient."""
    world = World()
    logits, rewards = world.random_logits(seed=7), world.rewards(seed=8)
    table = logits.clone().requires_grad_()
    logprobs = token_logprobs(world, table)
    flat = logprobs.flatten(0, 1)
    mask = world.mask.repeat(len(world.prompts), 1)
    log_ratio = log_weights(flat, flat.detach(), mask, level="token")
    scores = (rewards - 0.4).flatten()[:, None].expand_as(flat)
    chances = logprobs.detach().sum(dim=2).exp().flatten()

    def gradient(losses: Tensor) -> Tensor:
        total = (chances * masked_sum(losses, mask, dim=1)).sum() / len(world.prompts)
        return -torch.autograd.grad(total, table, retain_graph=True)[0]

    clipped = gradient(clip_loss(log_ratio, scores, clip_range=0.2, clip_range_high=0.28, dual_clip=3.0))
    update_kl = exact_kl(logits, table)[:, world.states].flatten(0, 1)
    penalised = gradient(penalty_loss(log_ratio, scores, update_kl, beta=2.0))
    exact = exact_gradient(world, logits, rewards)
    active = clip_active(log_ratio, scores, clip_range=0.2)
    return [
        relative(
            "clipped: its gradient is the policy gradient",
            clipped,
            gradient(reinforce_loss(flat, scores)),
            tolerance=1e-12,
        ),
        relative("clipped: its gradient is ∇J of the enumerated language", clipped, exact, tolerance=1e-12),
        relative("penalised: its gradient is ∇J", penalised, exact, tolerance=1e-12),
        equal("every ratio is 1", log_ratio.exp(), torch.ones_like(flat), tolerance=0.0),
        equal("the share clipped", masked_mean(active.double(), mask), 0.0, tolerance=0.0),
        equal("the KL of the update so far, by k3", masked_mean(k3(log_ratio), mask), 0.0, tolerance=0.0),
        *_first_ratios(world),
    ]


def _first_ratios(world: World) -> list[Row]:
    """Ratios of a transformer in float32 to what it said itself when its answers were collected."""
    policy = LanguagePolicy(small_llama(seed=12).float(), None)
    parts = [
        AnswerGroup(group.prompt, group.answers[start : start + 8])
        for group in world.groups()
        for start in range(0, len(group.answers), 8)
    ]
    with torch.no_grad():
        behaviour = torch.cat([policy.evaluate(row) for row in policy.pack(world.groups())])
        alike = torch.cat([policy.evaluate(row) for row in policy.pack(world.groups())])
        apart = torch.cat([policy.evaluate(row) for part in parts for row in policy.pack([part])])
    ones = torch.ones_like(behaviour)
    return [
        equal(
            "transformer, the same batch again: every ratio is 1",
            (alike - behaviour).exp(),
            ones,
            tolerance=0.0,
        ),
        equal(
            "transformer, in batches of eight answers: every ratio is 1",
            (apart - behaviour).exp(),
            ones,
            tolerance=1e-5,
        ),
    ]


# r, A, the objective min(rA, clip(r)A) and its derivative by r, for a clip of 0.2: worked by hand.
CLIPPED = (
    (0.5, 1.0, 0.5, 1.0),
    (0.5, -1.0, -0.8, 0.0),
    (0.9, 1.0, 0.9, 1.0),
    (0.9, -1.0, -0.9, -1.0),
    (1.1, 1.0, 1.1, 1.0),
    (1.1, -1.0, -1.1, -1.0),
    (1.5, 1.0, 1.2, 0.0),
    (1.5, -1.0, -1.5, -1.0),
    (4.0, 1.0, 1.2, 0.0),
    (4.0, -1.0, -4.0, -1.0),
)
# The same points with a dual clip of 3: only r = 4, A = −1 changes.
DUAL_CLIPPED = (*CLIPPED[:-1], (4.0, -1.0, -3.0, 0.0))
# With 0.28 above: r = 1.25 is let through, and good actions are held at 1.28.
ASYMMETRIC = ((1.25, 1.0, 1.25, 1.0), (1.5, 1.0, 1.28, 0.0), (4.0, 1.0, 1.28, 0.0), *CLIPPED[:6])


def check_clip_regions(quick: bool) -> list[Row]:
    """Value and slope of the clipped objective in every region."""
    tables = (
        ("clip", CLIPPED, None, None),
        ("dual clip 3", DUAL_CLIPPED, None, 3.0),
        ("clip of 0.28 above", ASYMMETRIC, 0.28, None),
    )
    result = []
    for what, table, high, dual in tables:
        ratios, advantages, objective, slopes = torch.tensor(table, dtype=torch.float64).unbind(1)
        log_ratio = ratios.log().requires_grad_()
        losses = clip_loss(log_ratio, advantages, clip_range=0.2, clip_range_high=high, dual_clip=dual)
        (by_log,) = torch.autograd.grad(losses.sum(), log_ratio)
        active = clip_active(log_ratio, advantages, clip_range=0.2, clip_range_high=high, dual_clip=dual)
        flat = slopes == 0
        result += [
            # The ratio comes from its logarithm, so its last digit may differ.
            equal(f"{what}: the objective at {len(table)} points", -losses, objective, tolerance=4e-15),
            equal(f"{what}: its slope by log r", -by_log, ratios * slopes, tolerance=4e-15),
            equal(
                f"{what}: no slope at all where the table says 0",
                by_log[flat],
                torch.zeros(int(flat.sum())),
                tolerance=0.0,
            ),
            equal(f"{what}: what is counted as clipped", active.double(), flat.double(), tolerance=0.0),
        ]
    outside = (torch.tensor([r for r, *_ in CLIPPED]) - 1).abs() > 0.2
    counted = torch.tensor([slope == 0 for *_, slope in CLIPPED])
    miscounted = float((outside != counted).double().mean())
    return [*result, control("share miscounted by |r − 1| > ε", miscounted, at_least=0.3)]


# V, the half squared error clipped within 0.2 of V_old = 2 for R = 3, and its derivative by V: by hand.
CLIPPED_VALUES = (
    (2.1, 0.405, -0.9),
    (2.5, 0.32, 0.0),
    (3.5, 0.32, 0.0),
    (5.0, 2.0, 2.0),
    (1.9, 0.605, -1.1),
    (1.5, 1.125, -1.5),
)
# The KL of an update and β after it, for a target of 1, from β = 1 within 0.25 and 4: by hand.
ADAPTED = (
    (1.6, 2.0),
    (1.5, 2.0),
    (9.0, 4.0),
    (math.inf, 4.0),
    (1.0, 4.0),
    (0.7, 4.0),
    (0.6, 2.0),
    (0.0, 1.0),
    (0.0, 0.5),
    (0.0, 0.25),
    (0.0, 0.25),
)
# The KL to the reference and the factor on its coefficient, for 6 nats wanted, 256 sequences, horizon 10,000.
STEERED = ((12.0, 1.00512), (6.0, 1.0), (6.6, 1.00256), (5.7, 0.99872), (0.0, 0.99488), (-1.0, 0.99488))


def check_value_clip_and_controllers(quick: bool) -> list[Row]:
    """The clipped value loss in every region, and both controllers along a sequence worked by hand."""
    values, losses, slopes = torch.tensor(CLIPPED_VALUES, dtype=torch.float64).unbind(1)
    values = values.clone().requires_grad_()
    targets, old = torch.full_like(losses, 3.0), torch.full_like(losses, 2.0)
    ours = value_loss(values, targets, old_values=old, clip_range=0.2)
    (gradient,) = torch.autograd.grad(ours.sum(), values, retain_graph=True)
    plain = value_loss(values, targets)
    (plain_gradient,) = torch.autograd.grad(plain.sum(), values)
    penalty = AdaptivePenalty(beta=1.0, target=1.0, floor=0.25, ceiling=4.0)
    adapted = torch.tensor([penalty.update(update_kl) for update_kl, _ in ADAPTED], dtype=torch.float64)
    controller = ReferenceKLController(coefficient=0.2, target=6.0)
    steered = [controller.update(reference_kl, num_sequences=256) for reference_kl, _ in STEERED]
    factors = torch.tensor([factor for _, factor in STEERED], dtype=torch.float64)
    return [
        equal("clipped value loss in its regions", ours, losses, tolerance=1e-12),
        equal("its slope", gradient, slopes, tolerance=1e-12),
        equal("value loss without a clip", plain, (values.detach() - 3).square() / 2, tolerance=1e-12),
        equal("its slope, the error itself", plain_gradient, values.detach() - 3, tolerance=1e-12),
        equal(
            "β of the penalty over eleven updates, both bounds met",
            adapted,
            torch.tensor([beta for _, beta in ADAPTED]),
            tolerance=0.0,
        ),
        equal(
            "coefficient of the reference KL over six batches",
            torch.tensor(steered, dtype=torch.float64),
            0.2 * factors.cumprod(0),
            tolerance=1e-12,
        ),
    ]


def check_clip_as_kl_penalty(quick: bool) -> list[Row]:
    """The clip is a KL penalty of each sample's own strength: −r·A where it binds, 0 elsewhere."""
    generator = torch.Generator().manual_seed(9)
    drawn = torch.randn(2, 400, generator=generator, dtype=torch.float64)
    log_ratio, advantages = (0.5 * drawn[0]).requires_grad_(), drawn[1]
    active = clip_active(log_ratio, advantages, clip_range=0.2)
    strengths = torch.where(active, -log_ratio.detach().exp() * advantages, 0.0)
    # From samples of θ' the estimate k1 of KL[θ', θ] is −log r.
    penalties = [
        penalty_loss(row, advantage, -row, beta=strength)
        for row, advantage, strength in zip(log_ratio, advantages, strengths.tolist(), strict=True)
    ]
    (penalised,) = torch.autograd.grad(torch.stack(penalties).sum(), log_ratio)
    losses = clip_loss(log_ratio, advantages, clip_range=0.2)
    (clipped,) = torch.autograd.grad(losses.sum(), log_ratio)
    everywhere = penalty_loss(log_ratio, advantages, -log_ratio, beta=float(strengths.mean()))
    (uniform,) = torch.autograd.grad(everywhere.sum(), log_ratio)
    return [
        equal(
            "400 samples: the clip's gradient is that of a penalty for each sample",
            penalised,
            clipped,
            tolerance=1e-14,
        ),
        equal(
            "share of the 400 that is clipped",
            masked_mean(active.double(), torch.ones_like(active)),
            _share(drawn),
            tolerance=0.0,
        ),
        control(
            "one strength for all samples", float((uniform - clipped).norm() / clipped.norm()), at_least=0.1
        ),
    ]


def _share(drawn: Tensor) -> float:
    """The share of samples that eq. 7 clips, counted one by one."""
    clipped = [
        (advantage > 0 and math.exp(0.5 * x) > 1.2) or (advantage < 0 and math.exp(0.5 * x) < 0.8)
        for x, advantage in zip(*drawn.tolist(), strict=True)
    ]
    return sum(clipped) / len(clipped)


CHECKS = (
    Check(name="P1", title="PPO's first gradient is the policy gradient", run=check_first_gradient),
    Check(name="P2", title="the clip binds where it must and nowhere else", run=check_clip_regions),
    Check(
        name="P3",
        title="the value clip and both KL controllers, against hand-worked tables",
        run=check_value_clip_and_controllers,
    ),
    Check(
        name="P7",
        title="PPO's clip is a KL penalty of each sample's own strength",
        run=check_clip_as_kl_penalty,
    ),
)
