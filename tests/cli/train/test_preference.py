"""The training commands, end to end on a tiny model: files in, a run directory out."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from logratio.cli.main import main
from logratio.models.loading import save
from logratio.run_directory import RunDirectory, read_json_lines
from tiny_models import tiny_llama, tiny_tokenizer

SMALL = ["--batch-size", "4", "--learning-rate", "1e-3", "--threads", "1"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    path = tmp_path_factory.mktemp("start") / "model"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return str(path)


@pytest.fixture
def data(tmp_path):
    rows = [
        {
            "prompt": f"say {n}",
            "chosen": f"a good {n}",
            "rejected": f"I hate {n} and more",
            "judge": "mine:own",
        }
        for n in range(24)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(kind, *flags):
    return main(["train", kind, *map(str, flags), *SMALL])


def test_sft_then_dpo_from_its_run_directory(tmp_path, start, data, capsys):
    assert train("sft", "--data", data, "--model", start, "--out", tmp_path / "sft", "--tensorboard") == 0
    assert train("dpo", "--data", data, "--model", tmp_path / "sft", "--out", tmp_path / "dpo") == 0
    shown = capsys.readouterr().out
    assert f"--model {tmp_path / 'sft'}" in shown
    assert f"logratio report {tmp_path / 'dpo'}" in shown
    assert list((tmp_path / "sft" / "tensorboard").glob("events*"))

    run = RunDirectory(tmp_path / "dpo")
    assert run.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert run.config["training_reward"] == "mine:own"
    counts = json.loads((run.path / "data.json").read_text())
    assert counts["num_rows"] == 24 == counts["train"] + counts["held_out"]
    held_out = read_json_lines(run.path / "held_out.jsonl")
    assert len(held_out) == counts["held_out"] > 0
    assert len(json.loads((run.path / "training_prompts.json").read_text())) == counts["train"]
    AutoModelForCausalLM.from_pretrained(run.model_path)


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward"])
def test_one_pass_is_one_epoch(tmp_path, start, data, kind):
    flags = ["--data", data, "--model", start, "--held-out", "0", "--limit", "7", "--epochs", "2"]
    assert train(kind, *flags, "--out", tmp_path / "run") == 0
    epochs = [row["epoch"] for row in RunDirectory(tmp_path / "run").metrics]
    assert epochs == pytest.approx([4 / 7, 1.0, 11 / 7, 2.0])


def test_a_finished_run_is_not_overwritten_and_can_be_resumed_to_nothing_more(tmp_path, start, data, capsys):
    flags = ["--data", data, "--model", start, "--out", tmp_path / "run"]
    assert train("dpo", *flags) == 0
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert train("dpo", *flags) == 2
    assert "RunExists" in capsys.readouterr().err
    assert train("dpo", *flags, "--resume") == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert train("dpo", *flags, "--resume", "--beta", "0.3") == 2
    assert "beta was 0.1, is 0.3" in capsys.readouterr().err


@pytest.mark.parametrize(("begun", "resumed"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_another_precision_is_not_resumed(tmp_path, start, data, capsys, begun, resumed):
    flags = ["--data", data, "--model", start, "--out", tmp_path / "run", "--precision"]
    assert train("sft", *flags, begun) == 0
    assert train("sft", *flags, resumed, "--resume") == 2
    assert "precision was" in capsys.readouterr().err


def test_another_model_is_not_resumed(tmp_path, start, data, capsys):
    other = tmp_path / "other"
    save(tiny_llama(len(tiny_tokenizer()), seed=5, spread=0.1), tiny_tokenizer(), other)
    assert train("sft", "--data", data, "--model", start, "--out", tmp_path / "run") == 0
    assert train("sft", "--data", data, "--model", other, "--out", tmp_path / "run", "--resume") == 2
    assert "model_fingerprint" in capsys.readouterr().err


def test_bad_data_is_refused_with_nothing_written(tmp_path, start, capsys):
    data = tmp_path / "bad.jsonl"
    data.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n{"prompt": "a", "chosen": ""}\n')
    assert train("dpo", "--data", data, "--model", start, "--out", tmp_path / "run") == 2
    errors = capsys.readouterr().err
    assert "IdenticalPair" in errors
    assert "logratio check" in errors
    assert not (tmp_path / "run").exists()


def test_settings_are_checked_before_anything_is_read(tmp_path, capsys):
    assert train("dpo", "--data", "nowhere.jsonl", "--out", tmp_path / "run", "--beta", "-1") == 2
    assert "--beta" in capsys.readouterr().err


def test_debug_adds_the_traceback(tmp_path, capsys):
    assert train("dpo", "--data", "nowhere.jsonl", "--out", tmp_path / "run") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert train("dpo", "--data", "nowhere.jsonl", "--out", tmp_path / "run", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    ],
)
def test_memory_that_is_not_there_is_named_wherever_it_is_asked_for(
    tmp_path, start, data, capsys, monkeypatch, error
):
    def fail(*arguments, **settings):
        raise error

    monkeypatch.setattr("logratio.algorithms.sft.select_layout", fail)
    assert train("sft", "--data", data, "--model", start, "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "OutOfMemory: no memory left" in said
    assert "bug in logratio" not in said
