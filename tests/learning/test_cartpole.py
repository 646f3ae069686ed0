"""CartPole is solved: 100,000 steps, five seeds that were chosen before the first run, all of them."""

import json

import pytest

from logratio.cli.main import main

SEEDS = (0, 1, 2, 3, 4)
SOLVED = 495.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_cartpole_is_solved_in_a_hundred_thousand_steps(tmp_path, seed):
    """By the preset, with the most probable actions, over a hundred episodes that training never had."""
    out = tmp_path / "run"
    assert main(["control", "ppo", "--env", "CartPole-v1", "--seed", str(seed), "--out", str(out)]) == 0
    found = json.loads((out / "report.json").read_text())
    assert found["summary"]["updates"] * 8 * 32 <= 100_096
    assert found["evaluation"]["episodes"] == 100
    assert found["evaluation"]["mean_return"] >= SOLVED
