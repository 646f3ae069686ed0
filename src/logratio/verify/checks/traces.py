"""V-trace against published numbers, its definition summed term by term, and a chain solved by recursion.

The chain has five states in a line. Right from the last one ends the episode with reward 1, every other move
costs 0.1, and one move in ten goes the other way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.objectives.vtrace import VTrace, vtrace
from logratio.verify.checks.rows import Row, control, equal

STATES, DISCOUNT, SLIP = 5, 0.9, 0.1
STEPS = 3
"""Moves of a trajectory; what lies beyond is the critic's word."""
PI = (0.8, 0.6, 0.9, 0.3, 0.7)
"""The policy's chance to go right, state by state."""
MU = (0.5, 0.9, 0.4, 0.6, 0.3)
"""The behaviour policy's."""
RHO, C = 0.9, 0.6
"""Ceilings low enough to bind in every state."""

# rlax/_src/vtrace_test.py at 193808f (Apache-2.0): ceilings of 1, in float32, held there to 1e-3. Its error
# of −8.33e-5 has few digits left of a difference of numbers near 1; its advantage there has more.
BEHAVIOUR_LOGITS = [
    [[8.9, 0.7], [5.0, 1.0], [0.6, 0.1], [-0.9, -0.1]],
    [[0.3, -5.0], [1.0, -8.0], [0.3, 1.7], [4.7, 3.3]],
]
TARGET_LOGITS = [
    [[0.4, 0.5], [9.2, 8.8], [0.7, 4.4], [7.9, 1.4]],
    [[1.0, 0.9], [1.0, -1.0], [-4.3, 8.7], [0.8, 0.3]],
]
ACTIONS = [[0, 1, 0, 0], [1, 0, 0, 1]]
REWARDS = [[-1.3, -1.3, 2.3, 42.0], [1.3, 5.3, -3.3, -5.0]]
DISCOUNTS = [[0.0, 0.89, 0.85, 0.99], [0.88, 1.0, 0.83, 0.95]]
VALUES = [[2.1, 1.1, -3.1, 0.0, 8.4], [3.1, 0.1, -1.1, 7.4, -1.2]]
ERRORS = [[-1.6155143, -3.4973226, 1.8670533, 50.316002], [1.4662437, 3.6116405, -8.3327293e-5, -13.54]]
ADVANTAGES = [[-1.6155143, -3.4973226, 1.8670534, 50.316002], [1.4662433, 3.6116405, -8.3369283e-5, -13.54]]

