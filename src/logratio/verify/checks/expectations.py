"""Policy gradients against the exact one: the objectives, weighed with the probabilities of all sequences.

An expectation over a policy's sequences is a finite sum here. A loss whose gradient is said to be `−∇J` is
summed over every sequence with its exact probability and compared with the gradient of `J = Σ π(y) R(y)`
itself, which E2 holds against differences of the oracle's J. Only E5 draws samples, as training does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from logratio.generation.token_sampling import sample_from_logits, uniform_numbers
from logratio.objectives.advantages import discounted_returns, gae, group_centred, leave_one_out
from logratio.objectives.importance import log_weights
from logratio.objectives.masked import masked_mean, masked_sum
from logratio.objectives.policy_gradient import optimal_baseline, reinforce_loss
from logratio.objectives.ppo import clip_loss
from logratio.verify.checks import divergences
from logratio.verify.checks.enumerated import (
    FOLLOWED,
    MASK,
    NUM_PROMPTS,
    NUM_SEQUENCES,
    OTHER,
    OTHER_SEED,
    POLICY,
    WORLD,
    column,
    distance,
    gradient_of,
    language,
    language_directions,
    language_logits,
    misdirection,
    rewards,
    summed,
    tabular,
    totals,
    weights_of,
)
from logratio.verify.checks.rows import Check, Row, below, control, equal, relative
from logratio.verify.worlds import oracle, transformer
from logratio.verify.worlds.world import END

DISCOUNT = 0.9
GROUP = 4
"""Siblings in a sampled group."""
NUM_PROJECTIONS = 32
LARGEST_Z = 5.5
"""One in a million: 32 standard normal numbers pass it once in 800,000 times."""


# --- losses whose gradient is exact, and forms whose gradient is not ----------------------------------


def returns_to_go(discount: float = 1.0) -> Tensor:
    """`[P·S, H]` (discounted) rewards from each token on."""
    return discounted_returns(rewards(), discount * FOLLOWED)


def state_values() -> Tensor:
    """`[P·S, H]` a critic that knows nothing: one random number a state."""
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(NUM_PROMPTS, len(WORLD.prefixes), generator=generator, dtype=torch.float64)
    return values[:, WORLD.states].flatten(0, 1)


def on_policy_losses(logprobs: Tensor) -> dict[str, Tensor]:
    """Losses `[P·S]` of sequences from the policy itself."""
    total = summed(rewards())[:, None].expand_as(rewards())
    values = state_values()
    # What stands behind an episode's end must not matter.
    next_values = torch.where(FOLLOWED > 0, values.roll(-1, dims=1), torch.nan)
    advantages = gae(rewards(), values, next_values, FOLLOWED, FOLLOWED)
    forms = {
        "total reward": total,
        "reward-to-go": returns_to_go(),
        "reward-to-go less a baseline of the state": returns_to_go() - values,
        "generalised advantages, λ = 1, untrained critic": advantages,
    }
    return {name: summed(reinforce_loss(logprobs, form)) for name, form in forms.items()}


def discounted_loss(logprobs: Tensor) -> Tensor:
    """The loss for `E Σ γ^t r_t`: rewards-to-go, each with the discount of its own place."""
    powers = DISCOUNT ** torch.arange(WORLD.horizon, dtype=torch.float64)
    return summed(reinforce_loss(logprobs, returns_to_go(DISCOUNT) * powers))


def off_policy_losses(logprobs: Tensor, behaviour: Tensor) -> dict[str, Tensor]:
    """Losses `[P·S]` of sequences from another policy; the weights carry gradients, which must not count."""
    whole = log_weights(logprobs, behaviour, MASK, level="sequence")[:, None].expand_as(logprobs)
    decisions = log_weights(logprobs, behaviour, MASK, level="per_decision")
    weighted = discounted_returns(rewards() * decisions.exp(), FOLLOWED)
    return {
        "weights of sequences": summed(reinforce_loss(logprobs, returns_to_go(), log_weights=whole)),
        "weights per decision on the rewards": summed(reinforce_loss(logprobs, weighted)),
    }


def wrong_losses(logprobs: Tensor) -> dict[str, Tensor]:
    """Forms on the policy's own sequences that are known to have another gradient."""
    losses = reinforce_loss(logprobs, returns_to_go())
    late = F.pad(returns_to_go()[:, 1:], (0, 1))
    return {
        "each sequence's mean over its tokens": masked_mean(losses, MASK, dim=1),
        "the end token left out": masked_sum(losses, not_the_end(), dim=1),
        "rewards-to-go from the next token on": summed(reinforce_loss(logprobs, late)),
    }


