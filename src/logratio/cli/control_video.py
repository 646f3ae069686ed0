"""A film of one episode of a trained policy."""

from __future__ import annotations

from pathlib import Path

import torch

from logratio.errors import MissingExtra
from logratio.evaluation.episodes import EVALUATION_SEED
from logratio.policies.control import ControlPolicy
from logratio.rollouts.environments import episode_seed
from logratio.rollouts.normalisation import ObservationScale
from logratio.rollouts.spaces import action_layout, alone, observation_layout

NAME = "episode.mp4"


@torch.no_grad()
def film(name: str, policy: ControlPolicy, scale: ObservationScale, path: Path, *, seed: int) -> Path:
    """Play one episode by the most probable actions and write it as an MP4 file.

    Args:
        name: of the environment, which must be able to render `rgb_array`.
        policy: who plays.
        scale: how it sees.
        path: the directory that the film goes into.
        seed: of the run; the episode's is that of the first that judges it.

    Raises:
        MissingExtra: moviepy, or what the environment draws with, is not installed.
    """
    import gymnasium

    try:
        from moviepy.video.io.ImageSequenceClip import ImageSequenceClip

        environment = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
        observation, info = environment.reset(seed=episode_seed(seed + EVALUATION_SEED, 0, 0))
        frames = [environment.render()]
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise MissingExtra(
            f"a film needs a package that is not installed: {error}",
            where="--video",
            action="pip install 'logratio[video]'; the trained policy is saved already",
        ) from error
    sees, does = observation_layout(environment.observation_space), action_layout(environment.action_space)
    remembered, begins, over = policy.blank(1), True, False
    while not over:
        mask = info.get("action_mask")
        actions, _, remembered = policy.act(
            torch.from_numpy(scale(sees.flatten(alone(observation)))),
            remembered,
            torch.tensor([begins]),
            generator=None,
            allowed=None if mask is None else torch.as_tensor(mask).reshape(1, -1).bool(),
        )
        observation, _, terminated, truncated, info = environment.step(does.give(actions.numpy())[0])
        frames.append(environment.render())
        begins, over = False, terminated or truncated
    fps = int(environment.metadata.get("render_fps", 30))
    environment.close()
    target = path / NAME
    ImageSequenceClip(frames, fps=fps).write_videofile(str(target), logger=None)
    return target
