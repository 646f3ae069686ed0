"""What `control ppo` and `control reinforce` share: one run or several, judged at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

from logratio.config_file import write_settings
from logratio.control.collector import ControlCollector
from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.make_env import make_environments
from logratio.control.env.normalisation import ObservationNormaliser
from logratio.control.evaluation import EVALUATION_SEED, EpisodeReport, play_episodes
from logratio.control.policy import ControlActor, ControlPolicy
from logratio.control.policy_files import save_policy
from logratio.control.video import check_video, film
from logratio.errors import BadConfig, EnvironmentFault, LogratioError
from logratio.recipes.control_config import ControlSettings
from logratio.recipes.control_seeds import describe_seeds, train_several
from logratio.report.collect import read_object
from logratio.report.page import PAGE, render
from logratio.report.warnings.spaces import OF_THE_SPACES
from logratio.run_directory import CONFIG_FILE, REPORT, RunDirectory, describe_machine, write_json
from logratio.training.config import PolicyGradientConfig
from logratio.version import __version__

Trainer = Callable[[ControlActor, ControlCollector, Any, RunDirectory], dict[str, Any]]
EVALUATION_NUM_ENVS = 10
"""Environments in which a trained policy is judged."""


def run_control(
    flags: ControlSettings, training: PolicyGradientConfig, train: Trainer, *, command: str
) -> int:
    """Train once or several times; prints the results."""
    import torch

    for flag, count in (("--seeds", flags.seeds), ("--evaluation-episodes", flags.evaluation_episodes)):
        if count < 1:
            raise BadConfig(f"there is nothing to do with {count}", where=flag, action="give at least 1")
    torch.set_num_threads(flags.threads)
    # What cannot be is refused before anything is written or trained.
    if flags.video or flags.seeds > 1:
        open_environments(flags, 1, seed=flags.seed).close()
    if flags.video:
        check_video(flags.env)

    def train_one(own: ControlSettings) -> dict[str, Any]:
        return train_once(own, training, train, command=command)

    if flags.seeds == 1:
        print(describe(flags, train_one(flags)))
        return 0
    found = train_several(flags, train_one, describe_run(flags, training, command))
    print("\n".join([describe_seeds(flags.env, found), *describe_reach(found), *places(flags, found)]))
    return 0


def train_once(
    flags: ControlSettings, training: PolicyGradientConfig, train: Trainer, *, command: str
) -> dict[str, Any]:
    """One run from its beginning or its last checkpoint to its report."""
    training = training.replace(seed=flags.seed)
    description = describe_run(flags, training, command)
    with ExitStack() as opened:
        environments = open_environments(flags, flags.collect.num_envs, seed=flags.seed)
        opened.callback(environments.close)
        scaling = environments.action.scaling
        if scaling is not None:
            # Weights that were trained in other units do not go on in these.
            description["identity"]["action_scaling"] = scaling.to_json()
        with RunDirectory.begin(flags.out, description, resume=flags.resume) as run:
            write_settings(run.path / CONFIG_FILE, f"control {command}", flags)
            actor = ControlActor(new_policy(flags, environments, training))
            collector = ControlCollector(actor, environments, flags.collect, seed=flags.seed)
            summary = train(actor, collector, training, run)
            # Some environments can be there only once.
            opened.close()
            scale = collector.observation_scale
            save_policy(
                actor.policy,
                run.model_path,
                spaces=spaces_of(environments),
                scale=scale.save(),
                environment=flags.env,
                action_scaling=None if scaling is None else scaling.to_json(),
            )
            report = run_report(flags, run, summary, judge(flags, actor.policy, scale))
            write_report(run, report)
            if flags.video:
                report["film"] = film(
                    flags.env, actor.policy, scale, run.path, seed=flags.seed, scaling=scaling
                )
                write_report(run, report)
    return report


def open_environments(
    flags: ControlSettings, num_envs: int, *, seed: int, autoreset: str | None = None
) -> VectorEnvAdapter:
    """Copies of the environment of the flags; `autoreset` takes the place of theirs.

    Raises:
        EnvironmentNotFound, MissingExtra, BadConfig, UnsupportedSpace: as `make_environments` does.
        EnvironmentFault: it raises when it is made.
    """
    place = f"--env {flags.env}"
    try:
        return make_environments(
            flags.env,
            num_envs=num_envs,
            seed=seed,
            vectorisation=flags.vectorisation,
            autoreset=autoreset or flags.autoreset,
        )
    except LogratioError as fault:
        fault.where = fault.where or place
        raise
    except Exception as error:
        raise EnvironmentFault(
            f"{flags.env} could not be made, it raised {type(error).__name__}: {error}",
            where=place,
            action="fix the environment: `gymnasium.make` raises the same",
        ) from error


def describe_run(flags: ControlSettings, training: PolicyGradientConfig, command: str) -> dict[str, Any]:
    """What `config.json` holds."""
    # As they will be read again from JSON, which knows lists alone.
    collected, networks = (
        asdict(flags.collect),
        asdict(flags.networks) | {"hidden_sizes": [*flags.networks.hidden_sizes]},
    )
    return {
        "command": f"control {command}",
        "logratio": __version__,
        "environment": flags.env,
        "machine": describe_machine(),
        "computed_with": {"threads": flags.threads},
        "settings": training.to_json() | collected | networks | {"threads": flags.threads},
        "identity": training.identity()
        | collected
        | networks
        | {
            "stage": command,
            "environment": flags.env,
            "vectorisation": flags.vectorisation,
            "autoreset": flags.autoreset,
            "several": flags.seeds > 1,
        },
    }


def spaces_of(environments: VectorEnvAdapter) -> dict[str, Any]:
    """What a policy must be told of an environment."""
    return {
        "shape": environments.observation.shape,
        "sizes": environments.action.sizes,
        "num_numbers": environments.action.num_numbers,
    }


def new_policy(
    flags: ControlSettings, environments: VectorEnvAdapter, training: PolicyGradientConfig
) -> ControlPolicy:
    """A policy for the environment, its weights drawn from the seed."""
    return ControlPolicy(
        **spaces_of(environments),
        config=flags.networks,
        critic=uses_critic(training),
        separate_critic=training.critic_learning_rate > 0,
        seed=flags.seed,
    )


def uses_critic(training: PolicyGradientConfig) -> bool:
    """Whether the trainer asks a critic; REINFORCE does only where that is its baseline."""
    return getattr(training, "baseline", "critic") == "critic"


def judge(
    flags: ControlSettings, policy: ControlPolicy, scale: ObservationNormaliser
) -> dict[str, EpisodeReport]:
    """Episodes on seeds of their own, by the most probable actions and by drawn ones."""
    found = {}
    for name, deterministic in (("deterministic", True), ("stochastic", False)):
        side_by_side = min(EVALUATION_NUM_ENVS, flags.evaluation_episodes)
        environments = open_environments(
            flags, side_by_side, seed=flags.seed + EVALUATION_SEED, autoreset="Disabled"
        )
        with closing(environments):
            found[name] = play_episodes(
                policy,
                environments,
                scale,
                episodes=flags.evaluation_episodes,
                deterministic=deterministic,
                seed=flags.seed,
            )
    return found


def run_report(
    flags: ControlSettings, run: RunDirectory, summary: dict[str, Any], judged: dict[str, EpisodeReport]
) -> dict[str, Any]:
    """What came of a run; `evaluation` is what the most probable actions earned."""
    best, rows = judged["deterministic"].to_json(), run.metrics
    return {
        "environment": flags.env,
        "seed": flags.seed,
        "steps": int(rows[-1]["env_steps"]),
        "summary": summary,
        "evaluation": best | {name: found.to_json() for name, found in judged.items()},
        "curve": [
            {"steps": row["env_steps"], "return": row["episode_return"]}
            for row in rows
            if "episode_return" in row
        ],
    }


def write_report(run: RunDirectory, report: dict[str, Any]) -> None:
    """Write report.json and the page; what they warn of stands in `report` too."""
    write_json(run.path / REPORT, report)
    render(run.path)
    report["warnings"] = read_object(run.path / REPORT)["warnings"]


def describe(flags: ControlSettings, report: dict[str, Any]) -> str:
    """What came of a run, in lines for a terminal."""
    judged, summary = report["evaluation"], report["summary"]
    lines = [f"{flags.env}: {report['steps']:,} steps in {summary['seconds']:.0f} s"]
    for name in ("deterministic", "stochastic"):
        found = judged[name]
        lines.append(
            f"{name:<14} return {found['mean_return']:.1f} ± {found['std_return']:.1f} "
            f"over {found['episodes']} episodes of {found['mean_length']:.0f} steps"
        )
        if found["unended"]:
            lines.append(f"{'':<14} {found['unended']} of them had not ended and count as they stood")
    lines += describe_reach(report)
    return "\n".join([*lines, f"model:   {flags.out / 'model'}", *places(flags, report)])


def describe_reach(report: Mapping[str, Any]) -> list[str]:
    """What lay outside of the environment's spaces, in lines for a terminal."""
    found = [one for one in report.get("warnings") or [] if one["name"] in OF_THE_SPACES]
    return [f"{one['severity'] + ':':<9}{one['what']}\n{'':<9}{one['action']}" for one in found]


def places(flags: ControlSettings, report: dict[str, Any]) -> list[str]:
    """Where the page, the numbers and the film are."""
    lines = [f"page:    {flags.out / PAGE}", f"numbers: {flags.out / REPORT}"]
    if "film" in report:
        lines.append(f"video:   {flags.out / report['film']['file']}")
    return lines
