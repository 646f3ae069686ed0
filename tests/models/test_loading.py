"""Loading and saving: the same logits bit for bit, and refusals that say what to do."""

import json
import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from logratio import errors
from logratio.models.loading import load, load_tokenizer, save, weights_fingerprint
from logratio.models.sources import local_directory
from tiny_models import tiny_llama, tiny_tokenizer

IDS = torch.arange(2, 40)[None]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.fixture
def saved(tmp_path, model, tokenizer):
    save(model, tokenizer, tmp_path / "saved")
    return tmp_path / "saved"


def edit_json(path, **changes):
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: entry for name, entry in value.items() if entry is not None}))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_the_same_after_saving(tmp_path, tokenizer, tied):
    model = tiny_llama(len(tokenizer), tied=tied)
    save(model, tokenizer, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved"))
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.equal(logits(loaded.model), logits(model))
    assert torch.equal(logits(reopened), logits(model))
    assert loaded.fingerprint == weights_fingerprint(model)
    assert not loaded.model.training
    same = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert same is tied


def test_the_tokenizer_is_the_same_after_saving(saved, tokenizer):
    text = "the cat sat <|im_end|>"
    for reopened in (
        load(str(saved)).tokenizer,
        load_tokenizer(str(saved)),
        AutoTokenizer.from_pretrained(saved),
    ):
        assert reopened(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert reopened.chat_template == tokenizer.chat_template
        assert reopened.pad_token_id == tokenizer.pad_token_id


def test_a_bfloat16_model_is_widened_on_saving_and_stays_as_it_was(tmp_path, tokenizer):
    save(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "first")
    model = load(str(tmp_path / "first"), dtype="bfloat16").model
    save(model, tokenizer, tmp_path / "saved")
    assert model.dtype == torch.bfloat16
    assert json.loads((tmp_path / "saved/config.json").read_text())["dtype"] == "float32"
    loaded = load(str(tmp_path / "saved"))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    narrow = load(str(tmp_path / "saved"), dtype="bfloat16")
    assert torch.equal(logits(narrow.model), logits(model))


def test_saving_replaces_whole_or_not_at_all(saved, tokenizer, monkeypatch):
    before = logits(load(str(saved)).model)

    def fail(self, directory, **_options):
        (directory / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    with pytest.raises(errors.DiskFull):
        save(tiny_llama(len(tokenizer), seed=1), tokenizer, saved)
    monkeypatch.undo()
    assert torch.equal(logits(load(str(saved)).model), before)
    assert [entry.name for entry in saved.parent.iterdir()] == ["saved"]
    other = tiny_llama(len(tokenizer), seed=1)
    save(other, tokenizer, saved)
    assert torch.equal(logits(load(str(saved)).model), logits(other))


def test_a_generation_config_that_transformers_refuses_is_repaired(tmp_path, model, tokenizer):
    model.generation_config.temperature = 0.3
    model.generation_config.do_sample = False
    save(model, tokenizer, tmp_path / "saved")
    written = json.loads((tmp_path / "saved/generation_config.json").read_text())
    assert written["do_sample"] is True
    assert written["eos_token_id"] == tokenizer.eos_token_id
    assert model.generation_config.do_sample is False


def test_the_fingerprint_is_of_the_weights(tokenizer):
    model, same = tiny_llama(len(tokenizer)), tiny_llama(len(tokenizer))
    assert weights_fingerprint(model) == weights_fingerprint(same)
    with torch.no_grad():
        same.model.layers[1].mlp.up_proj.weight[3, 2] += 1e-6
    assert weights_fingerprint(model) != weights_fingerprint(same)
    assert len(weights_fingerprint(model)) == 16


def test_dropout_is_removed_and_said(tmp_path, tokenizer):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert any("resid_pdrop was 0.1" in note for note in loaded.notes)
    loaded.model.train()
    assert torch.equal(logits(loaded.model), logits(loaded.model))


def test_a_missing_padding_token_is_the_end_token(saved):
    edit_json(saved / "tokenizer_config.json", pad_token=None)
    loaded = load(str(saved))
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    assert any("pad" in note for note in loaded.notes)


def test_the_end_token_may_come_from_the_generation_config(saved, tokenizer):
    edit_json(saved / "tokenizer_config.json", eos_token=None, pad_token=None)
    assert load_tokenizer(str(saved)).eos_token_id == tokenizer.eos_token_id


def test_no_end_token_at_all_is_named(saved):
    edit_json(saved / "tokenizer_config.json", eos_token=None, pad_token=None)
    edit_json(saved / "generation_config.json", eos_token_id=None)
    edit_json(saved / "config.json", eos_token_id=None)
    with pytest.raises(errors.SpecialTokenTrouble):
        load(str(saved))


def test_a_run_directory_stands_for_its_model(tmp_path, saved):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(errors.ModelNotFound, match="no model yet"):
        load(str(run))
    os.rename(saved, run / "model")
    assert load(str(run)).directory == run / "model"


def test_only_pickles_are_refused(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(errors.UnsafeArtifact, match="pickle"):
        load(str(saved))
    with pytest.raises(errors.UnsafeArtifact, match="pickle"):
        load(str(saved / "pytorch_model.bin"))


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
def test_remote_code_needs_a_whole_commit(saved, revision):
    with pytest.raises(errors.UnsafeArtifact):
        load(str(saved), trust_remote_code=True, revision=revision)
    with pytest.raises(errors.UnsafeArtifact):
        load_tokenizer(str(saved), trust_remote_code=True, revision=revision)


def test_a_model_with_its_own_code_is_not_run(saved, tmp_path):
    edit_json(
        saved / "config.json",
        model_type="never-heard-of",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )
    (saved / "own.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    with pytest.raises(errors.UnsafeArtifact, match="own code"):
        load(str(saved))
    assert not (tmp_path / "was-run").exists()


def test_code_in_another_repository_is_not_pinned_by_the_revision(saved):
    edit_json(saved / "config.json", auto_map={"AutoModelForCausalLM": "someone/else--own.Model"})
    with pytest.raises(errors.UnsafeArtifact, match="another repository"):
        load(str(saved), trust_remote_code=True, revision=COMMIT)


def test_a_missing_directory_names_the_nearest(saved):
    with pytest.raises(errors.ModelNotFound) as fault:
        load(str(saved.with_name("savde")))
    assert str(saved) in fault.value.action
    with pytest.raises(errors.ModelNotFound) as fault:
        load(str(saved.parent / "savd" / "deeper" / "still"))
    assert str(saved) in fault.value.action


def test_a_hub_id_without_a_network_is_named():
    with pytest.raises(errors.ModelNotFound) as fault:
        load("nobody/no-such-model")
    assert "network" in fault.value.action
    assert len(str(fault.value)) < 600


@pytest.mark.parametrize("source", ["", "a b", "owner/name/more", "../nowhere"])
def test_what_is_neither_path_nor_hub_id_is_named(source):
    with pytest.raises(errors.ModelNotFound):
        load(source)


def test_files_that_are_no_model_are_named(tmp_path, saved):
    (tmp_path / "notes.md").write_text("a model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "one.gguf").write_bytes(b"GGUF")
    for source, said in [
        ("notes.md", "not a model"),
        ("saved/model.safetensors", str(saved)),
        ("empty", "config.json"),
        ("ggufs", "one.gguf"),
    ]:
        with pytest.raises(errors.ModelNotFound) as fault:
            load(str(tmp_path / source))
        assert said in str(fault.value)


def test_quantised_weights_are_named(saved):
    edit_json(saved / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(errors.BadConfig, match="gptq"):
        load(str(saved))


def test_missing_weights_are_not_made_up(saved, tokenizer):
    edit_json(saved / "config.json", num_hidden_layers=3)
    with pytest.raises(errors.ModelNotFound, match=r"model\.layers\.2"):
        load(str(saved))


@pytest.mark.parametrize("size", [0, 8, 2000])
def test_a_cut_off_weight_file_is_named(saved, size):
    with open(saved / "model.safetensors", "r+b") as stream:
        stream.truncate(size)
    with pytest.raises(errors.ModelNotFound):
        load(str(saved))


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "bert"}', "{}"])
def test_a_config_that_is_no_language_model_is_named(saved, content):
    (saved / "config.json").write_text(content)
    with pytest.raises(errors.ModelNotFound):
        load(str(saved))


def test_a_tokenizer_of_another_model_is_named(tmp_path, tokenizer):
    save(tiny_llama(len(tokenizer) - 1), tokenizer, tmp_path / "saved")
    with pytest.raises(errors.BadConfig, match="tokens"):
        load(str(tmp_path / "saved"))


def test_a_padding_token_without_an_embedding_is_replaced(tmp_path, tokenizer):
    other = tiny_tokenizer()
    other.add_special_tokens({"pad_token": "[PAD]"})
    save(tiny_llama(len(tokenizer)), other, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved"))
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    assert any("[PAD]" in note for note in loaded.notes)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", ""])
def test_devices_are_checked_before_the_model_is_looked_for(device):
    with pytest.raises(errors.BadConfig) as fault:
        load("no/such/model", device=device)
    assert fault.value.where == "--device"


def test_dtypes_are_checked_before_the_model_is_looked_for():
    with pytest.raises(errors.BadConfig) as fault:
        load("no/such/model", dtype="float16")
    assert "bfloat16" in fault.value.action


def test_a_hub_model_with_nothing_but_pickles_is_refused_before_the_download(monkeypatch):
    class File:
        rfilename = "pytorch_model.bin"

    class Info:
        sha, siblings = COMMIT, (File(),)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_args, **_options: Info())
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_a, **_o: pytest.fail("downloaded"))
    with pytest.raises(errors.UnsafeArtifact):
        local_directory("owner/name")


def test_a_hub_model_is_downloaded_at_the_commit_that_was_looked_at(monkeypatch, saved):
    class File:
        rfilename = "model.safetensors"

    class Info:
        sha, siblings = COMMIT, (File(),)

    asked = {}

    def download(source, **options):
        asked.update(options, source=source)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_args, **_options: Info())
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("owner/name").directory == saved
    assert asked["revision"] == COMMIT
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])


def test_an_end_token_that_pads_is_trained_where_it_is_read(tmp_path):
    tokenizer = tiny_tokenizer()
    config = tiny_llama(len(tokenizer), tied=False).config
    config.pad_token_id = tokenizer.eos_token_id
    save(type(tiny_llama(4))(config), tokenizer, tmp_path / "model")
    model = load(str(tmp_path / "model")).model
    end = tokenizer.eos_token_id
    model(input_ids=torch.tensor([[5, end, 6]])).logits[0, -1].square().sum().backward()
    assert float(model.get_input_embeddings().weight.grad[end].abs().sum()) > 0
