"""`kill -9` at 20 random moments of a small PPO run, resumed each time: the same weights as without."""

import json
from pathlib import Path

import pytest

from kill.kill_moments import forks_of, kill_and_compare, started, timeless
from kill.ppo_run import train
from logratio.models.loading import save
from logratio.run_directory import hash_file
from tiny_models import tiny_llama, tiny_tokenizer

NUM_UPDATES = 10
WEIGHTS = Path("model", "model.safetensors")
REWARDS = """
def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]

def short(completions, **columns):
    return [-len(text) / 50 for text in completions]
"""
IMPORTS = ("logratio.cli.train.ppo", "logratio.models.loading", "transformers.models.llama.modeling_llama")


@pytest.fixture
def inputs(tmp_path):
    path = tmp_path / "inputs"
    tokenizer = tiny_tokenizer(chat=False)
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path / "start")
    (path / "kill_rewards.py").write_text(REWARDS)
    words = ["cat", "dog", "ball", "mat", "day"]
    rows = [{"prompt": f"tell me of {word} number {number}"} for number in range(4) for word in words]
    (path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def state_of(run):
    return hash_file(run / WEIGHTS), timeless(run, "seconds", "prompts_per_second", "tokens_per_second")


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path, inputs):
    forks = forks_of(*IMPORTS)

    def begin(out):
        return started(forks.Process(target=train, args=(inputs, out)))

    _, metrics = kill_and_compare(tmp_path, begin, state_of)
    assert len(metrics) == NUM_UPDATES
    # What a checkpoint must hold beside weights and optimiser has moved.
    assert len({row["kl_coefficient"] for row in metrics}) > NUM_UPDATES // 2
    assert len({row["kl_penalty"] for row in metrics}) > 1