def not_the_end() -> Tensor:
    """`[P·S, H]` no end token: as where padding is the end token, and is masked by its number."""
    return MASK & (WORLD.tokens != END).repeat(NUM_PROMPTS, 1)


# --- E2, E3, E4: exact expectations ------------------------------------------------------------------


def direct_gradient(logprobs: Tensor, parameters: Sequence[Tensor], discount: float = 1.0) -> Tensor:
    """∇J by autograd of `J = Σ π(y) R(y)`."""
    return gradient_of((summed(logprobs).exp() * column(totals(discount))).sum() / NUM_PROMPTS, parameters)


def expected_reward(discount: float = 1.0) -> Callable[[Tensor], float]:
    """J of a table of logits, by the oracle."""
    values = totals(discount)
    return lambda logits: oracle.expected(WORLD, logits, values)


def check_objective_gradient(quick: bool) -> list[Row]:
    """The gradient of J, against differences of the oracle's J."""
    rows = []
    for discount in (1.0, DISCOUNT):
        exact = oracle.central_differences(expected_reward(discount), POLICY)
        ours = direct_gradient(*tabular(), discount)
        rows.append(relative(f"∇J of 320 logits, γ = {discount:g}", ours, exact.flatten(), tolerance=1e-7))
    ways, tables = language_directions()
    slopes = transformer.slopes(expected_reward(), tables)
    along = ways @ direct_gradient(*language())
    return [*rows, relative("∇J of a transformer, in 8 directions", along, slopes, tolerance=1e-7)]


def check_policy_gradient_expectation(quick: bool) -> list[Row]:
    """The policy gradient in expectation, on a table of logits and through a transformer."""
    logprobs, parameters = tabular()
    behaviour = tabular(OTHER)[0].detach()
    rows = _exact_rows("table", logprobs, parameters, weights_of(POLICY), behaviour, weights_of(OTHER))
    exact = direct_gradient(logprobs, parameters, DISCOUNT)
    ours = -gradient_of((weights_of(POLICY) * discounted_loss(logprobs)).sum(), parameters)
    rows.append(relative("table: discounted rewards-to-go", ours, exact, tolerance=1e-9))
    exact = direct_gradient(logprobs, parameters)
    for name, losses in wrong_losses(logprobs).items():
        ours = -gradient_of((weights_of(POLICY) * losses).sum(), parameters)
        rows.append(control(name, distance(ours, exact), at_least=0.1))
    ratios = log_weights(logprobs, behaviour, MASK, level="token")
    surrogate = summed(reinforce_loss(logprobs, returns_to_go(), log_weights=ratios))
    ours = -gradient_of((weights_of(OTHER) * surrogate).sum(), parameters)
    rows.append(control("from another policy, ratios of tokens", distance(ours, exact), at_least=0.1))
    logprobs, parameters = language()
    behaviour = language(OTHER_SEED)[0].detach()
    target_weights, behaviour_weights = weights_of(language_logits()), weights_of(language_logits(OTHER_SEED))
    rows += _exact_rows("transformer", logprobs, parameters, target_weights, behaviour, behaviour_weights)
    return [*rows, _least_variance()]


def _exact_rows(
    policy: str,
    logprobs: Tensor,
    parameters: Sequence[Tensor],
    weights: Tensor,
    behaviour: Tensor,
    behaviour_weights: Tensor,
) -> list[Row]:
    exact = direct_gradient(logprobs, parameters)
    cases = [(name, losses, weights) for name, losses in on_policy_losses(logprobs).items()]
    cases += [
        (f"from another policy, {name}", losses, behaviour_weights)
        for name, losses in off_policy_losses(logprobs, behaviour).items()
    ]
    return [
        relative(
            f"{policy}: {name}",
            -gradient_of((sequence_weights * losses).sum(), parameters),
            exact,
            tolerance=1e-9,
        )
        for name, losses, sequence_weights in cases
    ]


def _least_variance() -> Row:
    """The constant baseline of least variance, against the vertex of the variance's parabola."""
    norms, returns = column(oracle.squared_score_norms(WORLD, POLICY)), column(totals())
    # One prompt: each has its own best baseline.
    weights, first_prompt = weights_of(POLICY) * NUM_PROMPTS, slice(0, NUM_SEQUENCES)
    low, middle, high = (
        float(
            (weights[first_prompt] * norms[first_prompt] * (returns[first_prompt] - baseline).square()).sum()
        )
        for baseline in (-1.0, 0.0, 1.0)
    )
    vertex = (low - high) / (2 * (low + high - 2 * middle))
    ours = optimal_baseline(returns[first_prompt], weights[first_prompt] * norms[first_prompt])
    return equal("baseline of least variance", ours, vertex, tolerance=1e-9)


