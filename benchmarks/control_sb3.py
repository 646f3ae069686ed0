"""One run of Stable-Baselines3's PPO with a preset's numbers: `python control_sb3.py TASK SEED OUT`.

Writes report.json with what `control_returns.py` reads: the mean of 100 episodes by the most probable actions
on seeds of their own, the statistics of the observations frozen.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from logratio.control.evaluation import EVALUATION_SEED
from logratio.control.presets import PRESETS, Preset

EPISODES = 100


class Curve(BaseCallback):
    """Steps and the mean return of the last 100 episodes, once a rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        if returns:
            self.points.append({"steps": self.num_timesteps, "return": sum(returns) / len(returns)})


def main(task: str, seed: int, out: Path) -> None:
    """Train, judge, write."""
    torch.set_num_threads(1)
    preset = PRESETS[task]()
    envs = make_vec_env(task, n_envs=preset.collect.num_envs, seed=seed)
    if preset.collect.normalise_observations:
        envs = VecNormalize(envs, gamma=preset.collect.discount)
    started, curve = time.monotonic(), Curve()
    model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **settings_of(preset))
    model.learn(preset.collect.steps, callback=curve)
    seconds = time.monotonic() - started
    judge = make_vec_env(task, n_envs=10, seed=seed + EVALUATION_SEED)
    if preset.collect.normalise_observations:
        judge = VecNormalize(judge, training=False, norm_reward=False)
        judge.obs_rms = envs.obs_rms
    mean, deviation = evaluate_policy(model, judge, n_eval_episodes=EPISODES, deterministic=True)
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "evaluation": {"mean_return": mean, "std_return": deviation, "episodes": EPISODES},
        "summary": {"seconds": seconds},
        "curve": curve.points,
    }
    (out / "report.json").write_text(json.dumps(report))


def settings_of(preset: Preset) -> dict[str, Any]:
    """A preset's numbers by the names that they have there."""
    from logratio.recipes.control_config import ControlPPOConfig

    training, collect = ControlPPOConfig.of(**preset.training), preset.collect
    return {
        "n_steps": collect.num_steps,
        "batch_size": collect.rows // training.minibatches,
        "n_epochs": training.update_epochs,
        "gamma": collect.discount,
        "gae_lambda": collect.lam,
        "learning_rate": lambda left: left * training.optimizer.learning_rate,
        "clip_range": training.clip_range,
        # Half the squared error is the loss here, the squared error there.
        "vf_coef": training.value_coefficient / 2.0,
        "ent_coef": training.entropy_coefficient,
        "max_grad_norm": training.optimizer.max_gradient_norm,
        "policy_kwargs": {
            "net_arch": {"pi": list(preset.networks.hidden_sizes), "vf": list(preset.networks.hidden_sizes)},
            "activation_fn": {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[preset.networks.activation],
        },
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
