"""Training runs on the enumerated language, by the product's objectives, to an optimum that is known exactly.

With a reward for every sequence the best policy under a KL penalty is a formula, `π* ∝ π_ref exp(r/β)`, so a
run is judged by its distance to it. The policy is a table of logits; what it learns from, the losses, the
advantages and the KL in the reward, comes from `logratio.objectives`. Independent runs stand side by side in
one tensor, each with a generator of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from logratio.objectives.advantages import discounted_returns, gae, leave_one_out
from logratio.objectives.bradley_terry import comparison_loss
from logratio.objectives.dpo import dpo_loss
from logratio.objectives.kl import k1
from logratio.objectives.masked import masked_sum
from logratio.objectives.policy_gradient import reinforce_loss
from logratio.objectives.ppo import clip_loss
from logratio.verify.worlds.world import World, sequence_logprobs, token_logprobs


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A world with a reference policy, a reward for every sequence, and the strength of the KL penalty."""

    world: World
    reference: Tensor
    """`[P, N, V]` logits of the reference policy."""
    rewards: Tensor
    """`[P, S]` reward of every sequence."""
    beta: float
    """β, in units of the reward a nat."""

    @cached_property
    def reference_logprobs(self) -> Tensor:
        """`[P, S]` log-probability of every sequence under the reference."""
        return sequence_logprobs(self.world, self.reference)

    @cached_property
    def optimum(self) -> Tensor:
        """`[P, S]` the best policy, `π_ref exp(r/β) / Z` (Rafailov et al., 2023, eq. 4)."""
        return (self.reference_logprobs + self.rewards / self.beta).softmax(dim=-1)

    @cached_property
    def best_objective(self) -> Tensor:
        """`[P]` the objective at the optimum, `β log Z`."""
        return self.beta * (self.reference_logprobs + self.rewards / self.beta).logsumexp(dim=-1)

    def objective(self, logits: Tensor) -> Tensor:
        """`[P]` the objective `E[r] − β KL[π, π_ref]` of a table `[P, N, V]`."""
        logprobs = sequence_logprobs(self.world, logits)
        penalised = self.rewards - self.beta * (logprobs - self.reference_logprobs)
        return (logprobs.exp() * penalised).sum(dim=-1)

    def distance(self, logits: Tensor) -> Tensor:
        """`[...]` total variation to the optimum of tables `[..., P, N, V]`, at the worst prompt."""
        return total_variation(probabilities(self.world, logits), self.optimum)

    def divergence(self, logits: Tensor) -> Tensor:
        """`[...]` KL[π, π*] in nats of tables `[..., P, N, V]`, the mean over prompts."""
        policy = probabilities(self.world, logits)
        return (policy * (policy.log() - self.optimum.log())).sum(dim=-1).mean(dim=-1)


@dataclass(kw_only=True)
class Training:
    """Where a run ended and the way it took."""

    logits: Tensor
    """`[..., P, N, V]` the table at the end."""
    distances: list[list[float]] = field(default_factory=list)
    """Total variation to the optimum at the start and after each update, one number a run."""
    divergences: list[list[float]] = field(default_factory=list)
    """KL[π, π*] in nats, the mean over prompts, at the same times."""

    def note(self, problem: Problem, logits: Tensor) -> None:
        """Write down how far `[..., P, N, V]` is from the optimum."""
        self.distances.append(problem.distance(logits).flatten().tolist())
        self.divergences.append(problem.divergence(logits).flatten().tolist())


def standard_problem(*, beta: float, world: World | None = None) -> Problem:
    """The problem that the checks share: a reference with a clear preference, standard normal rewards."""
    world = World() if world is None else world
    return Problem(
        world=world, reference=world.random_logits(seed=11), rewards=world.rewards(seed=7), beta=beta
    )