Move = tuple[int, int, float, int | None]
"""State, action, reward, next state or None."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """All trajectories from one state, as padded rows; `[paths, STEPS]`, NaN behind an end."""

    chances: list[float]
    log_ratio: Tensor
    rewards: Tensor
    states: Tensor
    """Of each row; STATES, which is worth NaN, behind an end."""
    next_states: Tensor
    """Of each row; STATES where there is none."""
    discounts: Tensor
    traces: Tensor


def check_vtrace(quick: bool) -> list[Row]:
    """V-trace: published numbers, its definition, and what it converges to."""
    return [*_published_rows(), *_definition_rows(), *_fixed_point_rows()]


def published() -> tuple[VTrace, Tensor]:
    """What the product makes of rlax's inputs, and the critic's values."""
    actions = torch.tensor(ACTIONS)[..., None]
    pi, mu = (
        _tensor(logits).log_softmax(-1).gather(2, actions)[..., 0]
        for logits in (TARGET_LOGITS, BEHAVIOUR_LOGITS)
    )
    values, discounts = _tensor(VALUES), _tensor(DISCOUNTS)
    traces = torch.ones_like(discounts)
    ours = vtrace(pi - mu, _tensor(REWARDS), values[:, :-1], values[:, 1:], discounts, traces)
    return ours, values[:, :-1]


def _published_rows() -> list[Row]:
    ours, values = published()
    ratios = ((ours.targets - values) / _tensor(ERRORS), ours.advantages / _tensor(ADVANTAGES))
    named = zip(("errors", "advantages"), ratios, (1e-3, 1e-5), strict=True)
    return [
        equal(f"{name} over those that rlax prints", ratio, torch.ones_like(ratio), tolerance=tolerance)
        for name, ratio, tolerance in named
    ]


def _definition_rows() -> list[Row]:
    """Random rows, with endings of both kinds inside, term by term in plain numbers."""
    generator = torch.Generator().manual_seed(5)
    log_ratio, rewards, values, after = torch.randn(4, 30, 12, generator=generator, dtype=torch.float64)
    ending = torch.rand(30, 12, generator=generator, dtype=torch.float64)
    discounts = torch.where(ending < 0.15, 0.0, torch.full_like(ending, DISCOUNT))
    traces = torch.where(ending < 0.3, 0.0, torch.full_like(ending, 0.8))
    # An episode that goes on has the next row's state as its next state.
    following = torch.cat([values[:, 1:], after[:, -1:]], dim=1)
    next_values = torch.where(traces > 0, following, after)
    columns = (rewards, values, next_values, discounts, traces)
    none = torch.zeros_like(log_ratio)
    bound = vtrace(log_ratio, *columns, rho_ceiling=1.2, c_ceiling=0.7)
    on_policy = vtrace(none, *columns, rho_ceiling=math.inf, c_ceiling=math.inf)
    targets, advantages = _by_definition(log_ratio, *columns, rho=1.2, c=0.7)
    generalised, _ = _by_definition(none, *columns, rho=math.inf, c=math.inf)
    return [
        equal("targets by the sum over all later differences", bound.targets, targets, tolerance=1e-12),
        equal("advantages by that sum", bound.advantages, advantages, tolerance=1e-12),
        equal(
            "on-policy without ceilings, targets: those of GAE",
            on_policy.targets,
            generalised,
            tolerance=1e-12,
        ),
        equal(
            "on-policy without ceilings, advantages: those of GAE",
            on_policy.advantages,
            generalised - values,
            tolerance=1e-12,
        ),
    ]


def _by_definition(
    log_ratio: Tensor,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    discounts: Tensor,
    traces: Tensor,
    *,
    rho: float,
    c: float,
) -> tuple[Tensor, Tensor]:
    """`v_t = V_t + Σ_{k ≥ t} (Π_{i<k} γ_i λ_i min(c̄, ρ_i)) min(ρ̄, ρ_k) δ_k`, every t by itself."""
    targets, advantages = [], []
    for x, r, v, n, g, w in zip(
        *(column.tolist() for column in (log_ratio, rewards, values, next_values, discounts, traces)),
        strict=True,
    ):
        length = len(x)
        target = []
        for t in range(length):
            total, carried = v[t], 1.0
            for k in range(t, length):
                total += carried * min(rho, math.exp(x[k])) * (r[k] + g[k] * n[k] - v[k])
                carried *= g[k] * w[k] * min(c, math.exp(x[k]))
            target.append(total)
        lifted = [target[t] - v[t] for t in range(length)] + [0.0]
        targets.append(target)
        advantages.append(
            [
                min(rho, math.exp(x[t])) * (r[t] + g[t] * (n[t] + w[t] * lifted[t + 1]) - v[t])
                for t in range(length)
            ]
        )
    return _tensor(targets), _tensor(advantages)


def _fixed_point_rows() -> list[Row]:
    kept = [(min(RHO * m, p), min(RHO * (1 - m), 1 - p)) for p, m in zip(PI, MU, strict=True)]
    between = tuple(right / (right + left) for right, left in kept)
    truth, target = _policy_values(between), _policy_values(PI)
    starts = [_paths(state) for state in range(STATES)]
    once, plain = (_expected_targets(starts, v, rho=RHO, c=C) for v in (truth, target))
    free = _expected_targets(starts, target, rho=math.inf, c=1.0)
    reached = [0.0] * STATES
    for _ in range(300):
        reached = _expected_targets(starts, reached, rho=RHO, c=C)
    biased = max(abs(a - b) for a, b in zip(plain, target, strict=True))
    return [
        equal(
            "value of the policy ∝ min(ρ̄μ, π) on the chain: its expected targets are itself",
            _tensor(once),
            _tensor(truth),
            tolerance=1e-12,
        ),
        equal("that value, reached from 0 by repeating", _tensor(reached), _tensor(truth), tolerance=1e-12),
        equal("without a ceiling on ρ: the value of π", _tensor(free), _tensor(target), tolerance=1e-12),
        control("the value of π, were it taken for the fixed point under ρ̄", biased, at_least=1e-2),
    ]


def _outcomes(state: int, action: int) -> list[tuple[float, float, int | None]]:
    """Chance, reward and next state of going right (1) or left (0)."""
    right = (1.0, None) if state == STATES - 1 else (-0.1, state + 1)
    left = (-0.1, max(state - 1, 0))
    ahead, back = (right, left) if action else (left, right)
    return [(1 - SLIP, *ahead), (SLIP, *back)]


def _policy_values(right: tuple[float, ...]) -> list[float]:
    """The value of every state by sweeps until nothing moves."""
    values = [0.0] * STATES
    for _ in range(2_000):
        values = [
            math.fsum(
                chance * each * (reward + (0.0 if after is None else DISCOUNT * values[after]))
                for action, chance in ((1, right[state]), (0, 1 - right[state]))
                for each, reward, after in _outcomes(state, action)
            )
            for state in range(STATES)
        ]
    return values


def _trajectories(start: int) -> list[tuple[float, list[Move]]]:
    """All trajectories of the behaviour policy from a state, with their chances."""
    going: list[tuple[float, int, list[Move]]] = [(1.0, start, [])]
    done: list[tuple[float, list[Move]]] = []
    for _ in range(STEPS):
        longer: list[tuple[float, int, list[Move]]] = []
        for chance, state, moves in going:
            for action, taken in ((1, MU[state]), (0, 1 - MU[state])):
                for each, reward, after in _outcomes(state, action):
                    path = [*moves, (state, action, reward, after)]
                    if after is None:
                        done.append((chance * taken * each, path))
                    else:
                        longer.append((chance * taken * each, after, path))
        going = longer
    return [*done, *((chance, moves) for chance, _, moves in going)]


def _paths(start: int) -> Paths:
    trajectories = _trajectories(start)
    shape = (len(trajectories), STEPS)
    log_ratio, rewards = torch.full((2, *shape), math.nan, dtype=torch.float64)
    states, next_states = torch.full((2, *shape), STATES)
    discounts, traces = torch.zeros(2, *shape, dtype=torch.float64)
    for row, (_, moves) in enumerate(trajectories):
        for t, (state, action, reward, after) in enumerate(moves):
            pi, mu = (p[state] if action else 1 - p[state] for p in (PI, MU))
            log_ratio[row, t], rewards[row, t], states[row, t] = math.log(pi / mu), reward, state
            if after is not None:
                next_states[row, t], discounts[row, t] = after, DISCOUNT
                traces[row, t] = float(t < STEPS - 1)
    return Paths(
        chances=[chance for chance, _ in trajectories],
        log_ratio=log_ratio,
        rewards=rewards,
        states=states,
        next_states=next_states,
        discounts=discounts,
        traces=traces,
    )


def _expected_targets(starts: list[Paths], values: list[float], *, rho: float, c: float) -> list[float]:
    """The expectation, state by state, of what the product says of a trajectory's first row."""
    critic = _tensor([*values, math.nan])
    expected = []
    for paths in starts:
        ours = vtrace(
            paths.log_ratio,
            paths.rewards,
            critic[paths.states],
            critic[paths.next_states],
            paths.discounts,
            paths.traces,
            rho_ceiling=rho,
            c_ceiling=c,
        )
        firsts = ours.targets[:, 0].tolist()
        expected.append(math.fsum(chance * v for chance, v in zip(paths.chances, firsts, strict=True)))
    return expected


def _tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
