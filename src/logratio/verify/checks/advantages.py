"""Returns and advantages against their definitions, and what padding may do to them: G1 to G4."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.objectives.advantages import discounted_returns, gae
from logratio.objectives.masked import masked_sum
from logratio.objectives.policy_gradient import reinforce_loss
from logratio.verify.checks.episodes import GAMMA, Episode, pad_episodes, random_episodes
from logratio.verify.checks.padding import check_padding_invariance
from logratio.verify.checks.rows import Check, Row, control, equal, relative
from logratio.verify.worlds.oracle import softmax, visitation
from logratio.verify.worlds.world import World, token_logprobs


def _flat(rows: list[list[list[float]]]) -> Tensor:
    values = [value for row in rows for episode in row for value in episode]
    return torch.tensor(values, dtype=torch.float64)


def check_gae_definition(quick: bool) -> list[Row]:
    """Advantages and returns of random episodes, cut off and terminated, against their definitions."""
    rows = random_episodes(seed=1)
    result = []
    for lam in (0.0, 0.4, 0.95, 1.0):
        exact = _flat([[episode.advantages(GAMMA, lam) for episode in row] for row in rows])
        what = f"GAE at λ = {lam:g} against the weighted mean of k-step returns"
        result.append(equal(what, pad_episodes(rows, lam=lam).advantages(), exact, tolerance=1e-12))
    result += [_uneven_weights(), *_identities(rows), *_printed_vectors(), *_wrong_ends(rows)]
    return result


def _identities(rows: list[list[Episode]]) -> list[Row]:
    """At λ = 0 the temporal difference, at λ = 1 the return less the value, whatever the critic."""
    differences = [
        [[e.k_step_returns(t, GAMMA)[0] - e.values[t] for t in range(len(e.rewards))] for e in row]
        for row in rows
    ]
    ended = [[Episode(e.rewards, e.values, True) for e in row] for row in rows]
    sums = [[[e.k_step_returns(t, GAMMA)[-1] for t in range(len(e.rewards))] for e in row] for row in ended]
    laid = pad_episodes(ended, lam=1.0)
    returns = discounted_returns(laid.rewards, laid.discounts)[laid.mask]
    telescoped = laid.advantages() + laid.values[laid.mask]
    return [
        equal(
            "λ = 0 is the temporal difference",
            pad_episodes(rows, lam=0.0).advantages(),
            _flat(differences),
            tolerance=1e-12,
        ),
        equal("rewards-to-go against plain sums", returns, _flat(sums), tolerance=1e-12),
        equal("λ = 1 and the value make the reward-to-go", telescoped, _flat(sums), tolerance=1e-12),
    ]


def _uneven_weights() -> Row:
    """With γ and λ of their own in every row: `A_t = Σ_l (Π_{i<l} γ_{t+i} λ_{t+i}) δ_{t+l}`, written out."""
    generator = torch.Generator().manual_seed(2)
    shape = (3, 64)
    rewards, values, after = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    discounts, traces = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    exact = []
    for r, v, n, d, c in zip(*(x.tolist() for x in (rewards, values, after, discounts, traces)), strict=True):
        delta = [r[t] + d[t] * n[t] - v[t] for t in range(64)]
        for t in range(64):
            terms = [math.prod(d[i] * c[i] for i in range(t, u)) * delta[u] for u in range(t, 64)]
            exact.append(math.fsum(terms))
    ours = gae(rewards, values, after, discounts, traces)
    what = "GAE with γ and λ of their own in every row, against the sum over all later differences"
    return equal(what, ours.flatten(), torch.tensor(exact, dtype=torch.float64), tolerance=1e-12)


def _printed_vectors() -> list[Row]:
    """The test vectors of rlax (Apache-2.0), which prints three to six digits and itself allows 1e-3."""
    rewards, values = [0.0, 0.0, 1.0, 0.0, -0.5], [1.0, 4.0, -3.0, -2.0, -1.0, -1.0]
    printed = {
        1.0: (-1.45118, -4.4557, 2.5396, 0.5249, -0.49),
        0.7: (-0.676979, -5.248167, 2.4846, 0.6704, -0.49),
        0.4: (0.56731, -6.042, 2.3431, 0.815, -0.49),
    }
    episode = [[Episode(rewards, values, False)]]
    return [
        equal(
            f"rlax's printed advantages at λ = {lam:g}",
            pad_episodes(episode, lam=lam).advantages(),
            torch.tensor(vector, dtype=torch.float64),
            tolerance=1e-3,
        )
        for lam, vector in printed.items()
    ]


def _wrong_ends(rows: list[list[Episode]]) -> list[Row]:
    """What treating the end of an episode wrongly costs."""
    laid = pad_episodes(rows, lam=0.95)
    right = laid.advantages()
    last = laid.traces == 0
    cut = last & (laid.discounts > 0)
    next_values = torch.where(last & ~cut, torch.ones_like(laid.next_values), laid.next_values)
    wrong = {
        "a cut-off taken for a termination": {"discounts": laid.discounts.masked_fill(cut, 0.0)},
        "a value counted behind a termination": {
            "discounts": laid.discounts.masked_fill(last, GAMMA),
            "next_values": next_values,
        },
        "a trace that runs into the next episode": {
            "traces": laid.traces.masked_fill(cut, 0.95),
            "rewards": laid.rewards.nan_to_num(),
            "values": laid.values.nan_to_num(),
            "next_values": laid.next_values.nan_to_num(),
        },
    }
    return [
        control(what, float((laid.advantages(**columns) - right).abs().max()), at_least=0.5)
        for what, columns in wrong.items()
    ]


@dataclass(frozen=True, slots=True)
class Tree:
    """One prompt's answers as a tree of prefixes, by recursion over lists: the exact values of a policy."""

    values: dict[tuple[int, ...], float]
    """V of each prefix."""
    action_values: dict[tuple[int, ...], list[float]]
    """Q of each prefix and token."""
    visits: dict[tuple[int, ...], float]
    """The chance that a prefix is reached."""
    policy: dict[tuple[int, ...], list[float]]
    """π(token | prefix)."""

    def actions(self, prefix: tuple[int, ...]) -> tuple[list[float], list[float]]:
        """The chance and the value of each token."""
        return self.policy[prefix], self.action_values[prefix]


