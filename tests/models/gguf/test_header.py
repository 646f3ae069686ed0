"""A GGUF file that is broken or not what it says is refused by name, before a model is built."""

import re

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFEndian

from gguf_files import tensors_of, write_gguf
from logratio import errors
from logratio.models.gguf.header import read_header
from logratio.models.gguf.tensors import check_kinds
from logratio.models.loading import load, load_tokenizer
from tiny_models import tiny_llama


@pytest.fixture
def whole(tmp_path, model, tokenizer):
    return write_gguf(tmp_path / "whole.gguf", model, tokenizer)


def test_the_header_is_what_the_file_says(whole, model):
    header = read_header(whole)
    assert header.architecture == "llama"
    assert header.architecture_metadata()["embedding_length"] == 32
    assert header.architecture_metadata()["attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 290
    assert header.tensors["token_embd.weight"].shape == (290, 32)
    assert header.read("output_norm.weight").tolist() == model.model.norm.weight.double().tolist()
    reader = gguf.GGUFReader(whole)
    assert [one.name for one in reader.tensors] == list(header.tensors)
    assert [one.data_offset for one in reader.tensors] == [one.start for one in header.tensors.values()]


def test_a_file_that_is_cut_off_anywhere_is_named_with_both_sizes(whole, tmp_path):
    content, path = whole.read_bytes(), tmp_path / "cut.gguf"
    header = read_header(whole)
    first = min(tensor.start for tensor in header.tensors.values())
    last = max(tensor.start + tensor.num_bytes for tensor in header.tensors.values())
    parts = set()
    places = [
        4,
        8,
        20,
        30,
        *np.linspace(40, first - 1, 40).astype(int),
        *np.linspace(first, last - 1, 20).astype(int),
    ]
    for size in places:
        path.write_bytes(content[:size])
        with pytest.raises(errors.ModelNotFound, match=r"ends within its .* has [\d,]+") as fault:
            read_header(path)
        assert f"it has {size:,}" in fault.value.what
        assert "cut off" in fault.value.action
        parts.add(re.search(r"within (its \w+)", fault.value.what)[1])
    assert parts == {"its header", "its metadata", "its list", "its tensors"}
    path.write_bytes(content[:last])
    assert read_header(path).tensors.keys() == header.tensors.keys()


def test_cut_off_tensors_are_counted_and_the_tokenizer_alone_is_refused_too(whole, tmp_path, cache):
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(errors.ModelNotFound, match=r"1 of 20 tensors are not whole, \S+ among them"):
        load_tokenizer(str(path))
    with pytest.raises(errors.ModelNotFound, match="ends within its tensors"):
        load(str(path))
    assert not cache.exists()


def patched(whole, place, content):
    data = bytearray(whole.read_bytes())
    data[place : place + len(content)] = content
    whole.write_bytes(data)
    return whole


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(40), "does not begin as a GGUF file does"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(40), "is of version 1"),
        (b"GGUF" + (99).to_bytes(4, "little") + bytes(40), "is of version 99"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(40), "is big-endian"),
    ],
)
def test_other_files_are_named(tmp_path, content, said):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(errors.ModelNotFound, match=re.escape(said)):
        read_header(path)


def test_a_big_endian_file_of_the_writer_is_named(tmp_path, model, tokenizer):
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, endianess=GGUFEndian.BIG)
    with pytest.raises(errors.ModelNotFound, match="is big-endian"):
        read_header(path)


def test_a_directory_is_named(tmp_path):
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(errors.ModelNotFound, match=r"no config.json"):
        load(str(tmp_path / "x.gguf"))


def test_damage_inside_the_header_is_named(whole):
    kind = whole.read_bytes().index(b"general.architecture") + len(b"general.architecture")
    with pytest.raises(errors.ModelNotFound, match=r"is damaged: its metadata .* is of type 77"):
        read_header(patched(whole, kind, (77).to_bytes(4, "little")))


