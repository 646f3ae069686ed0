"""What a GGUF file's metadata say is in the configuration built, or the file is refused by key and value."""

import re

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
)

from gguf_files import write_gguf
from logratio import errors
from logratio.models.gguf.header import GGUFHeader
from logratio.models.gguf.settings import complete_config, foreign_notes
from logratio.models.loading import load

SIZES = {
    "vocab_size": 290, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
WHOLE = {
    "block_count": 2, "context_length": 64, "embedding_length": 64, "attention.head_count": 4,
    "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-6, "feed_forward_length": 64,
}  # fmt: skip
LAYER_NORM = {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-5}
LETTERS = "abcdefghijklmnopqrstuvwxyzABC"
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
SENTENCEPIECE = {
    "ggml.model": "llama", "ggml.merges": None,
    "ggml.tokens": [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *LETTERS],
    "ggml.token_type": [3] * 4 + [6] * 256 + [1] * 30,
    "ggml.scores": [0.0] * 260 + [-float(place) for place in range(30)],
    "ggml.unknown_token_id": 3, "ggml.bos_token_id": 2, "ggml.eos_token_id": 1, "ggml.padding_token_id": 0,
    "ggml.add_space_prefix": False,
}  # fmt: skip


def header_of(settings, arch="llama"):
    metadata = {f"{arch}.{key}": value for key, value in (WHOLE | settings).items() if value is not None}
    return GGUFHeader(path="x.gguf", architecture=arch, metadata=metadata, tensors={})


REFUSED = {
    "attention.sliding_window": 16,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "expert_count": 8,
    "logit_scale": 0.5,
    "residual_scale": 0.2,
    "attention.scale": 0.5,
    "attention.causal": False,
    "attention.clamp_kqv": 8.0,
    "attention.max_alibi_bias": 8.0,
    "attention.head_count_kv": [2, 4],
    "attention.value_length": 32,
    "pooling_type": 1,
    "ssm.state_size": 16,
    "something_new": "yes",
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_value_that_the_model_would_not_have_is_refused_by_name(key):
    value = REFUSED[key]
    with pytest.raises(errors.ModelNotFound, match=re.escape(f"llama.{key} is {value}")) as fault:
        complete_config(header_of({"attention.key_length": 16} | {key: value}), LlamaConfig(**SIZES))
    assert fault.value.where == "x.gguf"
    assert "transformers directory" in fault.value.action


def test_values_by_which_a_file_says_that_it_has_not_the_thing_pass():
    complete_config(
        header_of(
            {
                "attention.sliding_window": 64,
                "attn_logit_softcapping": 0.0,
                "final_logit_softcapping": 0.0,
                "expert_count": 0,
                "expert_used_count": 0,
                "attention.causal": True,
                "attention.scale": 0.25,
                "attention.head_count_kv": [2, 2],
                "attention.key_length": 16,
                "attention.value_length": 16,
                "pooling_type": 0,
                "something_new": 0,
                "tensor_data_layout": "Meta AI original pth",
            }
        ),
        LlamaConfig(**SIZES),
    )


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "attention.head_count"])
def test_a_file_that_is_silent_about_a_size_is_refused(key):
    with pytest.raises(errors.ModelNotFound, match=re.escape(f"no llama.{key}")):
        complete_config(header_of({key: None}), LlamaConfig(**SIZES))


def test_a_file_that_is_silent_about_the_norms_is_refused():
    with pytest.raises(errors.ModelNotFound, match=r"no llama.attention.layer_norm_rms_epsilon or"):
        complete_config(header_of({"attention.layer_norm_rms_epsilon": None}), LlamaConfig(**SIZES))


def test_windows_caps_and_scales_are_used_where_the_architecture_has_them():
    gemma = Gemma2Config(**SIZES, head_dim=16)
    caps = {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 0.0, "attention.sliding_window": 8}
    complete_config(header_of(caps | {"attention.key_length": 16}, "gemma2"), gemma)
    assert (gemma.attn_logit_softcapping, gemma.final_logit_softcapping) == (20.0, None)
    assert (gemma.sliding_window, gemma.query_pre_attn_scalar) == (8, 16)
    phi = Phi3Config(**SIZES)
    complete_config(header_of({"attention.sliding_window": 8, "rope.dimension_count": 16}, "phi3"), phi)
    assert phi.sliding_window == 8


def test_a_window_that_the_file_does_not_have_is_not_taken_from_the_class():
    mistral = MistralConfig(**SIZES)
    assert mistral.sliding_window == 4096
    complete_config(header_of({}), mistral)
    assert mistral.sliding_window is None


def test_a_window_is_refused_where_the_model_would_leave_it_unused():
    complete_config(header_of({"attention.sliding_window": 64}, "qwen2"), Qwen2Config(**SIZES))
    with pytest.raises(errors.ModelNotFound, match=r"qwen2.attention.sliding_window is 32"):
        complete_config(header_of({"attention.sliding_window": 32}, "qwen2"), Qwen2Config(**SIZES))


def test_learned_positions_are_as_many_as_the_file_says():
    config = GPT2Config(n_layer=2, n_embd=64, n_head=4)
    settings = LAYER_NORM | {"attention.head_count_kv": None, "feed_forward_length": 96}
    complete_config(header_of(settings, "gpt2"), config)
    assert (config.n_positions, config.n_inner) == (64, 96)


def test_heads_that_falcon_would_lay_out_otherwise_are_refused():
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 64}
    settings = LAYER_NORM | {"context_length": 2048}
    complete_config(header_of(settings | {"attention.head_count_kv": 1}, "falcon"), FalconConfig(**config))
    with pytest.raises(errors.ModelNotFound, match=r"falcon.attention.head_count_kv is 2"):
        complete_config(header_of(settings, "falcon"), FalconConfig(**config))


def test_keys_of_other_programs_are_said():
    header = header_of({})
    header.metadata["general.name"] = "name"
    assert foreign_notes(header) == ()
    header.metadata["other.program.key"] = 1
    assert foreign_notes(header) == ("not used of its metadata: other.program.key",)


MODELS = {
    "gemma2": (Gemma2Config, {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
                              "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
               {"attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 8,
                "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    "qwen3": (Qwen3Config, {"head_dim": 32}, {"attention.key_length": 32, "attention.value_length": 32}),
    "phi3": (Phi3Config, {"sliding_window": 8}, {"attention.sliding_window": 8, "rope.dimension_count": 16}),
    "stablelm": (StableLmConfig, {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5,
                                                      "rope_type": "default"}}, {"rope.dimension_count": 8}),
    "llama": (LlamaConfig, {"attention_bias": True, "mlp_bias": True, "head_dim": 32},
              {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32}),
}  # fmt: skip


@pytest.mark.parametrize("arch", MODELS)
def test_architectures_give_the_log_probabilities_of_the_model_that_the_file_was_made_from(
    arch, tmp_path, tokenizer, cache
):
    kind, fields, settings = MODELS[arch]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**SIZES | {"initializer_range": 0.3} | fields)).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(weight, 1.0 if "norm" in name and arch != "gemma2" else 0.0, 0.3)
    tokens = SENTENCEPIECE if arch == "gemma2" else {}
    path = write_gguf(tmp_path / "a.gguf", model, tokenizer, arch=arch, settings=settings, tokens=tokens)
    loaded = load(str(path))
    ids = torch.randint(2, 290, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        apart = (loaded.model(ids).logits.log_softmax(-1) - model(ids).logits.log_softmax(-1)).abs().max()
    assert apart < 1e-5
