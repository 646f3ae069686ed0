"""A GGUF file's rotary positions are those of the model that it was made from, or are refused by name."""

import math
import re

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gguf_files import write_gguf
from logratio import errors
from logratio.models.gguf import rope as gguf_rope
from logratio.models.gguf.header import GGUFHeader, GGUFTensor
from logratio.models.gguf.settings import complete_config
from logratio.models.loading import load

SIZES = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
HALF = 8
PLAIN = 10_000.0 ** (-np.arange(0, 16, 2) / 16)
SHORT = [1.0 + 0.1 * place for place in range(HALF)]
LONG = [2.0 + 0.5 * place for place in range(HALF)]


def llama(rope):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=290, **SIZES, rope_parameters={"rope_theta": 10_000.0, **rope})
    return LlamaForCausalLM(config).eval()


def factors_of(rope):
    """What a converter writes as rope_freqs.weight: plain frequencies over those of the model."""
    config = LlamaConfig(vocab_size=290, **SIZES, rope_parameters={"rope_theta": 10_000.0, **rope})
    inverse, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
    return (PLAIN / inverse.double().numpy()).astype(np.float32)


def llama3(**rope):
    return {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    } | rope  # fmt: skip


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
FILE_YARN = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "attention_factor": 1.19,
    "original_max_position_embeddings": 16,
}  # fmt: skip
TABLES = {
    "rope_factors_short.weight": np.array(SHORT, dtype=np.float32),
    "rope_factors_long.weight": np.array(LONG, dtype=np.float32),
}
OTHER_EDGES = llama3(low_freq_factor=2.0, high_freq_factor=9.0, original_max_position_embeddings=64)

