"""Decision processes with a handful of states: their values by dynamic programming, and training on them.

What the best policy earns, and what a given one earns, is computed. Episodes are drawn here, and a table of
logits is trained by the product's objectives with a table as critic; how good it became is then computed too,
not sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.objectives.advantages import gae
from logratio.objectives.masked import masked_sum
from logratio.objectives.policy_gradient import reinforce_loss
from logratio.objectives.ppo import clip_loss, value_loss


@dataclass(frozen=True, kw_only=True)
class DecisionProcess:
    """States, actions, what follows and what it earns."""

    transitions: Tensor
    """`[states, actions, states]` probability of the next state."""
    rewards: Tensor
    """`[states, actions, states]` reward of a transition."""
    terminal: Tensor
    """`[states]` true where an episode is over: nothing is earned there."""
    start: int
    """The state in which every episode begins."""


def chain() -> DecisionProcess:
    """Five states in a row between two ends, 0.2 at the left end and 1 at the right; a step slips in 1 of 10.

    State 0 is the left end, 6 the right, and an episode starts in the middle, at 3.
    """
    transitions = torch.zeros(7, 2, 7, dtype=torch.float64)
    for state in range(1, 6):
        for action, step in enumerate((-1, 1)):
            transitions[state, action, state + step] = 0.9
            transitions[state, action, state - step] = 0.1
    rewards = torch.zeros_like(transitions)
    rewards[1, :, 0], rewards[5, :, 6] = 0.2, 1.0
    terminal = torch.tensor([True, *[False] * 5, True])
    return DecisionProcess(
        transitions=_absorb(transitions, terminal), rewards=rewards, terminal=terminal, start=3
    )


def frozen_lake() -> DecisionProcess:
    """FrozenLake 4×4, slippery: an action goes its way or to either side, each with probability 1/3.

    Fields in rows from the top left, actions left, down, right, up, as in Gymnasium. 1 at the goal.
    """
    fields = "SFFFFHFHFFFHHFFG"
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))
    transitions = torch.zeros(16, 4, 16, dtype=torch.float64)
    for state in range(16):
        for action in range(4):
            for way in (action - 1, action, action + 1):
                down, right = moves[way % 4]
                row, column = min(max(state // 4 + down, 0), 3), min(max(state % 4 + right, 0), 3)
                transitions[state, action, 4 * row + column] += 1 / 3
    rewards = torch.zeros_like(transitions)
    rewards[:, :, 15] = 1.0
    terminal = torch.tensor([field in "HG" for field in fields])
    rewards[terminal] = 0.0
    return DecisionProcess(
        transitions=_absorb(transitions, terminal), rewards=rewards, terminal=terminal, start=0
    )


def two_step_bandit() -> DecisionProcess:
    """Two choices in a row, where the first that pays at once leads to the poorer second.

    At 0: action 0 earns 0.3 and leads to 1, action 1 earns nothing and leads to 2. At 1 the actions earn 0.4
    and 0.2, at 2 they earn 1 and 0. The best is 1; who looks one step ahead gets 0.7.
    """
    transitions, rewards = torch.zeros(2, 4, 2, 4, dtype=torch.float64)
    transitions[0, 0, 1] = transitions[0, 1, 2] = 1.0
    transitions[1:3, :, 3] = 1.0
    rewards[0, 0, 1] = 0.3
    rewards[1, :, 3] = torch.tensor([0.4, 0.2], dtype=torch.float64)
    rewards[2, :, 3] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    terminal = torch.tensor([False, False, False, True])
    return DecisionProcess(
        transitions=_absorb(transitions, terminal), rewards=rewards, terminal=terminal, start=0
    )


def endless() -> DecisionProcess:
    """One state, one action, a reward of 1 for ever: worth 1/(1 − γ), whenever an episode is cut off."""
    ones = torch.ones(1, 1, 1, dtype=torch.float64)
    return DecisionProcess(transitions=ones, rewards=ones, terminal=torch.tensor([False]), start=0)


def endless_later() -> DecisionProcess:
    """Two states: the first step earns nothing, every later one 1: worth γ/(1 − γ) and then 1/(1 − γ)."""
    transitions = torch.zeros(2, 1, 2, dtype=torch.float64)
    transitions[:, :, 1] = 1.0
    rewards = torch.zeros_like(transitions)
    rewards[1] = 1.0
    nowhere = torch.tensor([False, False])
    return DecisionProcess(transitions=transitions, rewards=rewards, terminal=nowhere, start=0)


def optimal_values(process: DecisionProcess, *, gamma: float, steps: int | None = None) -> Tensor:
    """`[states]` what the best policy earns from each state, discounted; within `steps` steps if given.

    Value iteration from 0, `V ← max_a Σ_s' p(s'|s,a) (r + γV(s'))`, until it stands still.
    """
    earned = (process.transitions * process.rewards).sum(dim=2)
    values = torch.zeros(len(earned), dtype=earned.dtype)
    for _ in range(100_000 if steps is None else steps):
        before, values = values, (earned + gamma * process.transitions @ values).amax(dim=1)
        if steps is None and float((values - before).abs().max()) < 1e-15:
            break
    return values


def policy_values(process: DecisionProcess, policy: Tensor, *, gamma: float) -> Tensor:
    """`[..., states]` what policies `[..., states, actions]` earn: `(I − γP) V = r` where it goes on."""
    on = ~process.terminal
    moves = torch.einsum("...sa,sat->...st", policy, process.transitions)[..., on, :][..., on]
    earned = torch.einsum("...sa,sat->...s", policy, process.transitions * process.rewards)[..., on]
    values = torch.zeros(policy.shape[:-1], dtype=policy.dtype)
    identity = torch.eye(moves.shape[-1], dtype=moves.dtype)
    values[..., on] = torch.linalg.solve(identity - gamma * moves, earned)
    return values


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Episodes of several runs side by side, `[runs, episodes, time]`."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    """The true next state, also where the episode was cut off."""
    mask: Tensor
    """True where an episode has a step."""
    terminated: Tensor
    """True at a step that led to a terminal state; a step at the limit alone is cut off, not terminated."""

    def continued(self) -> Tensor:
        """True where the next row is the next step of the same episode."""
        return torch.cat([self.mask[..., 1:], torch.zeros_like(self.mask[..., :1])], dim=-1)


def play(
    process: DecisionProcess,
    policy: Tensor,
    *,
    count: int,
    limit: int,
    generators: Sequence[torch.Generator],
) -> Episodes:
    """Draw `count` episodes of at most `limit` steps for each run's policy `[runs, states, actions]`."""
    uniform = torch.stack(
        [torch.rand(limit, 2, count, generator=generator, dtype=policy.dtype) for generator in generators],
        dim=2,
    )
    runs = torch.arange(len(generators))[:, None]
    state = torch.full((len(generators), count), process.start)
    alive = torch.ones_like(state, dtype=torch.bool)
    action_bounds, state_bounds = (
        policy.cumsum(dim=-1)[..., :-1],
        process.transitions.cumsum(dim=-1)[..., :-1],
    )
    steps = []
    for u, v in uniform:
        action = (u[..., None] >= action_bounds[runs, state]).sum(dim=-1)
        following = (v[..., None] >= state_bounds[state, action]).sum(dim=-1)
        reward = process.rewards[state, action, following]
        terminated = alive & process.terminal[following]
        steps.append((state, action, reward, following, alive, terminated))
        state, alive = following, alive & ~terminated
        if not bool(alive.any()):
            break
    columns = [torch.stack(rows, dim=-1) for rows in zip(*steps, strict=True)]
    return Episodes(
        states=columns[0],
        actions=columns[1],
        rewards=columns[2],
        next_states=columns[3],
        mask=columns[4],
        terminated=columns[5],
    )


