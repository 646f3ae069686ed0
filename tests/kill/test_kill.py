"""`kill -9` at 20 random moments of SFT→DPO, resumed each time: the weights of the run never killed."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kill.moments import Moments, has_checkpoint, wait_for_checkpoint
from logratio.models.pretrained import save
from logratio.runs import hash_file
from tiny import tiny_llama, tiny_tokenizer

NUM_KILLS = 20
PIPELINE = Path(__file__).with_name("pipeline.py")
WEIGHTS = Path("dpo", "model", "model.safetensors")


def begin(directory, start, data):
    """Start the pipeline and wait until it is past its imports."""
    process = subprocess.Popen(
        [sys.executable, str(PIPELINE), str(directory), str(start), str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    return process


def finish(process):
    """Wait for the end and insist that it is a good one."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors


@pytest.fixture
def start(tmp_path):
    tokenizer = tiny_tokenizer()
    path = tmp_path / "start"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return path


@pytest.fixture
def data(tmp_path):
    words = ["cat", "dog", "ball", "mat", "day", "park", "sun", "rain"]
    generator = random.Random(0)
    rows = [
        {
            "prompt": f"tell me of the {generator.choice(words)} number {number}",
            "chosen": f"a good {generator.choice(words)} and a {generator.choice(words)}",
            "rejected": f"I hate the {generator.choice(words)}.",
        }
        for number in range(32)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path, start, data):
    process = begin(tmp_path / "whole", start, data)
    before = wait_for_checkpoint(tmp_path / "whole", lambda: process.poll() is None)
    began = time.monotonic()
    finish(process)
    moments = Moments(before, after=time.monotonic() - began)
    expected = hash_file(tmp_path / "whole" / WEIGHTS)

    kills, runs, resumed = 0, 0, 0
    while kills < NUM_KILLS:
        directory = tmp_path / f"killed-{runs}"
        while kills < NUM_KILLS:
            process = begin(directory, start, data)
            moments.wait(directory, lambda process=process: process.poll() is None)
            ended = process.poll() is not None
            process.kill()
            process.communicate()
            if ended:
                break
            kills += 1
            resumed += has_checkpoint(directory)
        finish(begin(directory, start, data))
        assert hash_file(directory / WEIGHTS) == expected
        assert not list(directory.rglob(".*.tmp"))
        runs += 1
    assert resumed > NUM_KILLS // 2, "most kills came before the first checkpoint: nothing was resumed"
