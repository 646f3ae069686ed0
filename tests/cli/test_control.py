"""`logratio control`: one run, several runs, going on, and what is refused."""

import json
import sys

import gymnasium
import pytest

from logratio.cli import control as control_command
from logratio.cli.control_presets import PRESETS, find_preset
from logratio.cli.main import main
from logratio.evaluation.episodes import EVALUATION_SEED
from logratio.policies.control_files import load_policy
from logratio.runs import hash_file, read_json_lines
from made_environments import Faulty

FEW = ["--steps", "1500", "--num-steps", "50", "--update-epochs", "2", "--evaluation-episodes", "4"]


def control(*words, trainer="ppo"):
    return main(["control", trainer, *map(str, words)])


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("trainer", ["ppo", "reinforce"])
def test_a_run_is_judged_and_reported(tmp_path, capsys, trainer):
    out = tmp_path / "run"
    flags = [word for word in FEW if trainer == "ppo" or word not in ("--update-epochs", "2")]
    assert control("--env", "CartPole-v1", "--out", out, "--seed", 3, *flags, trainer=trainer) == 0
    report = read(out / "report.json")
    judged = report["evaluation"]
    assert judged["episodes"] == len(judged["deterministic"]["returns"]) == 4
    assert judged["mean_return"] == pytest.approx(sum(judged["deterministic"]["returns"]) / 4)
    assert judged["stochastic"]["returns"] != judged["deterministic"]["returns"]
    assert report["environment"] == "CartPole-v1"
    assert report["seed"] == 3
    assert "CartPole-v1" in (out / "report.html").read_text()
    assert "No evaluation" not in (out / "report.html").read_text()
    rows = read_json_lines(out / "metrics.jsonl")
    assert rows[-1]["env_steps"] == 1600
    assert load_policy(out / "model")[1]["spaces"] == {"shape": [4], "sizes": [2], "num_numbers": 0}
    said = capsys.readouterr().out
    assert "deterministic  return" in said
    assert str(out / "model") in said


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert control("--env", "CartPole-v1", "--out", tmp_path / name, "--seed", seed, *FEW) == 0
    hashes = [hash_file(tmp_path / name / "model" / "policy.safetensors") for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_several_seeds_are_put_together(tmp_path, capsys):
    assert control("--env", "CartPole-v1", "--out", tmp_path / "runs", "--seeds", 3, "--seed", 5, *FEW) == 0
    report = read(tmp_path / "runs" / "report.json")
    judged = report["evaluation"]
    assert [one["seed"] for one in judged["seeds"]] == [5, 6, 7]
    alone = [read(tmp_path / "runs" / f"seed-{seed}" / "report.json") for seed in (5, 6, 7)]
    returns = [one["evaluation"]["mean_return"] for one in alone]
    assert [one["mean_return"] for one in judged["seeds"]] == returns
    middle = judged["interquartile_mean"]
    assert min(returns) <= middle["low"] <= middle["value"] <= middle["high"] <= max(returns)
    assert all(row["lowest"] <= row["return"] <= row["highest"] for row in report["curve"])
    page = (tmp_path / "runs" / "report.html").read_text()
    assert "3 runs with different seeds" in page
    assert "interquartile mean" in capsys.readouterr().out


def test_a_policy_is_judged_on_episodes_that_training_never_had(tmp_path, monkeypatch):
    seeds, real = [], control_command.open_environments

    def opened(flags, num_envs, *, seed):
        seeds.append(seed)
        return real(flags, num_envs, seed=seed)

    monkeypatch.setattr(control_command, "open_environments", opened)
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", "--seed", 7, *FEW) == 0
    assert seeds == [7, 7 + EVALUATION_SEED, 7 + EVALUATION_SEED]


@pytest.mark.parametrize("autoreset", ["NextStep", "SameStep"])
def test_other_modes_of_beginning_anew_are_trained_in(tmp_path, autoreset):
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", "--autoreset", autoreset, *FEW) == 0


def test_actions_that_are_numbers_and_a_memory(tmp_path):
    flags = [*FEW, "--steps", "600", "--memory", "8", "--widths", "8"]
    assert control("--env", "Pendulum-v1", "--out", tmp_path / "run", *flags) == 0
    assert read(tmp_path / "run" / "model" / "policy.json")["networks"]["memory"] == 8


# --- settings ---------------------------------------------------------------------------------------


def test_a_preset_is_taken_and_flags_hold_all_the_same(tmp_path):
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", *FEW, "--lam", "0.7") == 0
    settings = read(tmp_path / "run" / "config.json")["settings"]
    assert settings["discount"] == 0.98
    assert settings["lam"] == 0.7
    assert control("--env=CartPole-v1", "--no-preset", "--out", tmp_path / "bare", *FEW) == 0
    assert read(tmp_path / "bare" / "config.json")["settings"]["discount"] == 0.99


def test_every_preset_is_of_an_environment_that_is_there():
    for name, build in PRESETS.items():
        assert build().env == name
        assert name in gymnasium.registry
        assert find_preset(["--env", name]) == build()
    assert find_preset(["--env", "Taxi-v3"]) is None


# --- faults -----------------------------------------------------------------------------------------


def test_an_unknown_environment_is_refused_with_the_nearest(tmp_path, capsys):
    assert control("--env", "CartPole-v9", "--out", tmp_path / "run") == 2
    assert "CartPole-v1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_gymnasium_the_command_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert control("--env", "Taxi-v3", "--out", tmp_path / "run") == 2
    assert "pip install 'logratio[control]'" in capsys.readouterr().err


def test_an_environment_that_raises_leaves_what_was_trained(tmp_path, capsys):
    gymnasium.register("Faulty-v0", entry_point=lambda: Faulty("raises", at=130))
    try:
        flags = ["--env", "Faulty-v0", "--out", tmp_path / "run", *FEW, "--num-envs", "2"]
        assert control(*flags) == 2
        said = capsys.readouterr().err
        assert "ZeroDivisionError: no ground" in said
        assert "environment 0" in said
        assert "--resume" in said
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    finally:
        gymnasium.registry.pop("Faulty-v0")


def test_a_film_without_its_package_is_refused_after_the_policy_is_saved(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "moviepy.video.io.ImageSequenceClip", None)
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", "--video", *FEW) == 2
    assert "pip install 'logratio[video]'" in capsys.readouterr().err
    assert (tmp_path / "run" / "model").is_dir()
    assert (tmp_path / "run" / "report.json").is_file()


@pytest.mark.parametrize(("flag", "value"), [("--num-envs", 0), ("--discount", 2), ("--seeds", 0)])
def test_settings_that_cannot_be_meant_are_refused(tmp_path, capsys, flag, value):
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", flag, value) == 2
    assert flag in capsys.readouterr().err


def test_the_help_shows_the_preset(capsys):
    assert control("--env", "CartPole-v1", "--help") == 0
    said = capsys.readouterr().out
    assert "Gymnasium" in said
    assert "0.98" in said