def advantages_and_targets(
    episodes: Episodes, values: Tensor, *, gamma: float, trace: float
) -> tuple[Tensor, Tensor]:
    """`[runs, episodes, time]` advantages by `gae`, and what the critic `[runs, states]` should have said.

    The discount is 0 where an episode terminated; where it was cut off, the value of the next state counts.
    """
    here, there = _look_up(values, episodes.states), _look_up(values, episodes.next_states)
    discounts = gamma * (~episodes.terminated).to(values)
    traces = trace * episodes.continued().to(values)
    rows = (episodes.rewards, here, there, discounts, traces)
    advantages = gae(*(row.flatten(0, 1) for row in rows)).reshape(here.shape)
    return advantages, advantages + here


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularConfig:
    """How a table of logits is trained."""

    gamma: float
    """γ."""
    limit: int
    """Steps after which an episode is cut off."""
    clip_range: float | None
    """ε of the clip; None for the policy gradient, which is on-policy with one epoch only."""
    epochs: int
    """Steps of Adam on the episodes of an update, at a rate that falls to 0."""
    updates: int
    """How often episodes are drawn."""
    count: int = 128
    """Episodes an update and run."""
    trace: float = 0.5
    """λ."""
    learning_rate: float = 0.1
    """Of the policy at the start; the critic's is a fifth of it."""


def train_control(process: DecisionProcess, config: TabularConfig, *, seeds: Sequence[int]) -> Tensor:
    """Train a table of logits with a critic: PPO with a clip range, the plain policy gradient without.

    The critic begins at 1, the most that can be earned, and learns more slowly than the policy: what is
    seldom tried keeps looking good. With a critic that begins at 0 most runs on FrozenLake, of either method,
    stay where they miss 2 % of the best value: in one field they decide before they know the field beside it.

    Args:
        process: what is learnt.
        config: how.
        seeds: one a run; runs do not depend on each other.

    Returns:
        `[runs, states, actions]` the policies at the end.
    """
    num_states, num_actions = process.transitions.shape[:2]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    logits = torch.zeros(len(seeds), num_states, num_actions, dtype=torch.float64, requires_grad=True)
    values = torch.ones(len(seeds), num_states, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [logits]}, {"params": [values]}])
    for update in range(config.updates):
        rate = config.learning_rate * (1 - update / config.updates)
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = rate, rate / 5
        policy = logits.detach().softmax(dim=-1)
        episodes = play(process, policy, count=config.count, limit=config.limit, generators=generators)
        taken = episodes.states * num_actions + episodes.actions
        behaviour = _look_up(policy.log().flatten(1), taken)
        advantages, targets = advantages_and_targets(
            episodes, values.detach(), gamma=config.gamma, trace=config.trace
        )
        for _ in range(config.epochs):
            logprobs = _look_up(logits.log_softmax(dim=-1).flatten(1), taken)
            losses = (
                reinforce_loss(logprobs, advantages)
                if config.clip_range is None
                else clip_loss(logprobs - behaviour, advantages, clip_range=config.clip_range)
            )
            critic = value_loss(_look_up(values, episodes.states), targets)
            optimiser.zero_grad()
            (masked_sum(losses + critic, episodes.mask) / config.count).backward()
            optimiser.step()
    return logits.detach().softmax(dim=-1)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """`[runs, episodes, time]` entries of `[runs, entries]`."""
    return table.gather(1, index.flatten(1)).reshape(index.shape)


def _absorb(transitions: Tensor, terminal: Tensor) -> Tensor:
    """Terminal states lead to themselves."""
    stay = torch.eye(len(terminal), dtype=transitions.dtype)[:, None, :]
    return torch.where(terminal[:, None, None], stay, transitions)
