"""Minibatches that are recorded train the very weights that autograd would, to the last bit."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.algorithms.ppo import PPOConfig, estimate, row_losses, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.control.collector import ControlCollector, ControlConfig
from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.graph_replay import GraphCache
from logratio.control.policy import ControlActor, ControlPolicy, NetworkConfig
from logratio.run_directory import RunDirectory, read_json_lines
from logratio.training.on_policy import backpropagate
from logratio.verify.worlds.environments import Identity, Narrow

ALONE: dict[str, Any] = {"batch_size": 1, "epochs": 1.0, "shuffle": False, "warmup": 0.0}
STEPS = {"minibatches": 3, "learning_rate": 1e-2}
PPO = {
    "clip": PPOConfig.of(update_epochs=4, **STEPS, **ALONE),
    "whole": PPOConfig.of(update_epochs=4, **(STEPS | {"minibatches": 1}), **ALONE),
    "penalty": PPOConfig.of(
        update_epochs=4, clip_range=0.0, kl_penalty=0.1, early_stop_factor=0.0, **STEPS, **ALONE
    ),
    "all": PPOConfig.of(
        update_epochs=4,
        kl_penalty=0.1,
        dual_clip=2.0,
        value_clip=0.3,
        entropy_coefficient=0.01,
        reduction="sequences",
        **STEPS,
        **ALONE,
    ),
}
REINFORCE = {
    "critic": ReinforceConfig.of(baseline="critic", reduction="tokens", weights="none", **STEPS, **ALONE),
    "plain": ReinforceConfig.of(baseline="none", reduction="sums", weights="token", **STEPS, **ALONE),
    "weighted": ReinforceConfig.of(
        baseline="critic", reduction="tokens", weights="sequence", **STEPS, **ALONE
    ),
}
MAKES: dict[str, Any] = {
    "choice": lambda: Identity(spaces.Discrete(4)),
    "choices": lambda: Identity(spaces.MultiDiscrete([2, 3])),
    "numbers": lambda: Identity(spaces.Box(-1.0, 1.0, (2,))),
    "masked": Narrow,
}


def policy_for(environments: VectorEnvAdapter) -> ControlPolicy:
    return ControlPolicy(
        shape=environments.observation.shape,
        sizes=environments.action.sizes,
        num_numbers=environments.action.num_numbers,
        config=NetworkConfig(hidden_sizes=(8, 8)),
        critic=True,
        seed=1,
    )


def train(
    where: Path, build: Any, config: PPOConfig | ReinforceConfig, *, mode: str, recorded: bool
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], ControlActor]:
    environments = VectorEnvAdapter(
        SyncVectorEnv([build] * 3, autoreset_mode=AutoresetMode(mode)), seed=3, name="Made-v0"
    )
    policy = policy_for(environments)
    actor = ControlActor(policy)
    if not recorded:
        assert actor.recorded is not None
        actor.recorded.graphs, policy._acts = Never(), Never()
    collector = ControlCollector(
        actor, environments, ControlConfig(num_envs=3, num_steps=24, steps=3 * 24 * 5), seed=0
    )
    with RunDirectory.begin(where, {"identity": {}}) as run:
        trainer = train_ppo if isinstance(config, PPOConfig) else train_reinforce
        trainer(actor, collector, config, run)  # type: ignore[operator]
        rows = read_json_lines(run.path / "metrics.jsonl")
    return {name: weight.clone() for name, weight in policy.state_dict().items()}, rows, actor


class Never(GraphCache):
    """Nothing is recorded."""

    def __call__(self, key: Any, compute: Any, inputs: Any, **known: Any) -> Any:
        return compute()


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
@pytest.mark.parametrize("name", [*PPO, *REINFORCE])
@pytest.mark.parametrize("kind", MAKES)
def test_weights_and_metrics_are_those_of_autograd(tmp_path: Path, kind: str, name: str, mode: str) -> None:
    config = (PPO | REINFORCE)[name]
    weights, rows, actor = train(tmp_path / "recorded", MAKES[kind], config, mode=mode, recorded=True)
    wanted, others, _ = train(tmp_path / "anew", MAKES[kind], config, mode=mode, recorded=False)
    for key, weight in wanted.items():
        assert torch.equal(weights[key], weight), key
    timed = {"seconds", "rollouts_per_second", "tokens_per_second"}
    for row, other in zip(rows, others, strict=True):
        assert {key: value for key, value in row.items() if key not in timed} == {
            key: value for key, value in other.items() if key not in timed
        }
    assert actor.recorded is not None
    # Weights of whole sequences count those that are there, which is looking at numbers.
    assert (actor.recorded.graphs.num_replayed > 0) == (name != "weighted")


def test_gradients_are_added_to_those_that_stand() -> None:
    environments = VectorEnvAdapter(
        SyncVectorEnv([MAKES["choice"]] * 3, autoreset_mode=AutoresetMode.DISABLED), seed=3, name="Made-v0"
    )
    actor = ControlActor(policy_for(environments))
    config = PPO["clip"]
    rollout = ControlCollector(actor, environments, ControlConfig(num_envs=3, num_steps=8), seed=0).collect(
        0, [0]
    )
    losses = partial(row_losses, targets=estimate(rollout, config), config=config, beta=0.0)
    for times in (1.0, 2.0, 3.0):
        backpropagate(actor, rollout, np.arange(24), losses, reduction="tokens", step=0)
        gradients = [weight.grad for weight in actor.policy.parameters()]
        if times == 1.0:
            once = [gradient.clone() for gradient in gradients if gradient is not None]
        for gradient, one in zip(gradients, once, strict=True):
            torch.testing.assert_close(gradient, times * one)