def check_group_baselines(quick: bool) -> list[Row]:
    """Groups of two, every pair of sequences with its probability."""
    exact = direct_gradient(*tabular())
    rewards_of_pairs = _pairs(column(totals())[:, None])[..., 0].flatten()
    forms = {
        "leave one out": (leave_one_out(rewards_of_pairs, group_size=2), 1.0),
        "group mean, one's own reward included": (group_centred(rewards_of_pairs, group_size=2), 0.5),
    }
    rows = [
        relative(f"{name}: {scale:g} ∇J", pair_gradient(advantages), scale * exact, tolerance=1e-9)
        for name, (advantages, scale) in forms.items()
    ]
    centred = group_centred(rewards_of_pairs, group_size=2)
    scaled = group_centred(rewards_of_pairs, group_size=2, divide_by_std=True)
    wrong = {
        "divided by the group's deviation": pair_gradient(scaled),
        "mean over a sequence's tokens": pair_gradient(centred, over="sequence"),
        "both, as in GRPO": pair_gradient(scaled, over="sequence"),
        "mean over the group's tokens": pair_gradient(centred, over="group"),
    }
    return rows + [
        control(f"direction: {name}", misdirection(ours, exact), at_least=0.05)
        for name, ours in wrong.items()
    ]


def pair_gradient(advantages: Tensor, *, over: str = "sum") -> Tensor:
    """Minus the gradient of the mean loss of two answers, over all pairs with their probabilities.

    Args:
        advantages: `[P·S·S·2]`, the two of each pair side by side.
        over: what a sequence's token losses are divided by: nothing (`sum`), its tokens (`sequence`), or the
            mean number of tokens of the two (`group`).
    """
    logprobs, parameters = tabular()
    pairs, mask = _pairs(logprobs), _pairs(MASK)
    losses = reinforce_loss(pairs, advantages.view(*pairs.shape[:-1], 1).expand_as(pairs))
    flat, real = losses.flatten(0, 2), mask.flatten(0, 2)
    if over == "group":
        means = masked_mean(losses.flatten(2).flatten(0, 1), mask.flatten(2).flatten(0, 1), dim=1)
    else:
        each = masked_mean(flat, real, dim=1) if over == "sequence" else masked_sum(flat, real, dim=1)
        means = each.view(-1, 2).mean(dim=1)
    probabilities = (weights_of(POLICY) * NUM_PROMPTS).view(NUM_PROMPTS, -1)
    weights = (probabilities[:, :, None] * probabilities[:, None, :]).flatten() / NUM_PROMPTS
    return -gradient_of((weights * means).sum(), parameters)


def _pairs(values: Tensor) -> Tensor:
    """`[P, S·S, 2, ...]` all ordered pairs of the sequences of each prompt, from `[P·S, ...]`."""
    by_prompt = values.view(NUM_PROMPTS, NUM_SEQUENCES, *values.shape[1:])
    first = by_prompt.repeat_interleave(NUM_SEQUENCES, dim=1)
    second = by_prompt.repeat(1, NUM_SEQUENCES, *[1] * (by_prompt.ndim - 2))
    return torch.stack([first, second], dim=2)


# --- E5: samples -------------------------------------------------------------------------------------


def sample_sequences(logits: Tensor, *, count: int, seed: int, top_k: int = 0) -> Tensor:
    """Draw sequences of a tabular policy token by token, as sampling does: `[P, count]` sequence numbers."""
    index = {prefix: position for position, prefix in enumerate(WORLD.prefixes)}
    following = torch.tensor(
        [[index.get((*prefix, token), 0) for token in range(WORLD.vocabulary)] for prefix in WORLD.prefixes]
    )
    powers = WORLD.vocabulary ** torch.arange(WORLD.horizon)
    sequence_of_code = torch.full((WORLD.vocabulary**WORLD.horizon,), -1)
    sequence_of_code[(WORLD.tokens * powers).sum(dim=1)] = torch.arange(NUM_SEQUENCES)
    sequences = []
    for prompt, table in enumerate(logits):
        chances = uniform_numbers(range(seed + prompt * count, seed + (prompt + 1) * count), WORLD.horizon)
        state, tokens = (
            torch.zeros(count, dtype=torch.long),
            torch.zeros(count, WORLD.horizon, dtype=torch.long),
        )
        going = torch.ones(count, dtype=torch.bool)
        for t in range(WORLD.horizon):
            drawn = sample_from_logits(
                table[state], chances[:, t], temperature=1.0, top_k=top_k, top_p=1.0
            ).tokens
            tokens[:, t] = torch.where(going, drawn, END)
            going = going & (drawn != END)
            state = following[state, drawn]
        sequences.append(sequence_of_code[(tokens * powers).sum(dim=1)])
    return torch.stack(sequences)


