"""What `control ppo` and `control reinforce` share: one run or several, judged at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from logratio import __version__
from logratio.cli.control_seeds import aggregate, describe_seeds
from logratio.errors import BadConfig
from logratio.evaluation.episodes import EVALUATION_SEED, EpisodeReport, play_episodes
from logratio.policies.control import ControlActor, ControlPolicy, NetworkConfig
from logratio.policies.control_files import save_policy
from logratio.report.page import PAGE, render
from logratio.rollouts.control import ControlCollector, ControlConfig
from logratio.rollouts.environments import Environments, Vectorisation
from logratio.rollouts.making import make_environments
from logratio.runs import REPORT, RunDirectory, describe_machine, write_json
from logratio.training.settings import PolicyGradientConfig

Trainer = Callable[[ControlActor, ControlCollector, Any, RunDirectory], dict[str, Any]]
JUDGED_SIDE_BY_SIDE = 10
"""Environments in which a trained policy is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFlags:
    """Which environment is driven, and where everything goes."""

    env: str
    """The environment, as Gymnasium knows it; `module:Name-v0` imports a module first."""
    out: Path = Path("runs/control")
    """The run directory."""
    preset: bool = True
    """Begin from the settings that stand here for this environment, where there are some; every flag that is
    given still holds."""
    seed: int = 0
    """Seed of weights, actions and episodes."""
    seeds: int = 1
    """Train so many times, with this seed and the next ones, each in a directory of its own, and say how the
    runs came out together."""
    vectorisation: Vectorisation = "sync"
    """How copies of the environment are stepped: one after another, in processes of their own (async, where a
    step is slow), or by the environment's own vector form."""
    autoreset: Literal["NextStep", "SameStep", "Disabled"] = "Disabled"
    """When an episode begins anew after its end; Disabled gives every episode a seed of its own."""
    collect: Annotated[ControlConfig, tyro.conf.arg(name="")] = field(default_factory=ControlConfig)
    """How the environment is driven."""
    networks: Annotated[NetworkConfig, tyro.conf.arg(name="")] = field(default_factory=NetworkConfig)
    """Policy and critic."""
    evaluation_episodes: int = 100
    """Episodes that judge the policy at the end, by its most probable actions and by drawn ones."""
    video: bool = False
    """Film an episode of the trained policy into the run directory; needs moviepy."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, or begin it if there is none."""
    threads: int = 1
    """Threads of the processor: small networks are fastest with one."""


def run_control(flags: ControlFlags, training: PolicyGradientConfig, train: Trainer, *, command: str) -> int:
    """Train once or several times; prints what came of it."""
    import torch

    if flags.seeds < 1 or flags.evaluation_episodes < 1:
        raise BadConfig(
            "there is nothing to do", where="--seeds, --evaluation-episodes", action="give at least 1"
        )
    torch.set_num_threads(flags.threads)
    if flags.seeds == 1:
        report = train_once(flags, training, train, command=command)
        print(describe(flags, report))
        return 0
    reports = {}
    for seed in range(flags.seed, flags.seed + flags.seeds):
        own = replace(flags, seed=seed, seeds=1, out=flags.out / f"seed-{seed}", resume=True)
        print(f"seed {seed}", file=sys.stderr)
        reports[own.out] = train_once(own, training, train, command=command)
    found = aggregate(reports)
    write_json(flags.out / REPORT, found)
    render(flags.out)
    print(describe_seeds(flags.env, found))
    print(f"page:    {flags.out / PAGE}\nnumbers: {flags.out / REPORT}")
    return 0


def train_once(
    flags: ControlFlags, training: PolicyGradientConfig, train: Trainer, *, command: str
) -> dict[str, Any]:
    """One run from its beginning or its last checkpoint to its report."""
    environments = open_environments(flags, flags.collect.num_envs, seed=flags.seed)
    training = replace(training, seed=flags.seed)
    with RunDirectory.begin(flags.out, describe_run(flags, training, command), resume=flags.resume) as run:
        actor = ControlActor(new_policy(flags, environments, critic=uses_critic(training)))
        collector = ControlCollector(actor, environments, flags.collect, seed=flags.seed)
        try:
            summary = train(actor, collector, training, run)
        finally:
            environments.close()
        save_policy(
            actor.policy,
            run.model_path,
            spaces=spaces_of(environments),
            scale=collector.observation_scale.save(),
            environment=flags.env,
        )
        judged = judge(flags, actor.policy, collector)
        report = write_report(flags, run, summary, judged)
        if flags.video:
            from logratio.cli.control_video import film

            scale = collector.observation_scale
            print(f"video:   {film(flags.env, actor.policy, scale, run.path, seed=flags.seed)}")
    return report