def test_a_tensor_of_an_unknown_type_is_named(whole):
    name = whole.read_bytes().index(b"output_norm.weight") + len(b"output_norm.weight")
    with pytest.raises(errors.ModelNotFound, match=r"output_norm.weight is of the tensor type 250"):
        read_header(patched(whole, name + 4 + 8, (250).to_bytes(4, "little")))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("split.count", 3, "is part 1 of 3"),
        ("general.type", "adapter", "holds no model but 'adapter'"),
    ],
)
def test_parts_and_adapters_are_named(tmp_path, model, tokenizer, monkeypatch, key, value, said):
    import gguf_files

    before = gguf_files.tokens_of(tokenizer)
    monkeypatch.setattr(gguf_files, "tokens_of", lambda _: before)
    write = gguf.GGUFWriter.write_header_to_file

    def with_key(writer, *arguments):
        writer.kv_data[0][key] = gguf.GGUFValue(value, gguf_files.TYPES[type(value)])
        write(writer, *arguments)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_key)
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer)
    with pytest.raises(errors.ModelNotFound, match=re.escape(said)):
        read_header(path)


def test_an_architecture_that_is_not_known_is_named(tmp_path, model, tokenizer, cache, monkeypatch):
    weights = tensors_of(model, "llama")
    monkeypatch.setattr("gguf_files.tensors_of", lambda *_: weights)
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, arch="nobody-knows")
    with pytest.raises(errors.ModelNotFound, match="nobody-knows is not supported yet"):
        load(str(path))


EXTRA = np.zeros((4, 4), dtype=np.float32)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"blk.1.attn_v.weight": None}, "1 tensors of the model are not in the file: blk.1.attn_v.weight"),
        (
            {"blk.0.attn_extra.weight": EXTRA},
            "1 tensors have no place in transformers' LlamaForCausalLM: blk.0.attn_",
        ),
        ({"blk.0.attn_q.bias": np.zeros(32, np.float32)}, "7 tensors of the model are not in the file"),
        ({"blk.2.attn_norm.weight": np.zeros(32, np.float32)}, "blk.2.attn_norm.weight"),
        (
            {"blk.0.ffn_up.weight": EXTRA},
            "the file has blk.0.ffn_up.weight [4, 4], and its metadata ask for [64, 32]",
        ),
        ({"token_embd.weight": np.zeros((280, 32), np.float32)}, "token_embd.weight [280, 32]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, model, tokenizer, cache, tensors, said):
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, tensors=tensors)
    with pytest.raises(errors.ModelNotFound, match=re.escape(said)):
        load(str(path))
    assert [entry for entry in cache.iterdir() if entry.is_dir()] == []


def test_an_output_of_its_own_is_not_tied(tmp_path, tokenizer, cache):
    model = tiny_llama(len(tokenizer), tied=False)
    loaded = load(str(write_gguf(tmp_path / "x.gguf", model, tokenizer)))
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, model(ids).logits, atol=1e-5)


def test_quantised_tensors_are_read_as_they_decode_and_it_is_said_every_time(tmp_path, tokenizer, cache):
    model = tiny_llama(len(tokenizer), hidden=128)
    weights = tensors_of(model, "llama")
    blocks = np.random.default_rng(0).integers(0, 256, (128, 210), dtype=np.uint8)
    blocks[:, -2:] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
    kinds = {
        "blk.0.attn_v.weight": "Q8_0",
        "blk.1.attn_v.weight": "Q4_0",
        "blk.0.ffn_down.weight": (GGMLQuantizationType.Q6_K, blocks),
    }
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, kinds=kinds)
    first, again = load(str(path)), load(str(path))
    note = "quantised (tensors 17 F32, 1 Q8_0, 1 Q6_K, 1 Q4_0) and read as float32"
    assert first.notes == again.notes == (note,)
    layers = first.model.model.layers
    for layer, kind in ((0, "Q8_0"), (1, "Q4_0")):
        number = GGMLQuantizationType[kind]
        expected = gguf.dequantize(gguf.quantize(weights[f"blk.{layer}.attn_v.weight"], number), number)
        assert np.array_equal(layers[layer].self_attn.v_proj.weight.detach().numpy(), expected)
    expected = gguf.dequantize(blocks, GGMLQuantizationType.Q6_K)
    assert np.array_equal(layers[0].mlp.down_proj.weight.detach().numpy(), expected)


def test_a_type_that_cannot_be_decoded_is_named(whole, monkeypatch):
    header = read_header(whole)
    assert check_kinds(header) == ()
    object.__setattr__(header.tensors["output_norm.weight"], "kind", "Q8_K")
    with pytest.raises(errors.ModelNotFound, match="1 tensors are of the type Q8_K"):
        check_kinds(header)