FILES = {
    "none, and a factor that it leaves unused": (
        {"rope_type": "default"}, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {}, "default"),
    "linear": (
        {"rope_type": "linear", "factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {}, "linear"),
    "a factor without a type is linear": (
        {"rope_type": "linear", "factor": 4.0}, {"rope.scaling.factor": 4.0}, {}, "linear"),
    "yarn": (YARN, FILE_YARN, {}, "yarn"),
    "yarn with its own attention and edges": (
        YARN | {"attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0},
        FILE_YARN | {"rope.scaling.yarn_attn_factor": 1.3, "rope.scaling.yarn_beta_fast": 8.0,
                     "rope.scaling.yarn_beta_slow": 2.0, "rope.scaling.yarn_ext_factor": 1.0}, {}, "yarn"),
    "yarn that mixes nothing is linear": (
        {"rope_type": "linear", "factor": 4.0},
        FILE_YARN | {"rope.scaling.yarn_ext_factor": 0.0}, {}, "linear"),
    "Llama 3": (llama3(), {}, {"rope_freqs.weight": factors_of(llama3())}, "llama3"),
    "Llama 3 with other edges": (
        OTHER_EDGES, {}, {"rope_freqs.weight": factors_of(OTHER_EDGES)}, "longrope"),
    "longrope": (
        LONGROPE, {"rope.scaling.attn_factor": 1.19, "rope.scaling.original_context_length": 16}, TABLES,
        "longrope"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_log_probabilities_of_the_model_that_it_was_made_from(
    name, tmp_path, tokenizer, cache
):
    rope, settings, tables, kind = FILES[name]
    model = llama(rope)
    settings = {"rope.dimension_count": 16} | settings
    loaded = load(str(write_gguf(tmp_path / "a.gguf", model, tokenizer, settings=settings, tensors=tables)))
    assert loaded.model.config.rope_parameters["rope_type"] == kind
    for length in (12, 60):
        ids = torch.randint(2, 290, (1, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            apart = (loaded.model(ids).logits.log_softmax(-1) - model(ids).logits.log_softmax(-1)).abs().max()
        assert apart < 1e-5


def test_tables_that_are_carried_do_not_depend_on_the_length_of_a_row(tmp_path, tokenizer, cache):
    path = write_gguf(
        tmp_path / "a.gguf",
        llama(OTHER_EDGES),
        tokenizer,
        tensors={"rope_freqs.weight": factors_of(OTHER_EDGES)},
    )
    parameters = load(str(path)).model.config.rope_parameters
    assert parameters["short_factor"] == parameters["long_factor"]
    assert parameters["attention_factor"] == 1.0


def test_the_real_parameters_of_llama_3_are_recovered():
    plain = 500_000.0 ** (-np.arange(0, 128, 2) / 128)
    for factor in (8.0, 32.0):
        share = np.clip((8192 * plain / (2 * math.pi) - 1) / 3, 0, 1)
        factors = (1 / ((1 - share) / factor + share)).astype(np.float32).astype(np.float64)
        header = header_of({"rope.freq_base": 500_000.0, "rope.dimension_count": 128})
        rope = gguf_rope.read_rope(header)
        object.__setattr__(rope, "tables", {"rope_freqs.weight": factors})
        assert gguf_rope.parameters(rope, 128, model_type="llama") == {
            "rope_theta": 500_000.0, "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip


def header_of(settings, tmp_path=None, tables=()):
    tensors = {}
    if tables:
        path = tmp_path / "tables"
        path.write_bytes(b"".join(np.asarray(table, "<f4").tobytes() for table in tables.values()))
        start = 0
        for name, table in tables.items():
            size = 4 * len(table)
            tensors[name] = GGUFTensor(
                name=name, shape=(len(table),), kind="F32", start=start, num_bytes=size
            )
            start += size
    whole = {
        "block_count": 2, "context_length": 64, "embedding_length": 64, "attention.head_count": 4,
        "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-6, "feed_forward_length": 64,
    } | settings  # fmt: skip
    metadata = {f"llama.{key}": value for key, value in whole.items()}
    return GGUFHeader(
        path=(tmp_path / "tables" if tmp_path else "x.gguf"),
        architecture="llama", metadata=metadata, tensors=tensors,
    )  # fmt: skip


REFUSED = {
    "an unknown type": ({"rope.scaling.type": "ntk"}, {}, "rope.scaling.type is ntk"),
    "a mixture of YaRN": (FILE_YARN | {"rope.scaling.yarn_ext_factor": 0.5}, {}, "yarn_ext_factor is 0.5"),
    "attention that can be read in two ways": (
        FILE_YARN | {"rope.scaling.attn_factor": 1.5}, {}, "rope.scaling.attn_factor is 1.5"),
    "another key": ({"rope.scaling.alpha": 1000.0}, {}, "rope.scaling.alpha is 1000.0"),
    "a multiplier of YaRN": (
        FILE_YARN | {"rope.scaling.yarn_log_multiplier": 0.1}, {}, "yarn_log_multiplier is 0.1"),
    "a table beside YaRN": (FILE_YARN, {"rope_freqs.weight": [2.0] * HALF}, "rope_freqs.weight"),
    "half of two tables": ({}, {"rope_factors_long.weight": LONG}, "rope_factors_long goes with _short"),
    "longrope without tables": ({"rope.scaling.type": "longrope"}, {}, "rope.scaling.type is longrope"),
    "tables without what scales attention": (
        {"rope.scaling.original_context_length": 16},
        {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT},
        "no rope.scaling.attn_factor"),
    "a table of another length": ({}, {"rope_freqs.weight": [2.0] * 5}, "rope_freqs.weight has 5 factors"),
    "fewer dimensions than a head has": ({"rope.dimension_count": 8}, {}, "rope.dimension_count is 8"),
    "sections": ({"rope.dimension_sections": [2, 2, 4, 0]}, {}, "rope.dimension_sections is [2, 2, 4]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_would_not_have_is_refused_by_key_and_value(name, tmp_path):
    settings, tables, said = REFUSED[name]
    with pytest.raises(errors.ModelNotFound, match=re.escape(said)) as fault:
        complete_config(header_of(settings, tmp_path, tables), LlamaConfig(vocab_size=290, **SIZES))
    assert "transformers directory" in fault.value.action or "table fits" in fault.value.action


def test_a_model_that_turns_otherwise_is_refused():
    rope = gguf_rope.read_rope(header_of({}))
    gguf_rope.check_model(header_of({}), rope, llama({"rope_type": "default"}))
    for other in ({"rope_type": "linear", "factor": 1.001}, {"rope_type": "default", "rope_theta": 10_001.0}):
        with pytest.raises(errors.ModelNotFound, match="does not turn positions"):
            gguf_rope.check_model(header_of({}), rope, llama(other))
