"""The flags that `control ppo` and `control reinforce` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from logratio.control.collector import ControlConfig
from logratio.control.env.adapter import Vectorisation
from logratio.control.policy import NetworkConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFlags:
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