def probabilities(world: World, logits: Tensor) -> Tensor:
    """`[..., P, S]` probability of every sequence under tables `[..., P, N, V]`."""
    logprobs = sequence_logprobs(world, logits.detach().flatten(0, -3))
    return logprobs.exp().unflatten(0, logits.shape[:-2])


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """`[...]` half the sum of |p − q| over the sequences, at the worst prompt, of `[..., P, S]`."""
    return ((p - q).abs().sum(dim=-1) / 2).amax(dim=-1)


# --- Sampled runs: REINFORCE and PPO -------------------------------------------------------------------


def train_sampled(
    problem: Problem,
    *,
    seeds: Sequence[int],
    clip_range: float | None,
    epochs: int,
    updates: int,
    num_sequences: int = 1024,
    learning_rate: float = 0.1,
    estimator: Callable[[Tensor], Tensor] = k1,
) -> Training:
    """Train from samples with the KL in the reward: PPO with a clip range, REINFORCE without.

    Each update draws sequences from the policy, charges `β·k1` at each token, takes the return of the whole
    less the mean of its siblings' as advantage, and makes `epochs` steps of Adam at a rate that falls to 0.
    At the optimum every sequence's return is `β log Z`: the advantages vanish, and their noise with them.

    Args:
        problem: what is learnt.
        seeds: one a run; runs do not depend on each other.
        clip_range: ε of the clip; None for REINFORCE.
        epochs: steps on the sequences of an update; REINFORCE is on-policy with 1 only.
        updates: how often sequences are drawn.
        num_sequences: sequences a prompt and update.
        learning_rate: at the start.
        estimator: of the KL at each token, from the log-ratio to the reference.

    Returns:
        Tables `[runs, P, N, V]`, all from the reference, and the distances on the way.
    """
    world, num_runs = problem.world, len(seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    logits = problem.reference.repeat(num_runs, 1, 1, 1).requires_grad_()
    reference = token_logprobs(world, problem.reference).repeat(num_runs, 1, 1)
    scores = problem.rewards.repeat(num_runs, 1)
    optimiser = torch.optim.Adam([logits], lr=learning_rate)
    training = Training(logits=logits.detach())
    training.note(problem, logits)
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - update / updates)
        every = token_logprobs(world, logits.detach().flatten(0, 1))
        drawn = _draw(every.sum(dim=-1).exp().unflatten(0, (num_runs, -1)), num_sequences, generators)
        behaviour, mask = _rows(every, drawn), world.mask[drawn]
        charged = _token_rewards(
            scores.gather(1, drawn), problem.beta * estimator(behaviour - _rows(reference, drawn)), mask
        )
        returns = discounted_returns(charged.flatten(0, 1), mask.flatten(0, 1).to(charged))[:, 0]
        advantages = leave_one_out(returns, group_size=num_sequences).reshape(drawn.shape)
        advantages = advantages[..., None].expand_as(behaviour)
        for _ in range(epochs):
            logprobs = _rows(token_logprobs(world, logits.flatten(0, 1)), drawn)
            losses = (
                reinforce_loss(logprobs, advantages)
                if clip_range is None
                else clip_loss(logprobs - behaviour, advantages, clip_range=clip_range)
            )
            optimiser.zero_grad()
            # A mean over the sequences of each prompt of sums over tokens: no length enters a denominator.
            (masked_sum(losses, mask) / num_sequences).backward()
            optimiser.step()
        training.note(problem, logits)
    return training


def train_by_expectation(
    problem: Problem, *, updates: int, clip_range: float = 0.2, epochs: int = 4, learning_rate: float = 0.05
) -> Training:
    """PPO without samples: exact advantages, and every sequence weighed by its probability.

    A token's advantage is `gae` with λ = 0 from exact values: what follows a token being certain, Q − V.
    """
    world, mask = problem.world, problem.world.mask.expand(len(problem.rewards), -1, -1)
    logits = problem.reference.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=learning_rate)
    training = Training(logits=logits.detach())
    training.note(problem, logits)
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - update / updates)
        behaviour = token_logprobs(world, logits.detach())
        weights = behaviour.sum(dim=-1, keepdim=True).exp()
        advantages = exact_advantages(problem, logits.detach())
        for _ in range(epochs):
            log_ratio = token_logprobs(world, logits) - behaviour
            losses = clip_loss(log_ratio, advantages, clip_range=clip_range)
            optimiser.zero_grad()
            masked_sum(weights * losses, mask).backward()
            optimiser.step()
        training.note(problem, logits)
    return training


