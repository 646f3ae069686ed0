"""Filming: what is seen is the first episode that judges, and what cannot be filmed is refused beforehand."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest

from logratio.cli.main import main
from logratio.control.video import NAME
from scripted_environments import Counting, Drawing

films = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("moviepy", "pygame")),
    reason="needs the extra `video`",
)
FEW = ["--steps", "1500", "--num-steps", "50", "--update-epochs", "2", "--evaluation-episodes", "4"]


def control(*words):
    return main(["control", "ppo", *map(str, words), *FEW])


def read(path):
    return json.loads((path / "report.json").read_text())


def frames_of(file):
    """`[frames, height, width, 3]` what a player shows, and how many of them a second."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    shown = subprocess.run(command, capture_output=True, check=True)
    about = re.search(rb"Video: h264.*?yuv420p.*? (\d+)x(\d+).*? ([\d.]+) fps", shown.stderr)
    width, height, rate = (float(number) for number in about.groups())
    return np.frombuffer(shown.stdout, np.uint8).reshape(-1, int(height), int(width), 3), rate


@pytest.fixture
def registered():
    """Registers an environment for a test, under the name Made-v0."""
    yield lambda build: gymnasium.register("Made-v0", entry_point=build)
    gymnasium.registry.pop("Made-v0", None)


@films
def test_the_first_episode_that_judges_is_filmed(tmp_path, capsys):
    out = tmp_path / "run"
    assert control("--env", "CartPole-v1", "--out", out, "--video") == 0
    report = read(out)
    film, judged = report["film"], report["evaluation"]["deterministic"]
    assert film["return"] == judged["returns"][0]
    assert film["steps"] == film["return"]
    assert film["whole"] is True
    pictures, rate = frames_of(out / NAME)
    # One before the first step and one behind each; CartPole says that a second has 50.
    assert len(pictures) == film["steps"] + 1
    assert rate == 50
    assert film["seconds"] == pytest.approx(len(pictures) / 50)
    assert pictures.shape[1:] == (400, 600, 3)
    assert np.abs(pictures[0].astype(int) - pictures[-1].astype(int)).max() > 100
    assert str(out / NAME) in capsys.readouterr().out


@films
def test_the_page_shows_the_film_and_loads_nothing(tmp_path):
    out = tmp_path / "run"
    assert control("--env", "CartPole-v1", "--out", out, "--video") == 0
    page = (out / "report.html").read_text()
    (source,) = re.findall(r'<video src="([^"]*)"', page)
    assert source.startswith("data:video/mp4;base64,")
    assert "media-src data:" in page
    assert f'href="{NAME}"' in page
    # The numbers keep the file's name alone.
    assert "base64" not in (out / "report.json").read_text()


@films
def test_of_several_runs_the_best_is_filmed(tmp_path):
    out = tmp_path / "runs"
    assert control("--env", "CartPole-v1", "--out", out, "--seeds", 2, "--video") == 0
    report = read(out)
    best = max(report["evaluation"]["seeds"], key=lambda one: one["mean_return"])
    assert report["film"]["seed"] == best["seed"]
    assert report["film"]["return"] == best["deterministic"]["returns"][0]
    assert len(frames_of(out / NAME)[0]) == report["film"]["steps"] + 1
    assert not list(out.glob(f"seed-*/{NAME}"))
    assert "<video" in (out / "report.html").read_text()


@films
def test_pictures_of_odd_size_are_cut_to_what_players_take(tmp_path, registered):
    registered(lambda render_mode=None: Drawing(5, (33, 51, 3), render_mode=render_mode))
    assert control("--env", "Made-v0", "--out", tmp_path / "run", "--video") == 0
    pictures, rate = frames_of(tmp_path / "run" / NAME)
    assert pictures.shape == (6, 32, 50, 3)
    assert rate == 30
    # It paints each step brighter than the one before.
    assert (np.diff(pictures.mean(axis=(1, 2, 3))) > 5).all()


@pytest.mark.parametrize("package", ["moviepy.video.io.ffmpeg_writer", "pygame"])
def test_a_film_without_its_package_is_refused_before_training(tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", "--video") == 2
    said = capsys.readouterr().err
    assert "MissingExtra: a film of CartPole-v1 needs a package that is not installed" in said
    assert "where: --video" in said
    assert "do:    pip install 'logratio[video]'" in said
    assert not (tmp_path / "run").exists()


@films
def test_an_environment_that_draws_nothing_is_refused_before_training(tmp_path, capsys, registered):
    registered(lambda render_mode=None: Counting(5))
    assert control("--env", "Made-v0", "--out", tmp_path / "run", "--video") == 2
    said = capsys.readouterr().err
    assert "Made-v0 draws no pictures" in said
    assert "leave the flag out" in said
    assert not (tmp_path / "run").exists()


def test_an_unknown_environment_is_named_before_what_films_it(tmp_path, capsys):
    assert control("--env", "CartPole-v9", "--out", tmp_path / "run", "--video") == 2
    assert "perhaps you meant CartPole-v1" in capsys.readouterr().err


@films
def test_a_film_that_goes_wrong_leaves_what_was_trained(tmp_path, capsys, registered):
    """It draws the picture that is asked for beforehand, and no more than two of the episode."""
    registered(lambda render_mode=None: Drawing(5, (32, 50, 3), render_mode=render_mode, breaks_at=2))
    assert control("--env", "Made-v0", "--out", tmp_path / "run", "--video") == 2
    said = capsys.readouterr().err
    assert "EnvironmentFault: Made-v0 raised ZeroDivisionError while it was filmed: no colour" in said
    assert "the trained policy and its report are saved" in said
    assert (tmp_path / "run" / "model" / "policy.safetensors").is_file()
    assert read(tmp_path / "run")["evaluation"]["episodes"] == 4
    assert not (tmp_path / "run" / NAME).exists()
