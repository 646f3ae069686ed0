"""Runs and labels that logratio 0.1 wrote before names changed are read, reported and gone on with.

`old_runs/` holds them as they were written: a recurrent policy in CartPole with the checkpoint in the middle
of its run, the text files of a PPO and a DPO run of a tiny model, and a label store.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from logratio.annotate.storage.store import Store
from logratio.cli.main import main
from logratio.control.policy_files import load_policy
from logratio.report.collect import read_training
from logratio.run_directory import RunDirectory

OLD = Path(__file__).parent / "old_runs"
CONTROL = "control ppo --env CartPole-v1 --no-preset --steps 256 --num-envs 2 --num-steps 32 --hidden-sizes 8"
SIZES = "--recurrent-width 4 --evaluation-episodes 2 --checkpoint-every 2"


@pytest.fixture
def run(tmp_path):
    """A function that copies an old run and returns where it lies."""
    return lambda name: Path(shutil.copytree(OLD / name, tmp_path / name))


def test_settings_have_the_names_of_today():
    ppo, control = RunDirectory(OLD / "ppo").config, RunDirectory(OLD / "control").config
    for part in ("settings", "identity"):
        assert ppo[part]["kl_penalty"] == 0.1
        assert ppo[part]["truncation_penalty"] == 0.5
        assert ppo[part]["truncated_reward"] == "own"
        assert ppo[part]["early_stop_factor"] == 1.5
        assert ppo[part]["reward_baseline"] == "group"
        assert control[part]["hidden_sizes"] == [8]
        assert control[part]["recurrent_width"] == 4
        assert (control[part]["std"], control[part]["initial_log_std"]) == ("parameter", 0.0)
        gone = {"penalty", "stop_at", "cut_off_reward", "missing_end_penalty", "kl_estimator"}
        assert not gone & ppo[part].keys()
        assert not {"widths", "memory", "deviation", "initial_log_deviation"} & control[part].keys()
    assert ppo["identity"]["monitor"] == ["rewards_old:vowels"]
    assert ppo["machine"] == json.loads((OLD / "ppo" / "config.json").read_text())["machine"]


def test_metrics_have_the_names_of_today():
    rows = RunDirectory(OLD / "ppo").metrics
    written = [json.loads(line) for line in (OLD / "ppo" / "metrics.jsonl").read_text().splitlines()]
    assert [row["kl_penalty"] for row in rows] == [row["penalty"] for row in written]
    monitored, watched = "monitored/rewards_old:vowels", "watched/rewards_old:vowels"
    assert [row[monitored] for row in rows] == [row[watched] for row in written]
    assert [len(row) for row in rows] == [len(row) for row in written]


@pytest.mark.parametrize("name", ["ppo", "dpo", "control"])
def test_a_report_has_the_invariants_and_curves_of_an_old_run(name):
    training = read_training(OLD / name)
    written = json.loads((OLD / name / "laws.json").read_text())
    assert [entry["value"] for entry in training["invariants"]] == [entry["value"] for entry in written]
    assert "packed_equals_apart" not in {entry["name"] for entry in training["invariants"]}
    assert training["updates"] == len((OLD / name / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("name", ["ppo", "dpo", "control"])
def test_report_opens_an_old_run(name, run, capsys):
    path = run(name)
    assert main(["report", str(path)]) == 0, capsys.readouterr().err
    assert "<html" in (path / "report.html").read_text()


def test_an_old_control_policy_is_the_same_function():
    policy, description = load_policy(OLD / "control" / "model")
    written = load_file(OLD / "control" / "model" / "policy.safetensors")
    now = policy.state_dict()
    assert description["environment"] == "CartPole-v1"
    for name, value in written.items():
        assert torch.equal(now[name.replace("memory.cell.", "recurrent.cell.")], value)
    assert len(now) == len(written)


def test_an_old_control_run_goes_on_to_the_weights_that_it_had(run, capsys):
    path = run("control")
    expected = load_policy(path / "model")[0].state_dict()
    shutil.rmtree(path / "model")
    (path / "summary.json").unlink()
    assert main([*CONTROL.split(), *SIZES.split(), "--out", str(path), "--resume"]) == 0, (
        capsys.readouterr().err
    )
    now = load_policy(path / "model")[0].state_dict()
    for name, value in expected.items():
        # Equal to the bit on the processor that it ran on; sums round otherwise on another.
        assert torch.allclose(now[name], value, rtol=1e-3, atol=2e-5), name
    steps = [row["step"] for row in RunDirectory(path).metrics]
    assert steps == [1, 2, 3, 4]


def test_another_setting_of_an_old_run_is_refused_by_its_name_of_today(run, capsys):
    path = run("control")
    changed = CONTROL.replace("--hidden-sizes 8", "--hidden-sizes 16")
    assert main([*changed.split(), *SIZES.split(), "--out", str(path), "--resume"]) == 2
    assert "hidden_sizes was [8], is [16]" in capsys.readouterr().err


def test_an_old_label_store_opens_with_its_votes(tmp_path):
    path = tmp_path / "labels.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((OLD / "labels.sql").read_text())
    connection.close()
    store = Store.create_or_open(path)
    assert [(vote.annotator, vote.verdict) for vote in store.votes()] == [("anna", "a")] * 3
    store.close()
