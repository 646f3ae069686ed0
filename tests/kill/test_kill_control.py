"""`kill -9` at 20 random moments of a small CartPole run, resumed each time: the weights are the same."""

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from kill.control_run import train
from kill.moments import Moments, has_checkpoint, wait_for_checkpoint
from logratio.runs import hash_file, read_json_lines

NUM_KILLS = 20
WEIGHTS = Path("model", "policy.safetensors")
DESCRIPTION = Path("model", "policy.json")
IMPORTS = ["logratio.cli.control_ppo", "gymnasium.envs.classic_control", "torch"]
NOT_REPEATED = ("seconds", "rollouts_per_second", "tokens_per_second")


def begin(forks, out):
    process = forks.Process(target=train, args=(out,))
    process.start()
    return process


def finish(process):
    """Wait for the end and insist that it is a good one."""
    process.join(timeout=300)
    assert process.exitcode == 0, process.exitcode


def timeless(run):
    """The metrics without what a clock measured."""
    rows = read_json_lines(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in NOT_REPEATED} for row in rows]


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path):
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(IMPORTS)
    finish(begin(forks, tmp_path / "warm-up"))
    process = begin(forks, tmp_path / "whole")
    before = wait_for_checkpoint(tmp_path / "whole", process.is_alive)
    began = time.monotonic()
    finish(process)
    moments = Moments(before, after=time.monotonic() - began)
    expected, metrics = hash_file(tmp_path / "whole" / WEIGHTS), timeless(tmp_path / "whole")
    description = (tmp_path / "whole" / DESCRIPTION).read_text()
    assert len(metrics) == 19
    assert len({row["penalty"] for row in metrics}) > 1

    kills, runs, resumed = 0, 0, 0
    while kills < NUM_KILLS:
        run = tmp_path / f"killed-{runs}"
        while kills < NUM_KILLS:
            process = begin(forks, run)
            moments.wait(run, process.is_alive)
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            resumed += has_checkpoint(run)
        finish(begin(forks, run))
        assert hash_file(run / WEIGHTS) == expected
        assert (run / DESCRIPTION).read_text() == description
        assert timeless(run) == metrics
        runs += 1
    assert resumed > NUM_KILLS // 2, "most kills came before the first checkpoint: nothing was resumed"