def largest_z(losses: Tensor, parameters: Sequence[Tensor], exact: Tensor) -> float:
    """How many standard errors the mean gradient is from the exact one, at most, over random projections.

    Args:
        losses: `[n]` of independent units, each an unbiased estimate in itself.
        parameters: one table of logits.
        exact: its ∇J.
    """
    generator = torch.Generator().manual_seed(11)
    # The derivative by a unit's weight of the projected gradient is the projection of the unit's own.
    weights = torch.ones_like(losses, requires_grad=True)
    (gradient,) = torch.autograd.grad((weights * losses).sum(), list(parameters), create_graph=True)
    worst = 0.0
    for _ in range(NUM_PROJECTIONS):
        way = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
        (projections,) = torch.autograd.grad(torch.dot(gradient.flatten(), way), weights, retain_graph=True)
        error = projections.std() / len(projections) ** 0.5
        worst = max(worst, abs(float((projections.mean() + torch.dot(exact, way)) / error)))
    return worst


def check_sampled_gradients(quick: bool) -> list[Row]:
    """Sampled gradients: the mean over many samples is within its own error of the exact gradient."""
    count = 5_000 if quick else 20_000
    drawn, other = (
        sample_sequences(POLICY, count=count, seed=100),
        sample_sequences(OTHER, count=count, seed=200),
    )
    logprobs, parameters = tabular()
    exact = direct_gradient(logprobs, parameters)
    behaviour = tabular(OTHER)[0].detach()
    advantages = returns_to_go() - state_values()
    at_ratio_1 = clip_loss(logprobs - logprobs.detach(), advantages, clip_range=0.2)
    units = {
        "REINFORCE": _drawn(summed(reinforce_loss(logprobs, returns_to_go())), drawn),
        "leave one out, groups of 4": _leave_one_out_losses(logprobs, drawn),
        "PPO at ratio 1": _drawn(summed(at_ratio_1), drawn),
    } | {
        f"from another policy, {name}": _drawn(losses, other)
        for name, losses in off_policy_losses(logprobs, behaviour).items()
    }
    rows = [
        below(f"largest |z| of 32 projections: {name}", largest_z(losses, parameters, exact), LARGEST_Z)
        for name, losses in units.items()
    ]
    cut = sample_sequences(POLICY, count=count, seed=100, top_k=3)
    wrong = {name: _drawn(losses, drawn) for name, losses in wrong_losses(logprobs).items()}
    wrong["drawn with top-k 3, taken as the policy's own"] = _drawn(
        summed(reinforce_loss(logprobs, returns_to_go())), cut
    )
    return rows + [
        control(f"largest |z|: {name}", largest_z(losses, parameters, exact), at_least=2 * LARGEST_Z)
        for name, losses in wrong.items()
    ]


def _drawn(losses: Tensor, drawn: Tensor) -> Tensor:
    """`[count]` mean over the prompts of the losses of the sequences drawn."""
    return losses.view(NUM_PROMPTS, NUM_SEQUENCES).gather(1, drawn).mean(dim=0)


def _leave_one_out_losses(logprobs: Tensor, drawn: Tensor) -> Tensor:
    """`[count / 4]`: answers to a prompt depend on each other within a group, so a group is a unit."""
    values = column(totals()).view(NUM_PROMPTS, NUM_SEQUENCES).gather(1, drawn)
    advantages = leave_one_out(values.flatten(), group_size=GROUP).view_as(values)
    of_sequences = summed(logprobs).view(NUM_PROMPTS, NUM_SEQUENCES).gather(1, drawn)
    return reinforce_loss(of_sequences, advantages).view(NUM_PROMPTS, -1, GROUP).mean(dim=(0, 2))


CHECKS = (
    Check(
        name="E2",
        title="The gradient of the expected reward, against finite differences",
        run=check_objective_gradient,
    ),
    Check(
        name="E3",
        title="Policy-gradient losses have exactly that gradient in expectation",
        run=check_policy_gradient_expectation,
    ),
    Check(
        name="E4",
        title="Leave-one-out over all pairs is the gradient; GRPO's forms change its direction",
        run=check_group_baselines,
    ),
    Check(
        name="E5",
        title="Sampled gradients agree with the exact one within their own error",
        run=check_sampled_gradients,
    ),
    *divergences.CHECKS,
)