def grow(world: World, logits: Tensor, rewards: Tensor, *, gamma: float = 1.0) -> Tree:
    """The exact values for a table of logits `[N, V]` and a reward `[S]` received with the last token."""
    score = dict(zip(world.sequences, rewards.tolist(), strict=True))
    policy = {s: softmax(row) for s, row in zip(world.prefixes, logits.tolist(), strict=True)}
    (visits,) = visitation(world, logits[None])
    tree = Tree({}, {}, dict(zip(world.prefixes, visits, strict=True)), policy)
    # Prefixes stand in the order of their length: from the last to the first, children come before parents.
    for prefix in reversed(world.prefixes):
        actions = [(*prefix, token) for token in range(world.vocabulary)]
        worth = [score[a] if a in score else gamma * tree.values[a] for a in actions]
        tree.action_values[prefix] = worth
        tree.values[prefix] = math.fsum(p * q for p, q in zip(tree.policy[prefix], worth, strict=True))
    return tree


def exact_gradient(world: World, logits: Tensor, rewards: Tensor) -> Tensor:
    """∇J by a table of logits `[P, N, V]`, J averaged over prompts: `d(s) π(a|s) (Q(s, a) − V(s))`."""
    trees = [grow(world, table, row) for table, row in zip(logits, rewards, strict=True)]
    gradient = [
        [
            [tree.visits[s] * p * (q - tree.values[s]) for p, q in zip(*tree.actions(s), strict=True)]
            for s in world.prefixes
        ]
        for tree in trees
    ]
    return torch.tensor(gradient, dtype=torch.float64) / len(trees)


def last_tokens(world: World) -> Tensor:
    """`[S, H]` true at the last token of every sequence."""
    lengths = world.mask.sum(dim=1, keepdim=True)
    return torch.arange(world.horizon) == lengths - 1


def at_end(world: World, rewards: Tensor) -> Tensor:
    """`[P, S, H]` the reward `[P, S]` of a sequence on its last token, 0 elsewhere."""
    return rewards[:, :, None] * last_tokens(world)


def _advantages_on(world: World, critic: Tensor, rewards: Tensor, *, gamma: float, lam: float) -> Tensor:
    """The product's advantages `[P, S, H]` of every sequence, with a critic `[P, N]`."""
    shape = (len(world.prompts), *world.mask.shape)
    last = last_tokens(world)
    values = critic[:, world.states]
    next_values = values.roll(-1, dims=2).masked_fill(last, math.nan)
    going_on = (world.mask & ~last).double()
    flat = [
        x.expand(shape).flatten(0, 1)
        for x in (at_end(world, rewards), values, next_values, gamma * going_on, lam * going_on)
    ]
    return gae(*flat).view(shape)


def check_gae_bias(quick: bool) -> list[Row]:
    """With the exact critic every λ is right; with any other only λ = 1 is."""
    world = World()
    logits, rewards = world.random_logits(seed=3), world.rewards(seed=4)
    result = []
    for gamma in (1.0, 0.9):
        for lam in (0.0, 0.5, 0.95, 1.0):
            ours, exact = _conditional_means(world, logits, rewards, gamma=gamma, lam=lam)
            what = f"exact critic, γ = {gamma:g}, λ = {lam:g}: E[A | s, a] is Q − V at all {len(exact)} pairs"
            result.append(equal(what, ours, exact, tolerance=1e-12))
    return result + _untrained_critic(world, logits, rewards)


