"""GGUF files of tiny models, as llama.cpp's converter lays them out."""

import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from tiny_models import TEMPLATE

TYPES = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
}


def interleave(weights, heads):
    """llama.cpp keeps the two halves of each rotary pair beside each other."""
    return weights.reshape(heads, 2, -1, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def settings_of(config):
    """What a converter writes of a configuration, without the prefix of the architecture."""
    settings = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }
    for field, key in {
        "intermediate_size": "feed_forward_length",
        "n_inner": "feed_forward_length",
        "num_key_value_heads": "attention.head_count_kv",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "layer_norm_eps": "attention.layer_norm_epsilon",
        "layer_norm_epsilon": "attention.layer_norm_epsilon",
    }.items():
        if getattr(config, field, None) is not None:
            settings[key] = getattr(config, field)
    theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
    return settings if theta is None else settings | {"rope.freq_base": float(theta)}


def tensors_of(model, arch):
    """The weights under llama.cpp's names and in its layouts; those that are tied are left out."""
    config = model.config
    known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[arch], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", 0)}
    tensors = {}
    for name, parameter in model.named_parameters():
        stem, ending = name.rsplit(".", 1)
        weights = parameter.detach().numpy()
        for part, count in heads.items():
            if arch == "llama" and part in name:
                weights = interleave(weights, count)
        if arch.startswith("gemma") and "norm" in name:
            weights = weights + 1
        if arch == "gpt2" and weights.ndim == 2 and ".h." in name:
            weights = weights.T
        tensors[f"{names.get_name(stem)}.{ending}"] = np.ascontiguousarray(weights)
    return tensors


def tokens_of(tokenizer):
    """What a converter writes of a tokenizer, without the prefix `tokenizer.`."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    return {
        "ggml.model": "gpt2",
        "ggml.tokens": tokens,
        "ggml.token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "ggml.merges": [" ".join(pair) for pair in backend["model"]["merges"]],
        "ggml.eos_token_id": tokenizer.eos_token_id,
        "ggml.bos_token_id": 1,
        "ggml.padding_token_id": tokenizer.eos_token_id,
        "chat_template": TEMPLATE,
    }


def write_gguf(path, model, tokenizer, *, arch="llama", settings=(), tokens=(), tensors=(), kinds=(), **more):
    """Write a file; `settings`, `tokens` and `tensors` replace or, where None, take away what it would have.

    `kinds` quantises tensors by name, or takes raw blocks: (type, bytes). `more` is for the writer.
    """
    writer = gguf.GGUFWriter(path, arch, **more)
    metadata = {f"{arch}.{key}": value for key, value in (settings_of(model.config) | dict(settings)).items()}
    metadata |= {f"tokenizer.{key}": value for key, value in (tokens_of(tokenizer) | dict(tokens)).items()}
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_key_value(key, value, TYPES[type(value)])
    kinds = dict(kinds)
    for name, weights in (tensors_of(model, arch) | dict(tensors)).items():
        if weights is None:
            continue
        kind = kinds.get(name)
        if isinstance(kind, tuple):
            writer.add_tensor(name, kind[1], raw_dtype=kind[0])
        elif kind is not None:
            number = GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quantize(weights, number), raw_dtype=number)
        else:
            writer.add_tensor(name, np.asarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
