"""What a run directory tells of its model's training."""

from __future__ import annotations

import json

import pytest

from logratio.errors import FileNotReadable
from logratio.evaluation.lineage import training_record


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_keys_are_found_in_either_place_and_from_the_model_inside(tmp_path):
    write(tmp_path / "run/config.json", {"training_prompt_keys": ["a"]})
    write(tmp_path / "run/training_prompts.json", ["b"])
    write(tmp_path / "run/model/config.json", {"model_type": "llama"})
    for source in (tmp_path / "run", tmp_path / "run/model"):
        assert training_record(str(source)).prompt_keys == {"a", "b"}


def test_the_file_may_be_an_object(tmp_path):
    write(tmp_path / "run/training_prompts.json", {"training_prompt_keys": ["c"]})
    assert training_record(tmp_path / "run").prompt_keys == {"c"}


def test_it_goes_back_to_the_model_that_training_started_from(tmp_path):
    write(tmp_path / "sft/training_prompts.json", ["seen by sft"])
    write(tmp_path / "dpo/training_prompts.json", ["seen by dpo"])
    write(tmp_path / "dpo/config.json", {"model": str(tmp_path / "sft")})
    write(tmp_path / "sft/config.json", {"model": str(tmp_path / "dpo")})
    assert training_record(tmp_path / "dpo").prompt_keys == {"seen by sft", "seen by dpo"}


@pytest.mark.parametrize(
    "config", [{"reward": "m:f"}, {"settings": {"reward": "m:f"}}, {"identity": {"training_reward": "m:f"}}]
)
def test_the_reward_of_the_run_around_it_is_found(tmp_path, config):
    write(tmp_path / "quickstart/config.json", config)
    (tmp_path / "quickstart/dpo/model").mkdir(parents=True)
    assert training_record(tmp_path / "quickstart/dpo/model").rewards == {"m:f"}


def test_a_model_that_no_run_made_has_no_record(tmp_path):
    record = training_record("owner/name-that-is-not-here", tmp_path / "nothing")
    assert (record.prompt_keys, record.rewards) == (frozenset(), frozenset())


def test_a_broken_record_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "training_prompts.json").write_text('["a", ')
    with pytest.raises(FileNotReadable, match="not JSON"):
        training_record(tmp_path)
