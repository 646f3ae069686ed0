"""`kill -9` at 20 random moments of SFT→DPO, resumed each time: the weights of the run never killed."""

import json
import random
from pathlib import Path

import pytest

from kill.kill_moments import forks_of, kill_and_compare, started
from kill.pipeline_run import train
from logratio.models.loading import save
from logratio.run_directory import hash_file
from tiny_models import tiny_llama, tiny_tokenizer

WEIGHTS = Path("dpo", "model", "model.safetensors")


@pytest.fixture
def inputs(tmp_path):
    path = tmp_path / "inputs"
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path / "start")
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
    (path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path, inputs):
    forks = forks_of("logratio.cli.train.sft", "logratio.cli.train.dpo", "logratio.models.loading")

    def begin(out):
        return started(forks.Process(target=train, args=(inputs, out)))

    kill_and_compare(tmp_path, begin, lambda run: hash_file(run / WEIGHTS))
