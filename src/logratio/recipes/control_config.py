"""The settings of training in environments: those of the trainers, as they suit small networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from logratio.algorithms.ppo import PPOConfig
from logratio.algorithms.reinforce import ReinforceConfig
from logratio.control.collector import ControlConfig
from logratio.control.env.adapter import Vectorisation
from logratio.control.policy import NetworkConfig
from logratio.training.config import GuardConfig, LoopConfig, OptimizerConfig, OutputConfig
from logratio.training.on_policy import Reduction

small_networks = partial(
    OptimizerConfig, warmup=0.0, schedule="linear", adam_epsilon=1e-5, max_gradient_norm=0.5
)
"""How small networks are usually trained."""
one_rollout = partial(LoopConfig, batch_size=1, shuffle=False, row_tokens=512)
"""An update is one rollout, and rollouts are made in their order."""
no_guard = partial(GuardConfig, max_reference_kl=0.0, max_repetition=0.0, max_length_change=0.0)
"""There is neither a reference nor text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """Which environment is driven, and where everything goes."""

    env: str
    """The environment, as Gymnasium knows it; `module:Name-v0` imports a module first."""
    out: Path = Path("runs/control")
    """The run directory."""
    preset: bool = True
    """Begin from the settings that stand here for this environment, if any; flags that are given hold."""
    seed: int = 0
    """Seed of weights, actions and episodes."""
    seeds: int = 1
    """Train so many times, with this seed and the next ones, and say how the runs came out together."""
    vectorisation: Vectorisation = "sync"
    """How copies are stepped: in turn, each in a process (async), by a vector form (own), or by EnvPool."""
    autoreset: Literal["NextStep", "SameStep", "Disabled"] = "Disabled"
    """When an episode begins anew after its end; Disabled gives every episode a seed of its own."""
    evaluation_episodes: int = 100
    """Episodes that judge the policy at the end, by its most probable actions, and as many by drawn ones."""
    video: bool = False
    """Film the first of these episodes (of several runs, the best one's); needs the extra `video`."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, or begin it if there is none."""
    threads: int = 1
    """CPU threads: small networks are fastest with one."""
    collect: Annotated[ControlConfig, tyro.conf.arg(name="rollout"), tyro.conf.OmitArgPrefixes] = field(
        default_factory=ControlConfig
    )
    """How the environment is driven between two updates, and what its rewards count."""
    networks: Annotated[NetworkConfig, tyro.conf.arg(name="network"), tyro.conf.OmitArgPrefixes] = field(
        default_factory=NetworkConfig
    )
    """The form of policy and critic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPPOConfig(PPOConfig):
    """Settings of PPO as they suit small networks."""

    optimizer: Annotated[OptimizerConfig, tyro.conf.arg(name="")] = field(
        default_factory=partial(small_networks, learning_rate=3e-4)
    )
    """The optimiser and its learning rate."""
    loop: tyro.conf.Suppress[LoopConfig] = field(default_factory=one_rollout)
    output: Annotated[OutputConfig, tyro.conf.arg(name="")] = field(default_factory=OutputConfig)
    """Checkpoints and event files."""
    guard: tyro.conf.Suppress[GuardConfig] = field(default_factory=no_guard)
    local_kl: tyro.conf.Suppress[float] = 0.0
    update_epochs: int = 10
    """Passes over a rollout, before the policy collects again."""
    early_stop_factor: float = 0.0
    """An update ends early where KL[old, new] passes this many times the target; 0: it never does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReinforceConfig(ReinforceConfig):
    """Settings of the policy gradient as they suit small networks."""

    optimizer: Annotated[OptimizerConfig, tyro.conf.arg(name="")] = field(
        default_factory=partial(small_networks, learning_rate=1e-3)
    )
    """The optimiser and its learning rate."""
    loop: tyro.conf.Suppress[LoopConfig] = field(default_factory=one_rollout)
    output: Annotated[OutputConfig, tyro.conf.arg(name="")] = field(default_factory=OutputConfig)
    """Checkpoints and event files."""
    guard: tyro.conf.Suppress[GuardConfig] = field(default_factory=no_guard)
    local_kl: tyro.conf.Suppress[float] = 0.0
    baseline: Literal["none", "batch-mean", "critic"] = "critic"
    """What is taken off the return: nothing, the mean of the environments, or what a critic expects."""
    whiten_advantages: bool = True
    """Scale the advantages of a rollout to mean 0 and standard deviation 1."""
    reduction: Reduction = "tokens"
    """Mean over all steps (tokens), or over environments of their means (sequences) or sums (sums)."""
    credit: Literal["reward-to-go", "return"] = "reward-to-go"
    """What an action is credited with: the rewards from it on, or the whole rollout's (without a critic)."""
    weights: Literal["none", "token", "sequence"] = "token"
    """Importance weights where the policy has moved: of a step (token), or of a whole rollout (sequence)."""