def exact_advantages(problem: Problem, logits: Tensor) -> Tensor:
    """`[P, S, H]` Q − V of every token of every sequence, the KL being charged at each token."""
    world = problem.world
    mask = world.mask.expand(len(problem.rewards), -1, -1)
    logprobs = token_logprobs(world, logits)
    charged = _token_rewards(
        problem.rewards, problem.beta * k1(logprobs - token_logprobs(world, problem.reference)), mask
    )
    values = exact_values(world, logprobs, charged)[:, world.states]
    continues = _next(mask)
    advantages = gae(
        charged.flatten(0, 1),
        values.flatten(0, 1),
        _next(values).flatten(0, 1),
        continues.flatten(0, 1).to(charged),
        torch.zeros_like(charged).flatten(0, 1),
    )
    return advantages.reshape(mask.shape)


def exact_values(world: World, logprobs: Tensor, charged: Tensor) -> Tensor:
    """`[P, N]` value of every state: the mean of the rewards from it on over all sequences through it."""
    to_go = charged.flip(-1).cumsum(dim=-1).flip(-1)
    through = logprobs.sum(dim=-1, keepdim=True).exp() * world.mask
    states = world.states.flatten()
    zero = torch.zeros(len(charged), len(world.prefixes), dtype=charged.dtype)
    total = zero.index_add(1, states, (through * to_go).flatten(1))
    return total / zero.index_add(1, states, through.flatten(1))


