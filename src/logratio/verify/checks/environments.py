"""The trainers on Gymnasium's environments, where what must come out is known.

The whole way is checked: an environment in one of its autoreset modes, the collector, a policy for its
actions, the trainers as they train language models, and what the policy and its critic then say. What can be
summed over all that an environment may show is summed, not played. Gymnasium is an optional extra: without it
these checks are skipped, and say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from logratio.algorithms.ppo import PPOConfig
from logratio.control.collector import ControlConfig
from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.normalisation import ObservationNormaliser
from logratio.control.evaluation import EVALUATION_SEED, play_episodes
from logratio.control.policy import ControlPolicy, NetworkConfig
from logratio.verify.checks.gym_harness import (
    LINEAR,
    STEPS,
    LateMaskAdapter,
    MisreadAdapter,
    Misreading,
    needs_gymnasium,
    new_policy,
    probabilities,
    reset_observation_as_final,
    reset_rows_as_valid,
    train,
    truncation_as_termination,
    values,
)
from logratio.verify.checks.rows import Check, Row, control, equal, reaches
from logratio.verify.worlds.mdp import endless_later

if TYPE_CHECKING:
    import gymnasium

Build = Callable[[], "gymnasium.Env[Any, Any]"]
MODES = ("NextStep", "SameStep", "Disabled")
LIMITS = (1, 2, 5)


# --- C1: cut off is not ended --------------------------------------------------------------------------

ENDLESS_GAMMA = 0.8
FOREVER = 1.0 / (1.0 - ENDLESS_GAMMA)


@needs_gymnasium
def check_time_limits(quick: bool) -> list[Row]:
    """A critic learns what a reward of 1 for ever is worth, wherever a time limit cuts it."""
    from logratio.verify.worlds.environments import Endless, Process

    constant, one_hot = torch.ones(1, 1), torch.eye(2)
    rows = [
        equal(
            f"1 a step for ever, cut off after {limit}, {mode}: the critic",
            critic(lambda limit=limit: Endless(limit), constant, mode=mode),  # type: ignore[misc]
            FOREVER,
            tolerance=1e-3,
        )
        for mode in MODES
        for limit in LIMITS
    ]
    # The state that an episode begins in is worth less than the one it is cut off in.
    later = torch.tensor([FOREVER - 1.0, FOREVER], dtype=torch.float64)
    for mode in MODES:
        estimate = critic(lambda: Process(endless_later(), 2), one_hot, mode=mode)
        what = f"1 a step from the second on, cut off after 2, {mode}: the critic"
        for name, ours, exact in zip(("first", "second"), estimate, later, strict=True):
            rows.append(equal(f"{what}, {name} state", ours, exact, tolerance=1e-3))
    for mode in MODES:
        estimate = critic(lambda: Endless(5), constant, mode=mode, misreading=truncation_as_termination)
        what = f"the cut after 5 taken for the end, {mode}: off by"
        rows.append(control(what, float((estimate - FOREVER).abs()), at_least=0.3 * FOREVER))
    estimate = critic(lambda: Endless(1), constant, mode="NextStep", misreading=reset_rows_as_valid)
    what = "rows that an autoreset adds taken for steps, NextStep: off by"
    rows.append(control(what, float((estimate - FOREVER).abs()), at_least=0.3 * FOREVER))
    for mode in ("SameStep", "Disabled"):
        estimate = critic(
            lambda: Process(endless_later(), 2), one_hot, mode=mode, misreading=reset_observation_as_final
        )
        what = f"the next episode's beginning taken for what followed the last step, {mode}: off by"
        rows.append(control(what, float((estimate - later).abs().max()), at_least=0.3 * FOREVER))
    return rows


def critic(build: Build, states: Tensor, *, mode: str, misreading: Misreading | None = None) -> Tensor:
    """What the critic says of states `[states, features]` after `train_ppo`; of one state, a number."""
    from logratio.verify.worlds.environments import make_vector_env

    vector = make_vector_env(build, 4, autoreset=mode)
    environments = (
        VectorEnvAdapter(vector, seed=0, name="an endless environment")
        if misreading is None
        else MisreadAdapter(vector, misreading)
    )
    policy = new_policy(environments, LINEAR)
    collect = ControlConfig(steps=4 * 12 * 50, num_envs=4, num_steps=12, discount=ENDLESS_GAMMA)
    config = PPOConfig.of(learning_rate=0.2, update_epochs=4, minibatches=1, early_stop_factor=0.0, **STEPS)
    train(policy, environments, collect, config)
    return values(policy, states).squeeze(0)


# --- C2: kinds of actions, and masks -------------------------------------------------------------------

NEAR = 0.05
"""Share of the best return that a policy may miss where it is said to have learned."""


@needs_gymnasium
def check_action_kinds(quick: bool) -> list[Row]:
    """For each kind of action, a policy learns to do what it is shown; what is forbidden it never does."""
    from gymnasium import spaces

    from logratio.verify.worlds.environments import Identity

    rows = []
    for name, space in (
        ("Discrete", spaces.Discrete(4, start=2)),
        ("MultiDiscrete", spaces.MultiDiscrete([3, 2], start=[1, 5])),
        ("MultiBinary", spaces.MultiBinary(3)),
        ("Box", spaces.Box(0.0, 1.0, (2,))),
    ):
        before, after = learn(lambda space=space: Identity(space), steps=10_000)  # type: ignore[misc]
        rows.append(reaches(f"do what is shown, {name}: mean return", after, 10.0, missed=NEAR))
        what = f"the same before it is learned, {name}: share of the return missed"
        rows.append(control(what, 1.0 - before / 10.0, at_least=0.2))
    return [*rows, *_masks()]


def _masks() -> list[Row]:
    """Two of four actions are allowed at a time."""
    from logratio.verify.worlds.environments import Narrow, make_vector_env

    masks = torch.combinations(torch.arange(4), 2)
    action_mask = torch.zeros(len(masks), 4, dtype=torch.bool).scatter_(1, masks, True)
    rows = []
    for mode in MODES:
        vector = make_vector_env(lambda: Narrow(strict=False), 8, autoreset=mode)
        environments = VectorEnvAdapter(vector, seed=0, name="Narrow")
        policy = new_policy(environments, SMALL)
        plain = probabilities(policy, action_mask.float(), 4)
        _learn(policy, environments, steps=5_000)
        masked = probabilities(policy, action_mask.float(), 4, action_mask=action_mask)
        of = f"two of four actions allowed, {mode}"
        right = float(masked.gather(1, masks[:, :1]).mean())
        rows += [
            reaches(f"{of}: expected reward of a step", right, 1.0, missed=NEAR),
            equal(
                f"{of}: largest probability of a forbidden action",
                masked[~action_mask].max(),
                0.0,
                tolerance=0.0,
            ),
            equal(
                f"{of}: forbidden actions in {environments.steps:,} steps of training",
                float(sum(env.num_forbidden for env in vector.envs)),  # type: ignore[attr-defined]
                0.0,
                tolerance=0.0,
            ),
        ]
    unmasked = float((plain * ~action_mask).sum(dim=1).mean())
    rows.append(control("no mask: probability of the forbidden actions", unmasked, at_least=0.4))
    vector = make_vector_env(lambda: Narrow(strict=False), 8, autoreset="Disabled")
    environments = LateMaskAdapter(vector, seed=0, name="Narrow")
    _learn(new_policy(environments, SMALL), environments, steps=1_000)
    late = sum(env.num_forbidden for env in vector.envs) / environments.steps  # type: ignore[attr-defined]
    rows.append(control("masks a step late: share of steps with a forbidden action", late, at_least=0.2))
    return rows


SMALL = NetworkConfig(hidden_sizes=(32,), initial_log_std=-1.0)


def learn(build: Build, *, steps: int) -> tuple[float, float]:
    """The mean return of 100 episodes with drawn actions, before and after training."""
    from logratio.verify.worlds.environments import make_vector_env

    environments = VectorEnvAdapter(make_vector_env(build, 8, autoreset="Disabled"), seed=0, name="Identity")
    policy = new_policy(environments, SMALL)
    before = played(policy, build)
    _learn(policy, environments, steps=steps)
    return before, played(policy, build)


def _learn(policy: ControlPolicy, environments: VectorEnvAdapter, *, steps: int) -> None:
    """Train where an action earns at once what it earns: γ is 0."""
    collect = ControlConfig(steps=steps, num_envs=8, num_steps=32, discount=0.0, lam=0.0)
    config = PPOConfig.of(learning_rate=0.02, update_epochs=4, minibatches=2, early_stop_factor=0.0, **STEPS)
    train(policy, environments, collect, config)


def played(policy: ControlPolicy, build: Build) -> float:
    """The mean return of 100 episodes with drawn actions."""
    from logratio.verify.worlds.environments import make_vector_env

    environments = VectorEnvAdapter(
        make_vector_env(build, 10, autoreset="Disabled"), seed=EVALUATION_SEED, name="judged"
    )
    scale = ObservationNormaliser(environments.observation.shape[0], wanted=False)
    report = play_episodes(policy, environments, scale, episodes=100, deterministic=False, seed=0)
    environments.close()
    return sum(report.returns) / len(report.returns)


# --- C3: memory ----------------------------------------------------------------------------------------

DELAY = 3


@needs_gymnasium
def check_recurrent_recall(quick: bool) -> list[Row]:
    """What was shown three steps ago is known only to a policy with a memory."""
    from logratio.verify.worlds.environments import Recall

    rows = []
    for mode in MODES:
        policy = remember(recurrent_width=16, mode=mode)
        what = f"a bit is asked for {DELAY} steps later, GRU, {mode}: expected return"
        rows.append(reaches(what, recalled(policy), 1.0, missed=0.02))
    what = "the same, 100 episodes played: mean return"
    rows.append(reaches(what, played(policy, lambda: Recall(DELAY)), 1.0, missed=NEAR))
    forgot = 1.0 - recalled(policy, forgetting=True)
    rows.append(control("the GRU emptied before each step: share of the return missed", forgot, at_least=0.4))
    policy = remember(recurrent_width=0, mode="Disabled")
    return [
        *rows,
        equal("no memory: expected return, which is chance", recalled(policy), 0.5, tolerance=1e-6),
    ]


def remember(*, recurrent_width: int, mode: str) -> ControlPolicy:
    """A policy with a memory of this width that was trained to say what it was shown; 0 is none."""
    from logratio.verify.worlds.environments import Recall, make_vector_env

    vector = make_vector_env(lambda: Recall(DELAY), 32, autoreset=mode)
    environments = VectorEnvAdapter(vector, seed=0, name="Recall")
    policy = new_policy(environments, NetworkConfig(hidden_sizes=(32,), recurrent_width=recurrent_width))
    collect = ControlConfig(steps=8_000, num_envs=32, num_steps=16, discount=0.9, lam=0.9)
    config = PPOConfig.of(learning_rate=0.02, update_epochs=4, minibatches=2, early_stop_factor=0.0, **STEPS)
    train(policy, environments, collect, config)
    return policy


@torch.no_grad()
def recalled(policy: ControlPolicy, *, forgetting: bool = False) -> float:
    """The expected return: the mean over both bits of the probability of the right answer.

    It is no more than that, since what is done before the question changes nothing of what is shown.

    Args:
        policy: who answers.
        forgetting: whether its memory is emptied before each step.
    """
    seen = torch.zeros(2, DELAY + 1, 3)
    seen[0, 0, 0] = seen[1, 0, 1] = 1.0
    seen[:, DELAY, 2] = 1.0
    episode_start = torch.zeros(2, DELAY + 1, dtype=torch.bool)
    episode_start[:, 0] = True
    bits = torch.arange(2)[:, None, None].expand(2, DELAY + 1, 1)
    logprobs, _, _ = policy.evaluate(
        seen,
        bits,
        hidden_state=policy.initial_state(2),
        episode_start=episode_start | torch.tensor(forgetting),
    )
    return float(logprobs[:, -1].exp().mean())


CHECKS = (
    Check(
        name="C1", title="what was cut off has not ended, in all three autoreset modes", run=check_time_limits
    ),
    Check(
        name="C2",
        title="every kind of action is learned, and what is forbidden is never done",
        run=check_action_kinds,
    ),
    Check(name="C3", title="a policy with a memory solves what none without can", run=check_recurrent_recall),
)
