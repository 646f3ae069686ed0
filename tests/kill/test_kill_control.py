"""`kill -9` at 20 random moments of a small CartPole run, resumed each time: the weights are the same."""

from pathlib import Path

import pytest

from kill.control_run import train
from kill.kill_moments import forks_of, kill_and_compare, started, timeless
from logratio.run_directory import hash_file

WEIGHTS, DESCRIPTION = Path("model", "policy.safetensors"), Path("model", "policy.json")


def state_of(run):
    metrics = timeless(run, "seconds", "rollouts_per_second", "tokens_per_second")
    return hash_file(run / WEIGHTS), (run / DESCRIPTION).read_text(), metrics


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path):
    forks = forks_of("logratio.cli.control.ppo", "gymnasium.envs.classic_control", "torch")
    *_, metrics = kill_and_compare(
        tmp_path, lambda out: started(forks.Process(target=train, args=(out,))), state_of
    )
    assert len(metrics) == 13
    assert len({row["kl_penalty"] for row in metrics}) > 1
