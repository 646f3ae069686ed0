"""`kill -9` at 20 random moments of a small PPO run, resumed each time: the weights of the run never killed.

Each run is its own process, forked from one that has done the imports, so that the time goes into training.
"""

import json
import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from kill.moments import Moments, has_checkpoint, wait_for_checkpoint
from kill.ppo_run import train
from logratio.models.pretrained import save
from logratio.runs import hash_file, read_json_lines
from tiny import tiny_llama, tiny_tokenizer

NUM_KILLS = 20
NUM_UPDATES = 16
WEIGHTS = Path("model", "model.safetensors")
REWARDS = """
def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]

def short(completions, **columns):
    return [-len(text) / 50 for text in completions]
"""
IMPORTS = ["logratio.cli.train_ppo", "logratio.models.pretrained", "transformers.models.llama.modeling_llama"]
NOT_REPEATED = ("seconds", "prompts_per_second", "tokens_per_second")


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Starts the run in a directory, as a process of its own."""
    inputs = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny_tokenizer(chat=False)
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, inputs / "start")
    (inputs / "kill_rewards.py").write_text(REWARDS)
    words = ["cat", "dog", "ball", "mat", "day", "park", "sun", "rain"]
    rows = [{"prompt": f"tell me of {word} number {number}"} for number in range(4) for word in words]
    (inputs / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(IMPORTS)

    def start(out):
        process = forks.Process(target=train, args=(inputs, out))
        process.start()
        return process

    return start


def finish(process):
    """Wait for the end and insist that it is a good one."""
    process.join(timeout=300)
    assert process.exitcode == 0, process.exitcode


def timeless(run):
    """The metrics without what a clock measured."""
    rows = read_json_lines(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in NOT_REPEATED} for row in rows]


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path, begin):
    finish(begin(tmp_path / "warm-up"))
    process = begin(tmp_path / "whole")
    before = wait_for_checkpoint(tmp_path / "whole", process.is_alive)
    began = time.monotonic()
    finish(process)
    moments = Moments(before, after=time.monotonic() - began)
    expected, metrics = hash_file(tmp_path / "whole" / WEIGHTS), timeless(tmp_path / "whole")
    assert len(metrics) == NUM_UPDATES
    assert len({row["kl_coefficient"] for row in metrics}) > NUM_UPDATES // 2
    assert len({row["penalty"] for row in metrics}) > 1

    kills, runs, resumed = 0, 0, 0
    while kills < NUM_KILLS:
        run = tmp_path / f"killed-{runs}"
        while kills < NUM_KILLS:
            process = begin(run)
            moments.wait(run, process.is_alive)
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            resumed += has_checkpoint(run)
        finish(begin(run))
        assert hash_file(run / WEIGHTS) == expected
        assert timeless(run) == metrics
        assert not list(run.rglob(".*.tmp"))
        runs += 1
    assert resumed > NUM_KILLS // 2, "most kills came before the first checkpoint: nothing was resumed"
