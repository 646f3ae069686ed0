"""`logratio control` where bounds lie far from zero, or what is drawn and seen lies outside of its space."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from logratio.cli.main import main
from logratio.control.env.action_scaling import ActionScaling
from logratio.control.env.normalisation import ObservationNormaliser
from logratio.control.policy_files import load_policy
from logratio.control.video import play
from logratio.recipes import control_seeds as seeds
from logratio.run_directory import read_json_lines

QUICK = ["--num-envs", "4", "--num-steps", "64", "--evaluation-episodes", "2", "--learning-rate", "3e-3"]


class Target(gymnasium.Env):
    """Pays for being near a value that lies at the same place between the bounds."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, low, high, *, shown=0.0, render_mode=None):
        self.low, self.high, self.shown = low, high, np.full(1, shown, np.float32)
        self.action_space = spaces.Box(low, high, (1,), np.float32)
        self.render_mode, self.given = render_mode, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.given.append(float(action[0]))
        self.steps += 1
        share = (float(action[0]) - self.low) / (self.high - self.low)
        return self.shown, -2 * abs(share - 0.7), self.steps >= 10, False, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


class LateMask(gymnasium.Env):
    """Says what is allowed after the first step alone."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.steps == 0 or action == 2
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps >= 5, False, {"action_mask": np.array([0, 0, 1])}


@pytest.fixture
def registered():
    """Registers an environment for a test, under the name Made-v0."""

    def register(build):
        gymnasium.registry.pop("Made-v0", None)
        gymnasium.register("Made-v0", entry_point=lambda **settings: build(**settings))

    yield register
    gymnasium.registry.pop("Made-v0", None)


def train(out, *words):
    words = [*QUICK, "--env", "Made-v0", "--out", out, *words]
    return main(["control", "ppo", *map(str, words)])


def read(path):
    return json.loads(path.read_text())


def test_bounds_far_from_zero_are_learned_within_as_near_ones_are(tmp_path, registered):
    """The draws are the same, and so is what they earn: once every one of them was cut to 5."""
    for name, low, high in (("near", -1.0, 1.0), ("far", 5.0, 35.0), ("small", -1e-3, 1e-3)):
        registered(lambda low=low, high=high, **own: Target(low, high, **own))
        assert train(tmp_path / name, "--steps", "3000", "--update-epochs", "5") == 0
    reports = {name: read(tmp_path / name / "report.json") for name in ("near", "far", "small")}
    for name in ("far", "small"):
        assert reports[name]["evaluation"]["mean_return"] > -3
        ours, near = (read_json_lines(tmp_path / one / "metrics.jsonl") for one in (name, "near"))
        for metric in ("episode_return", "action_clip_fraction"):
            assert [row[metric] for row in ours[:5]] == pytest.approx(
                [row[metric] for row in near[:5]], abs=1e-3
            )
    assert [one["name"] for one in reports["far"]["warnings"]].count("ActionsClipped") == 0
    descriptions = {name: read(tmp_path / name / "model" / "policy.json") for name in ("near", "far")}
    assert descriptions["far"]["action_scaling"] == {"centre": [20.0], "scale": [15.0]}
    assert "action_scaling" not in descriptions["near"]
    assert "action_scaling" not in read(tmp_path / "near" / "config.json")["identity"]


def test_a_run_does_not_go_on_in_other_units(tmp_path, registered, capsys):
    registered(lambda **own: Target(5.0, 35.0, **own))
    assert train(tmp_path / "run", "--steps", "500", "--update-epochs", "1") == 0
    config = read(tmp_path / "run" / "config.json")
    # As of a version that did not scale.
    del config["identity"]["action_scaling"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert train(tmp_path / "run", "--steps", "500", "--update-epochs", "1", "--resume") == 2
    said = capsys.readouterr().err
    assert "ResumeMismatch" in said
    assert "action_scaling" in said


def test_a_saved_policy_acts_in_the_units_that_its_file_names(tmp_path, registered, monkeypatch):
    registered(lambda **own: Target(5.0, 35.0, **own))
    assert train(tmp_path / "run", "--steps", "500", "--update-epochs", "1") == 0
    policy, description = load_policy(tmp_path / "run" / "model")
    scale, given = ObservationNormaliser(1, wanted=False), {}
    for scaling in (ActionScaling.from_json(description["action_scaling"]), None):
        environment = Target(5.0, 35.0, render_mode="rgb_array")
        with torch.no_grad():
            list(play(environment, policy, scale, seed=0, scaling=scaling))
        given[scaling] = environment.given
    drawn = policy.head.greedy(policy.body.first(torch.zeros(1, 1))).item()
    for scaling, actions in given.items():
        wanted = 5.0 if scaling is None else 20.0 + 15.0 * drawn
        assert actions == pytest.approx([wanted] * 10, abs=1e-4)
    # Of several runs the best one's film is made from its file.
    seen = []
    monkeypatch.setattr(seeds, "film", lambda *_, scaling, **__: seen.append(scaling))
    reports = {tmp_path / "run": read(tmp_path / "run" / "report.json")}
    flags = type("Flags", (), {"env": "Made-v0", "out": tmp_path})
    seeds.record_best_video(flags, reports)
    file = tmp_path / "run" / "model" / "policy.json"
    file.write_text(json.dumps({name: one for name, one in read(file).items() if name != "action_scaling"}))
    seeds.record_best_video(flags, reports)
    assert seen == [ActionScaling(centre=(20.0,), scale=(15.0,)), None]


def test_draws_that_the_bounds_cut_are_said(tmp_path, registered, capsys):
    registered(lambda **own: Target(5.0, 35.0, **own))
    assert train(tmp_path / "run", "--steps", "500", "--update-epochs", "1", "--initial-log-std", "2") == 0
    said = capsys.readouterr().out
    assert "warning: In PPO 88\xa0% of the numbers drawn for an action" in said
    assert "lower --initial-log-std" in said
    names = [one["name"] for one in read(tmp_path / "run" / "report.json")["warnings"]]
    assert "ActionsClipped" in names
    assert read_json_lines(tmp_path / "run" / "metrics.jsonl")[0]["action_clip_fraction"] > 0.8


def test_observations_outside_of_their_space_are_said_of_several_runs_too(tmp_path, registered, capsys):
    registered(lambda **own: Target(-1.0, 1.0, shown=1.5, **own))
    assert train(tmp_path / "run", "--steps", "500", "--update-epochs", "1", "--seeds", "2") == 0
    said = capsys.readouterr().out
    assert "note:    In PPO up to 100.0\xa0% of a rollout's observations lay outside of the space" in said
    assert "2 of 2 runs" in said


def test_masks_that_come_late_are_trained_with_and_said(tmp_path, registered, capsys):
    registered(lambda **own: LateMask())
    assert train(tmp_path / "run", "--steps", "500", "--update-epochs", "1") == 0
    said = capsys.readouterr().out
    assert "episodes began without info['action_mask'], which came later" in said
    assert "Let the environment's reset give info['action_mask'] too." in said
