"""A GGUF file is converted once to a plain model that gives the logits of the weights in it."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from gguf_files import write_gguf
from logratio import errors
from logratio.models.gguf import loading as ours
from logratio.models.loading import load, load_tokenizer, save, weights_fingerprint
from tiny_models import TEMPLATE, tiny_llama


@pytest.fixture
def gguf_file(tmp_path, tokenizer, model):
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    return tmp_path / "tiny.gguf"


def test_a_gguf_file_gives_its_own_logits_tied_and_plain(cache, gguf_file, model, tokenizer, tmp_path):
    loaded = load(str(gguf_file))
    ids = torch.arange(2, 60)[None]
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, model(ids).logits, atol=1e-5)
    assert weights_fingerprint(loaded.model) == weights_fingerprint(model)
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert loaded.tokenizer.eos_token_id == tokenizer.eos_token_id
    assert loaded.tokenizer.chat_template == TEMPLATE
    text = "the cat sat on a good day"
    assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    save(loaded.model, loaded.tokenizer, tmp_path / "saved")
    config = (tmp_path / "saved" / "config.json").read_text()
    assert "quantization" not in config
    assert str(tmp_path) not in config
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(reopened(ids).logits, loaded.model(ids).logits)


def test_a_conversion_is_made_once_and_kept_by_content(cache, gguf_file, monkeypatch):
    first = load(str(gguf_file))
    monkeypatch.setattr(ours, "_read", lambda header: pytest.fail("converted twice"))
    moved = gguf_file.rename(gguf_file.with_name("moved.gguf"))
    assert load(str(moved)).fingerprint == first.fingerprint
    assert load_tokenizer(str(moved)).eos_token_id == first.tokenizer.eos_token_id
    assert [entry.name for entry in cache.iterdir() if entry.is_dir()] == [first.directory.name]


def test_another_file_is_another_conversion(cache, gguf_file, tokenizer, tmp_path):
    first = load(str(gguf_file))
    write_gguf(tmp_path / "other.gguf", tiny_llama(len(tokenizer), seed=1), tokenizer)
    assert load(str(tmp_path / "other.gguf")).fingerprint != first.fingerprint


def test_a_conversion_that_fails_leaves_nothing(cache, gguf_file, monkeypatch):
    def fail(self, directory, **_options):
        (directory / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    with pytest.raises(errors.DiskFull):
        load(str(gguf_file))
    assert [entry for entry in cache.iterdir() if entry.is_dir()] == []


def test_a_conversion_does_not_touch_the_random_numbers(cache, gguf_file):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(str(gguf_file))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("content", [b"version https://git-lfs", b"", b"GGUF and then nothing"])
def test_a_file_that_is_not_gguf_is_named(cache, tmp_path, content):
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(errors.ModelNotFound) as fault:
        load(str(tmp_path / "broken.gguf"))
    assert fault.value.where.endswith("broken.gguf")


def test_the_embedded_model_is_asked_for_by_package(monkeypatch):
    monkeypatch.setattr(ours, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(errors.MissingExtra) as fault:
        ours.embedded_model_path()
    assert "pip install" in fault.value.action
