"""A film of one episode of a trained policy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from logratio.control.env.action_masks import flat_mask
from logratio.control.env.action_scaling import ActionScaling
from logratio.control.env.adapter import episode_seed
from logratio.control.env.normalisation import ObservationNormaliser
from logratio.control.env.spaces import action_layout, as_batch, observation_layout
from logratio.control.env.sync_vector import checked_reset, checked_step, space_shape
from logratio.control.evaluation import EVALUATION_SEED
from logratio.control.policy import ControlPolicy
from logratio.errors import BadConfig, EnvironmentFault, LogratioError, MissingExtra, NotWritable
from logratio.run_directory import atomic_write

NAME = "episode.mp4"
INSTALL = "pip install 'logratio[video]'"
LONGEST = 5_000
"""Steps after which a film is over, whether the episode is or not."""
USUAL_FPS = 30
KEPT = "the trained policy and its report are saved all the same"
Frame = tuple[np.ndarray, float, bool]
"""A picture, the reward that came with it, and whether it is the episode's last."""


def check_video(name: str) -> None:
    """Draw one picture, so that a film that cannot be made is refused before anything is trained.

    Args:
        name: of the environment.

    Raises:
        MissingExtra: moviepy, or what the environment draws with, is not installed.
        BadConfig: the environment draws no pictures.
    """
    with video_errors(name, INSTALL):
        import moviepy.video.io.ffmpeg_writer  # noqa: F401 - only whether it is there

        with closing(open_drawn(name)) as environment:
            environment.reset(seed=0)
            picture_of(environment)


@torch.no_grad()
def film(
    name: str,
    policy: ControlPolicy,
    scale: ObservationNormaliser,
    path: Path,
    *,
    seed: int,
    scaling: ActionScaling | None = None,
) -> dict[str, Any]:
    """Play the first episode that judges, by the most probable actions, and write it as an MP4 file.

    Args:
        name: of the environment.
        policy: who plays.
        scale: how it sees.
        path: the directory that the film goes into.
        seed: of the run.
        scaling: how its numbers lie in the action space.

    Returns:
        The file's name, the run's seed, return and steps of what is seen, its seconds, and whether it is the
        whole episode.

    Raises:
        MissingExtra, BadConfig: as for `check_video`.
        EnvironmentFault: the environment raised.
        NotWritable: the film could not be written.
    """
    with (
        video_errors(name, f"{INSTALL}; {KEPT}"),
        closing(open_drawn(name)) as environment,
        tempfile.TemporaryDirectory() as directory,
    ):
        rate = float(environment.metadata.get("render_fps", USUAL_FPS))
        file = Path(directory) / NAME
        pictures = play(environment, policy, scale, seed=seed, scaling=scaling)
        rewards, whole = record(pictures, file, rate)
        with atomic_write(path / NAME, "wb") as stream:
            stream.write(file.read_bytes())
    return {
        "file": NAME,
        "seed": seed,
        "return": sum(rewards),
        "steps": len(rewards),
        "seconds": (len(rewards) + 1) / rate,
        "whole": whole,
    }


def record(pictures: Iterator[Frame], file: Path, rate: float) -> tuple[list[float], bool]:
    """Write pictures into a file; returns the rewards, and whether the last picture is the episode's last."""
    from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

    picture, _, over = next(pictures)
    size, rewards = (picture.shape[1], picture.shape[0]), []
    # The index stands in front, so that a browser shows the film while it is still reading it.
    settings = {"ffmpeg_params": ["-movflags", "+faststart"], "threads": 1}
    with FFMPEG_VideoWriter(str(file), size, rate, **settings) as writer:
        writer.write_frame(picture)
        for picture, reward, over in islice(pictures, LONGEST):  # noqa: B007 - the last one is returned
            writer.write_frame(picture)
            rewards.append(reward)
    return rewards, over


def play(
    environment: Any,
    policy: ControlPolicy,
    scale: ObservationNormaliser,
    *,
    seed: int,
    scaling: ActionScaling | None,
) -> Iterator[Frame]:
    """The pictures of an episode."""
    sees = observation_layout(environment.observation_space)
    does = action_layout(environment.action_space, scaling=scaling)
    expected_shape = space_shape(environment.observation_space)
    given = environment.reset(seed=episode_seed(seed + EVALUATION_SEED, 0, 0))
    observation, info = checked_reset(given, expected_shape)
    hidden_state, episode_start, over, action_mask = policy.initial_state(1), True, False, None
    yield picture_of(environment), 0.0, over
    while not over:
        mask = (info or {}).get("action_mask")
        action_mask = action_mask if mask is None else torch.from_numpy(flat_mask(mask))[None]
        actions, _, hidden_state = policy.act(
            torch.from_numpy(scale(sees.flatten(as_batch(observation)))),
            hidden_state,
            torch.tensor([episode_start]),
            noise=None,
            action_mask=action_mask,
        )
        given = environment.step(does.to_env(actions.numpy())[0])
        observation, reward, terminated, truncated, info = checked_step(given, expected_shape)
        episode_start, over = False, terminated or truncated
        yield picture_of(environment), reward, over


def open_drawn(name: str) -> Any:
    """An environment that draws pictures into arrays.

    Raises:
        BadConfig: it draws none.
    """
    # Nothing is shown on a screen, and there need not be one.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import gymnasium

    with closing(gymnasium.make(name, disable_env_checker=True)) as environment:
        modes = environment.metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        raise BadConfig(
            f"{name} draws no pictures that could be filmed: it can render "
            f"{', '.join(map(repr, modes)) or 'nothing'}, and 'rgb_array' is needed",
            where="--video",
            action="leave the flag out",
        )
    return gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)


def picture_of(environment: Any) -> np.ndarray:
    """`[height, width, 3]` bytes, both even: what players take."""
    picture = np.asarray(environment.render())
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise BadConfig(
            f"render() gave {picture.dtype} of shape {picture.shape}, not a picture of bytes",
            where="--video",
            action="leave the flag out, or let render() give uint8 of height × width × 3",
        )
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]


@contextmanager
def video_errors(name: str, install: str) -> Iterator[None]:
    """Name what can go wrong while an episode is drawn."""
    from gymnasium.error import DependencyNotInstalled

    try:
        yield
    except LogratioError:
        raise
    except (ImportError, DependencyNotInstalled) as error:
        what = f"a film of {name} needs a package that is not installed: {error}"
        raise MissingExtra(what, where="--video", action=install) from error
    except OSError as error:
        what = f"the film could not be written: {error}"
        raise NotWritable(what, where="--video", action=KEPT) from error
    except Exception as error:
        what = f"{name} raised {type(error).__name__} while it was filmed: {error}"
        raise EnvironmentFault(what, where="--video", action=KEPT) from error
