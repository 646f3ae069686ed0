"""One run of one side of `control_vs_peers.py`: a job on standard input, its result in a file.

Each side trains from nothing to its last step; `seconds` is of that call, with making environments and
networks, `whole_seconds` with importing the library as well. The return is that of the last 100 episodes.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from working import Clock, Job, do_job

LAST = 100


def run_logratio(job: Job) -> dict[str, Any]:
    """`logratio control ppo` without its evaluation at the end, which the other sides have not."""
    whole = Clock()
    from logratio.algorithms.ppo import train_ppo
    from logratio.control.collector import ControlCollector, ControlConfig
    from logratio.control.policy import ControlActor, NetworkConfig
    from logratio.recipes.control import new_policy, open_environments
    from logratio.recipes.control_config import ControlPPOConfig, ControlSettings
    from logratio.run_directory import RunDirectory

    training = Clock()
    flags = ControlSettings(
        env=job["env"],
        seed=job["seed"],
        vectorisation=job["vectorisation"],
        collect=ControlConfig(
            steps=job["steps"],
            num_envs=job["num_envs"],
            num_steps=job["num_steps"],
            discount=job["discount"],
            lam=job["lam"],
            normalise_observations=job["normalise"],
            normalise_rewards=job["normalise"],
        ),
        networks=NetworkConfig(hidden_sizes=tuple(job["widths"]), activation=job["activation"]),
    )
    config = ControlPPOConfig.of(
        learning_rate=job["learning_rate"],
        update_epochs=job["update_epochs"],
        minibatches=job["minibatches"],
        clip_range=job["clip_range"],
        # Half the squared error is the loss here.
        value_coefficient=2.0 * job["value_coefficient"],
        entropy_coefficient=job["entropy_coefficient"],
        max_gradient_norm=job["max_gradient_norm"],
        seed=job["seed"],
    )
    environments = open_environments(flags, job["num_envs"], seed=job["seed"])
    with (
        tempfile.TemporaryDirectory() as name,
        RunDirectory.begin(Path(name) / "run", {"identity": {}}) as run,
    ):
        actor = ControlActor(new_policy(flags, environments, config))
        collector = ControlCollector(actor, environments, flags.collect, seed=job["seed"])
        train_ppo(actor, collector, config, run)
    returns = [total for total, _ in collector.state.recent]
    return finished(job, training, whole, returns) | {"versions": {"logratio": version("logratio")}}


def run_sb3(job: Job) -> dict[str, Any]:
    """Stable-Baselines3's PPO with the same numbers."""
    whole = Clock()
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    training = Clock()
    envs = make_vec_env(job["env"], n_envs=job["num_envs"], seed=job["seed"])
    if job["normalise"]:
        envs = VecNormalize(envs, gamma=job["discount"])
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=job["num_steps"],
        batch_size=job["num_envs"] * job["num_steps"] // job["minibatches"],
        n_epochs=job["update_epochs"],
        gamma=job["discount"],
        gae_lambda=job["lam"],
        learning_rate=lambda left: left * job["learning_rate"],
        clip_range=job["clip_range"],
        vf_coef=job["value_coefficient"],
        ent_coef=job["entropy_coefficient"],
        max_grad_norm=job["max_gradient_norm"],
        policy_kwargs={
            "net_arch": {"pi": job["widths"], "vf": job["widths"]},
            "activation_fn": {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[job["activation"]],
        },
        seed=job["seed"],
        device="cpu",
        stats_window_size=LAST,
    )
    model.learn(job["steps"])
    returns = [episode["r"] for episode in model.ep_info_buffer]
    return finished(job, training, whole, returns) | {
        "versions": {"stable-baselines3": version("stable-baselines3")},
        "versions_of_peer": f"stable-baselines3 {version('stable-baselines3')}",
    }


def run_single_file(job: Job) -> dict[str, Any]:
    """The loop in one file."""
    whole = Clock()
    from single_file_ppo import train

    training = Clock()
    return finished(job, training, whole, train(job)[-LAST:])


def finished(job: Job, training: Clock, whole: Clock, returns: list[float]) -> dict[str, Any]:
    """The times and the return of a run at its end."""
    rows = job["num_envs"] * job["num_steps"]
    return {
        "seconds": training.seconds,
        "whole_seconds": whole.seconds,
        "processor_seconds": training.processor_seconds,
        "env_steps": -(-job["steps"] // rows) * rows,
        "work": -(-job["steps"] // rows) * rows,
        "timed_seconds": whole.seconds,
        "return": sum(returns) / len(returns),
    }


if __name__ == "__main__":
    sides = {"logratio": run_logratio, "sb3": run_sb3, "single file": run_single_file}
    sys.exit(do_job(sys.stdin.read(), sides))
