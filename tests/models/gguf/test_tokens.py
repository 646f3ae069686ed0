"""The tokenizer of a GGUF file is the one that its metadata describe, and what is not used is said."""

import re

import pytest
from transformers import Gemma2Config, Gemma2ForCausalLM

from gguf_files import write_gguf
from logratio import errors
from logratio.models.gguf.header import read_header
from logratio.models.gguf.tokens import check_tokenizer
from logratio.models.loading import load
from logratio.models.tokenisation import stop_token_ids
from tiny_models import TEMPLATE


def test_the_ends_of_a_turn_stop_answers_too(tmp_path, model, tokenizer, cache):
    loaded = load(str(write_gguf(tmp_path / "a.gguf", model, tokenizer, tokens={"ggml.eot_token_id": 5})))
    assert loaded.model.generation_config.eos_token_id == [0, 5]
    assert {0, 5} <= stop_token_ids(loaded.tokenizer, loaded.model.generation_config)


def test_what_is_not_used_of_the_tokenizer_is_said_from_the_cache_too(tmp_path, model, tokenizer, cache):
    more = {
        "chat_template.tool_use": "{{ tools }}",
        "ggml.pre": "a-new-way",
        "ggml.remove_extra_whitespaces": True,
        "ggml.fim_pre_token_id": 7,
    }
    path = write_gguf(tmp_path / "a.gguf", model, tokenizer, tokens=more)
    notes = [
        "the file's way to split texts, a-new-way, is not known: they are split as GPT-2's are",
        "its default chat template is used; not used: its chat templates tool_use",
        "not used of its metadata: tokenizer.ggml.remove_extra_whitespaces",
    ]
    for _ in range(2):
        loaded = load(str(path))
        assert list(loaded.notes) == notes
        assert loaded.tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ({"ggml.eos_token_id": 290}, "tokenizer.ggml.eos_token_id is 290, and it has 290 tokens"),
        ({"ggml.eot_token_id": 300}, "tokenizer.ggml.eot_token_id is 300, and it has 290 tokens"),
        ({"ggml.tokens": None}, "it has no tokens"),
    ],
)
def test_tokens_that_are_not_there_are_named(tmp_path, model, tokenizer, cache, tokens, said):
    path = write_gguf(tmp_path / "a.gguf", model, tokenizer, tokens=tokens)
    with pytest.raises(errors.ModelNotFound, match=re.escape(said)):
        load(str(path))


def test_a_tokenizer_that_differs_is_noticed(tmp_path, model, tokenizer):
    header = read_header(write_gguf(tmp_path / "a.gguf", model, tokenizer))
    header.metadata.pop("tokenizer.ggml.bos_token_id")
    assert check_tokenizer(header, tokenizer) == ()
    header.metadata["tokenizer.ggml.add_bos_token"] = True
    header.metadata["tokenizer.ggml.tokens"].append("one more")
    assert check_tokenizer(header, tokenizer) == (
        "1 of the file's 291 tokens are not in the tokenizer: 290 'one more'",
        "tokenizer.ggml.add_bos_token is True, and the tokenizer built of the file does otherwise",
    )
    header.metadata["tokenizer.chat_template"] = "another"
    with pytest.raises(errors.ModelNotFound, match="does not have its chat template"):
        check_tokenizer(header, tokenizer)
    header.metadata["tokenizer.ggml.eos_token_id"] = 9
    with pytest.raises(errors.ModelNotFound, match="eos_token_id is 9"):
        check_tokenizer(header, tokenizer)


def test_a_tokenizer_that_reads_otherwise_once_it_is_saved_is_refused(tmp_path, tokenizer, cache):
    # A byte-level vocabulary under Gemma's class, which splits texts in its own way.
    config = Gemma2Config(
        vocab_size=290, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, pad_token_id=0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    path = write_gguf(
        tmp_path / "a.gguf", model, tokenizer, arch="gemma2", settings={"attention.key_length": 16}
    )
    with pytest.raises(errors.ModelNotFound, match=r"once it is saved|architecture gemma2"):
        load(str(path))


def test_digits_stand_apart_where_the_vocabulary_learned_them_so(tmp_path, model, tokenizer, cache):
    from tokenizers import pre_tokenizers

    loaded = load(str(write_gguf(tmp_path / "a.gguf", model, tokenizer, tokens={"ggml.pre": "smollm"})))
    pieces = loaded.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a12 b")
    assert [piece for piece, _ in pieces] == ["a", "1", "2", "Ġb"]
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("a12 b")
    assert [piece for piece, _ in plain] == ["a", "12", "Ġb"]