def open_environments(flags: ControlFlags, num_envs: int, *, seed: int) -> Environments:
    """Copies of the environment of the flags."""
    return make_environments(
        flags.env,
        num_envs=num_envs,
        seed=seed,
        vectorisation=flags.vectorisation,
        autoreset=flags.autoreset,
    )


def describe_run(flags: ControlFlags, training: PolicyGradientConfig, command: str) -> dict[str, Any]:
    """What `config.json` holds."""
    # As they will be read again from JSON, which knows lists alone.
    collected, networks = asdict(flags.collect), asdict(flags.networks) | {"widths": [*flags.networks.widths]}
    return {
        "command": f"control {command}",
        "logratio": __version__,
        "environment": flags.env,
        "machine": describe_machine(),
        "settings": training.to_json() | collected | networks | {"threads": flags.threads},
        "identity": training.identity()
        | collected
        | networks
        | {
            "stage": command,
            "environment": flags.env,
            "vectorisation": flags.vectorisation,
            "autoreset": flags.autoreset,
        },
    }


def spaces_of(environments: Environments) -> dict[str, Any]:
    """What a policy must be told of an environment."""
    return {
        "shape": environments.observation.shape,
        "sizes": environments.action.sizes,
        "num_numbers": environments.action.num_numbers,
    }


def new_policy(flags: ControlFlags, environments: Environments, *, critic: bool) -> ControlPolicy:
    """A policy for the environment, its weights drawn from the seed."""
    return ControlPolicy(**spaces_of(environments), config=flags.networks, critic=critic, seed=flags.seed)


def uses_critic(training: PolicyGradientConfig) -> bool:
    """Whether the trainer asks a critic; REINFORCE does only where that is its baseline."""
    return getattr(training, "baseline", "critic") == "critic"


def judge(
    flags: ControlFlags, policy: ControlPolicy, collector: ControlCollector
) -> dict[str, EpisodeReport]:
    """Episodes on seeds of their own, by the most probable actions and by drawn ones."""
    found = {}
    for name, deterministic in (("deterministic", True), ("stochastic", False)):
        side_by_side = min(JUDGED_SIDE_BY_SIDE, flags.evaluation_episodes)
        environments = open_environments(flags, side_by_side, seed=flags.seed + EVALUATION_SEED)
        try:
            found[name] = play_episodes(
                policy,
                environments,
                collector.observation_scale,
                episodes=flags.evaluation_episodes,
                deterministic=deterministic,
                seed=flags.seed,
            )
        finally:
            environments.close()
    return found


def write_report(
    flags: ControlFlags, run: RunDirectory, summary: dict[str, Any], judged: dict[str, EpisodeReport]
) -> dict[str, Any]:
    """Write report.json; `evaluation` is what the most probable actions earned."""
    best = judged["deterministic"].to_json()
    report = {
        "environment": flags.env,
        "seed": flags.seed,
        "summary": summary,
        "evaluation": best | {name: found.to_json() for name, found in judged.items()},
        "curve": [
            {"steps": row["env_steps"], "return": row["episode_return"]}
            for row in run.metrics
            if "episode_return" in row
        ],
    }
    write_json(run.path / REPORT, report)
    render(run.path)
    return report


def describe(flags: ControlFlags, report: dict[str, Any]) -> str:
    """What came of a run, in lines for a terminal."""
    judged, summary = report["evaluation"], report["summary"]
    steps = report["curve"][-1]["steps"] if report["curve"] else 0.0
    lines = [f"{flags.env}: {steps:,.0f} steps in {summary['seconds']:.0f} s"]
    for name in ("deterministic", "stochastic"):
        found = judged[name]
        lines.append(
            f"{name:<14} return {found['mean_return']:.1f} ± {found['std_return']:.1f} "
            f"over {found['episodes']} episodes of {found['mean_length']:.0f} steps"
        )
    return "\n".join([*lines, f"model:   {flags.out / 'model'}", f"page:    {flags.out / PAGE}"])