def _draw(probability: Tensor, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """`[runs · P, count]` indices of sequences, each run by its own generator."""
    drawn = [
        torch.multinomial(row, count, replacement=True, generator=generator)
        for row, generator in zip(probability, generators, strict=True)
    ]
    return torch.cat(drawn)


def _rows(table: Tensor, drawn: Tensor) -> Tensor:
    """`[B, count, H]` the rows of `[B, S, H]` that were drawn."""
    return table.gather(1, drawn[..., None].expand(-1, -1, table.shape[-1]))


def _token_rewards(scores: Tensor, charges: Tensor, mask: Tensor) -> Tensor:
    """`[..., H]` minus the charge at each token, and the score at the last."""
    zero = torch.zeros_like(charges)
    last = mask & ~_next(mask)
    return torch.where(last, scores[..., None], zero) - torch.where(mask, charges, zero)


def _next(rows: Tensor) -> Tensor:
    """`[..., H]` what stands at the next token; 0 or false behind the last."""
    return torch.cat([rows[..., 1:], torch.zeros_like(rows[..., :1])], dim=-1)


# --- Fits: DPO and a reward model ----------------------------------------------------------------------


def labelled_pairs(problem: Problem, sampler: Tensor) -> Tensor:
    """`[P, S, S]` how probable it is that a pair is drawn and its first is preferred to its second.

    Two different sequences from `sampler` `[P, S]`, labelled as Bradley and Terry say: `σ(r_w − r_l)`.
    """
    drawn = sampler[:, :, None] * sampler[:, None, :]
    drawn = drawn * ~torch.eye(drawn.shape[-1], dtype=torch.bool)
    drawn = drawn / drawn.sum(dim=(1, 2), keepdim=True)
    return 2 * drawn * (problem.rewards[:, :, None] - problem.rewards[:, None, :]).sigmoid()


def sampled_pairs(weights: Tensor, count: int, *, seed: int) -> Tensor:
    """`[P, S, S]` shares of `count` labelled pairs drawn from `labelled_pairs`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weights.flatten(1), count, replacement=True, generator=generator)
    counts = torch.zeros_like(weights).flatten(1)
    return (counts.scatter_add(1, drawn, torch.ones_like(drawn).to(counts)) / count).reshape(weights.shape)


def dpo_objective(problem: Problem, weights: Tensor, logits: Tensor) -> Tensor:
    """The mean of `dpo_loss` over labelled pairs `[P, S, S]`, summed over prompts."""
    logprobs, reference = sequence_logprobs(problem.world, logits), problem.reference_logprobs
    losses = dpo_loss(
        *(_firsts(logprobs), _seconds(logprobs), _firsts(reference), _seconds(reference)), beta=problem.beta
    )
    return (weights.flatten() * losses).sum()


def fit_dpo(problem: Problem, weights: Tensor, *, iterations: int = 400) -> Training:
    """Minimise DPO's loss over labelled pairs `[P, S, S]`, from the reference.

    L-BFGS, in coordinates where the Fisher information of the pairs is the identity: states that few pairs
    pass through would otherwise take it thousands of iterations.
    """
    scale = _fisher_scale(problem, weights)
    training = Training(logits=problem.reference.clone())

    def logits(z: Tensor) -> Tensor:
        return problem.reference + (scale @ z[..., None]).reshape(problem.reference.shape)

    start = torch.zeros(scale.shape[0], scale.shape[2], dtype=scale.dtype)
    end = minimise(
        lambda z: dpo_objective(problem, weights, logits(z)),
        start,
        iterations=iterations,
        note=lambda z: training.note(problem, logits(z)),
    )
    training.logits = logits(end)
    return training


def fit_rewards(problem: Problem, weights: Tensor, *, iterations: int = 400) -> Tensor:
    """`[P, S]` rewards that minimise `comparison_loss` over labelled pairs `[P, S, S]`; their mean is 0."""

    def loss(rewards: Tensor) -> Tensor:
        return (weights.flatten() * comparison_loss(_firsts(rewards), _seconds(rewards))).sum()

    rewards = minimise(loss, torch.zeros_like(problem.rewards), iterations=iterations)
    return rewards - rewards.mean(dim=1, keepdim=True)


def minimise(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    iterations: int,
    note: Callable[[Tensor], None] = lambda _: None,
) -> Tensor:
    """Minimise a smooth function by L-BFGS with Wolfe's conditions, until a step changes nothing.

    `note` is called with the start and with the point after each iteration.
    """
    point = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [point],
        max_iter=1,
        max_eval=30,
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(point)
        value.backward()
        return value

    note(point.detach())
    for _ in range(iterations):
        before = point.detach().clone()
        optimiser.step(closure)
        note(point.detach())
        if torch.equal(before, point.detach()):
            break
    return point.detach()


def _fisher_scale(problem: Problem, weights: Tensor) -> Tensor:
    """`[P, NV, NV]` a root of F⁻¹, with F the information of labelled pairs on the logits at the reference.

    0 in directions on which the pairs say nothing: those that leave the policy as it is, or are not covered.
    """
    world, reference = problem.world, problem.reference
    jacobian = torch.autograd.functional.jacobian(lambda x: sequence_logprobs(world, x), reference)
    scores = torch.stack([jacobian[p, :, p].flatten(1) for p in range(len(reference))])
    pairs = weights + weights.transpose(1, 2)
    laplacian = torch.diag_embed(pairs.sum(dim=2)) - pairs
    information = problem.beta**2 / 4 * scores.transpose(1, 2) @ laplacian @ scores
    values, vectors = torch.linalg.eigh(information)
    known = values > 1e-12 * values.amax(dim=1, keepdim=True)
    inverse_root = torch.where(known, values.clamp(min=1e-300).rsqrt(), torch.zeros_like(values))
    return vectors * inverse_root[:, None, :]


def _firsts(table: Tensor) -> Tensor:
    """`[P · S · S]` the first of every pair, from `[P, S]`."""
    return table[:, :, None].expand(-1, -1, table.shape[1]).flatten()


def _seconds(table: Tensor) -> Tensor:
    """`[P · S · S]` the second of every pair."""
    return table[:, None, :].expand(-1, table.shape[1], -1).flatten()