def _conditional_means(
    world: World, logits: Tensor, rewards: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """E[A_t | s, a] as a sum over every sequence, and Q − V: of each prompt's states and tokens."""
    trees = [grow(world, *prompt, gamma=gamma) for prompt in zip(logits, rewards, strict=True)]
    critic = torch.tensor([[tree.values[s] for s in world.prefixes] for tree in trees], dtype=torch.float64)
    advantages = _advantages_on(world, critic, rewards, gamma=gamma, lam=lam).tolist()
    ours, exact = [], []
    for tree, rows in zip(trees, advantages, strict=True):
        weights = dict.fromkeys(((*s, a) for s in world.prefixes for a in range(world.vocabulary)), 0.0)
        sums = dict(weights)
        for sequence, row in zip(world.sequences, rows, strict=True):
            steps = range(len(sequence))
            chance = math.prod(tree.policy[sequence[:t]][sequence[t]] for t in steps)
            for t in steps:
                weights[sequence[: t + 1]] += chance
                sums[sequence[: t + 1]] += chance * row[t]
        ours += [sums[step] / weights[step] for step in weights]
        exact += [q - tree.values[s] for s in world.prefixes for q in tree.action_values[s]]
    return torch.tensor(ours, dtype=torch.float64), torch.tensor(exact, dtype=torch.float64)


def _untrained_critic(world: World, logits: Tensor, rewards: Tensor) -> list[Row]:
    """The gradient with a critic of random numbers: right at λ = 1, the further off the smaller λ is."""
    generator = torch.Generator().manual_seed(5)
    critic = torch.randn(len(world.prompts), len(world.prefixes), generator=generator, dtype=torch.float64)
    exact = exact_gradient(world, logits, rewards)
    result = []
    for lam, at_least in ((0.0, 0.59), (0.5, 0.31), (0.95, 0.031), (1.0, None)):
        table = logits.clone().requires_grad_()
        logprobs = token_logprobs(world, table)
        advantages = _advantages_on(world, critic, rewards, gamma=1.0, lam=lam)
        losses = masked_sum(reinforce_loss(logprobs, advantages), world.mask.expand_as(logprobs), dim=2)
        chances = logprobs.detach().sum(dim=2).exp()
        (gradient,) = torch.autograd.grad((chances * losses).sum(dim=1).mean(), table)
        what = f"random critic, λ = {lam:g}: the policy gradient"
        if at_least is None:
            result.append(relative(what, -gradient, exact, tolerance=1e-12))
        else:
            error = float((-gradient - exact).norm() / exact.norm())
            result.append(control(what, error, at_least=at_least))
    return result


def check_terminal_credit(quick: bool) -> list[Row]:
    """The score of an answer reaches its end token, and what stands behind the end does not."""
    score, nothing = 0.7, math.nan
    none = torch.zeros(1, 5, dtype=torch.float64)
    rewards = torch.tensor([[0.0, 0.0, score, nothing, nothing]], dtype=torch.float64)
    late = torch.tensor([[0.0, 0.0, 0.0, score, 0.0]], dtype=torch.float64)
    values = torch.tensor([[0.1, 0.2, 0.3, nothing, nothing]], dtype=torch.float64)
    next_values = torch.tensor([[0.2, 0.3, 0.4, nothing, nothing]], dtype=torch.float64)
    going_on = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    cut_off = torch.ones(1, 5, dtype=torch.float64)
    no_critic = gae(rewards, none, none, going_on, none)[0, :3]
    far = gae(rewards, none, none, going_on, going_on)[0, :3]
    shifted = gae(late, none, none, going_on, none)[0, 2]
    ended = gae(rewards, values, next_values, going_on, going_on)[0, 2]
    cut = gae(rewards, values, next_values, cut_off, going_on)[0, 2]
    return [
        equal(
            "no critic, λ = 0: the end token's advantage is the score",
            no_critic,
            torch.tensor([0, 0, score], dtype=torch.float64),
            tolerance=0.0,
        ),
        equal(
            "no critic, λ = 1: every token's advantage is the score",
            far,
            torch.full((3,), score, dtype=torch.float64),
            tolerance=0.0,
        ),
        equal("ended: score less value, with NaN behind the end", ended, score - 0.3, tolerance=0.0),
        equal(
            "cut off: the value of the state it was cut at counts", cut, score + 0.4 - 0.3, tolerance=1e-15
        ),
        control("the score one slot behind the end token", abs(float(shifted) - score), at_least=score),
    ]


CHECKS = (
    Check(name="G1", title="GAE and returns are what their definitions say", run=check_gae_definition),
    Check(
        name="G2",
        title="with the exact critic GAE is unbiased at every λ, with any other at λ = 1",
        run=check_gae_bias,
    ),
    Check(name="G3", title="the score of an answer is credited to its end token", run=check_terminal_credit),
    Check(
        name="G4",
        title="padding and the order of a batch change no advantage, loss or gradient",
        run=check_padding_invariance,
    ),
)
