"""Training an adapter by the commands: small checkpoints, a plain model, the right reference, resuming."""

import importlib.util
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from logratio.cli.main import main
from logratio.models.loading import load, save, weights_fingerprint
from logratio.models.lora_files import CONFIG
from logratio.models.reward_model import load_reward_model
from logratio.run_directory import RunDirectory
from logratio.training.checkpointing import list_checkpoints
from tiny_models import tiny_llama, tiny_tokenizer

IDS = torch.arange(2, 40)[None]
SMALL = ["--batch-size", "4", "--learning-rate", "1e-2", "--threads", "1", "--checkpoint-every", "2"]
LORA = ["--lora-rank", "4", "--lora-alpha", "16"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    path = tmp_path_factory.mktemp("start") / "model"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = [
        {"prompt": f"say {n}", "chosen": f"a good {n}", "rejected": f"I hate {n} and more"} for n in range(24)
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(kind, *flags):
    return main(["train", kind, *map(str, flags), *SMALL])


@pytest.fixture(scope="module")
def sft(tmp_path_factory, start, data):
    path = tmp_path_factory.mktemp("sft") / "run"
    assert train("sft", "--data", data, "--model", start, "--out", path, *LORA) == 0
    return path


def losses(path):
    return [row["loss"] for row in RunDirectory(path).metrics]


@torch.no_grad()
def logits(source):
    return load(str(source)).model(input_ids=IDS).logits


def test_sft_trains_an_adapter_and_saves_a_plain_model_beside_it(sft, start):
    assert losses(sft)[-1] < 0.9 * losses(sft)[0]
    torch.testing.assert_close(logits(sft / "adapter"), logits(sft), rtol=0, atol=1e-4)
    assert float((logits(sft) - logits(start)).abs().max()) > 0.01
    settings = json.loads((sft / "adapter" / CONFIG).read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 16)
    assert settings["base_model_name_or_path"] == str(start.resolve())
    identity = RunDirectory(sft).config["identity"]
    assert (identity["lora_rank"], identity["lora_alpha"]) == (4, 16)
    assert identity["model_fingerprint"] == load(str(start)).fingerprint


def test_a_checkpoint_holds_the_adapter_alone(sft):
    (before, newest) = list_checkpoints(sft / "checkpoints")
    whole = (sft / "model" / "model.safetensors").stat().st_size
    assert (newest / "weights.safetensors").stat().st_size < whole / 4
    assert (before / "optimizer.safetensors").stat().st_size < whole / 2
    assert not (newest / "optimizer.safetensors").exists()


@pytest.mark.parametrize("source", ["model", "adapter"])
def test_dpo_starts_from_the_sft_model_and_holds_it_as_its_reference(tmp_path, sft, data, source, capsys):
    out = tmp_path / "dpo"
    assert train("dpo", "--data", data, "--model", sft / source, "--out", out, *LORA) == 0
    shown = capsys.readouterr()
    assert "are trained" in shown.err
    assert f"adapter: {out / 'adapter'}" in shown.out
    assert losses(out)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(out)[-1] < 0.5
    held = {invariant["name"] for invariant in json.loads((out / "invariants.json").read_text())}
    assert {"step_zero_loss", "reference_unchanged", "merged_equals_adapter"} <= held
    identity = RunDirectory(out).config["identity"]
    assert identity["model_fingerprint"] == load(str(sft / source)).fingerprint
    torch.testing.assert_close(logits(out / "adapter"), logits(out), rtol=0, atol=1e-4)


def test_whole_weights_are_trained_from_an_adapter(tmp_path, sft, data):
    """A model that was opened from an adapter is plain: nothing of it is frozen."""
    out = tmp_path / "dpo"
    assert train("dpo", "--data", data, "--model", sft / "adapter", "--out", out) == 0
    before, after = load(str(sft / "adapter")).model, load(str(out)).model
    for name, weight in before.named_parameters():
        assert not torch.equal(weight, after.get_parameter(name)), name
    assert not (out / "adapter").exists()


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_run_that_lost_its_end_goes_on_bit_for_bit(tmp_path, start, data, kind):
    flags = ["--data", data, "--model", start, *LORA]
    assert train(kind, *flags, "--out", tmp_path / "whole") == 0
    assert train(kind, *flags, "--out", tmp_path / "cut") == 0
    newest = list_checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    for lost in (newest, tmp_path / "cut" / "model", tmp_path / "cut" / "adapter"):
        shutil.rmtree(lost)
    torch.manual_seed(99)
    assert train(kind, *flags, "--out", tmp_path / "cut", "--resume") == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    one, other = (load(str(tmp_path / name)).model for name in ("whole", "cut"))
    assert weights_fingerprint(one) == weights_fingerprint(other)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--lora-rank", "8", "--lora-alpha", "16"], "lora_rank was 4, is 8"),
        (["--lora-rank", "4"], "lora_alpha was 16, is 32"),
        ([], "lora_rank was 4, is 0"),
    ],
)
def test_another_adapter_is_not_resumed(sft, start, data, capsys, changed, said):
    assert train("sft", "--data", data, "--model", start, "--out", sft, *changed, "--resume") == 2
    assert said in capsys.readouterr().err


def test_a_reward_model_s_head_is_trained_beside_its_adapter(tmp_path, start, data):
    out = tmp_path / "reward"
    assert train("reward", "--data", data, "--model", start, "--out", out, *LORA) == 0
    assert losses(out)[-1] < losses(out)[0]
    before = load(str(start)).model.model.layers[0].mlp.up_proj.weight
    model = load_reward_model(str(out)).model
    assert not torch.equal(before, model.model.layers[0].mlp.up_proj.weight)
    assert torch.equal(
        model.get_input_embeddings().weight, load(str(start)).model.get_input_embeddings().weight
    )
    newest = list_checkpoints(out / "checkpoints")[-1]
    names = load_file(newest / "weights.safetensors")
    assert {name for name in names if ".lora_" not in name} == {"score.weight"}
    assert torch.equal(names["score.weight"], model.score.weight)


@pytest.mark.parametrize("flags", [["--lora-rank", "-1"], ["--lora-rank", "4", "--lora-alpha", "0"]])
def test_rank_and_scale_are_checked_before_anything_is_read(tmp_path, capsys, flags):
    assert main(["train", "dpo", "--data", "nowhere.jsonl", "--out", str(tmp_path / "run"), *flags]) == 2
    assert f"change {flags[-2]}" in capsys.readouterr().err


def test_without_peft_the_flag_says_what_to_install(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    out = str(tmp_path / "run")
    assert main(["train", "dpo", "--data", "nowhere.jsonl", "--out", out, "--lora-rank", "4"]) == 2
    shown = capsys.readouterr().err
    assert "MissingExtra" in shown
    assert "pip install 'logratio[peft]'" in shown
