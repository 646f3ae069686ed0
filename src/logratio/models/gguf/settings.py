"""Every key of a GGUF file's metadata that could change a number is held against the configuration built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from logratio.models.gguf.header import GGUFHeader
from logratio.models.gguf.rope import DIRECTORY, Rope, head_dimension, parameters, read_rope

FIELDS: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "block_count": ("num_hidden_layers", "n_layer"),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("global_head_dim", "head_dim"),
    "attention.value_length": ("global_head_dim", "head_dim"),
    "attention.key_length_swa": ("head_dim",),
    "attention.value_length_swa": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_length_per_layer_input": ("hidden_size_per_layer_input",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok", "top_k_experts"),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "full_attention_interval": ("full_attention_interval",),
    "ssm.conv_kernel": ("conv_kernel", "linear_conv_kernel_dim"),
    "ssm.inner_size": ("intermediate_size",),
    "ssm.state_size": ("state_size", "linear_key_head_dim"),
    "ssm.time_step_rank": ("time_step_rank", "linear_num_value_heads"),
    "ssm.group_count": ("linear_num_key_heads",),
    "shortconv.l_cache": ("conv_L_cache",),
}
"""The field that holds a key's value: the first of these that the class of the configuration has."""

NO_EFFECT: Mapping[str, str] = {
    "tensor_data_layout": "says how the file was laid out, which its architecture does too",
    "use_parallel_residual": "the tensors show it, to transformers as to llama.cpp",
    "attention.causal": "every decoder is causal",
    "nextn_predict_layers": "further layers predict further tokens: said where they are left out",
}
"""Keys that change no number of the model built, with the reason."""

OFF: tuple[Any, ...] = (0, None, False, "", "none")
"""Values by which a file says that it does not have the thing."""
EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
QWEN_NEXT = ("qwen3_5_text", "qwen3_5_moe_text")


def complete_config(header: GGUFHeader, config: Any) -> Rope | None:
    """Give transformers' configuration of a file, in place, what the file says and transformers did not read.

    Returns:
        What the file says of rotary positions; none where the architecture has none.

    Raises:
        ModelNotFound: a key has a value that the model built would not have.
    """
    metadata = header.architecture_metadata()
    _check_whole(header, config, metadata)
    if metadata.get("attention.causal", True) is not True:
        raise refused(header, "attention.causal", metadata["attention.causal"])
    _set_fields(header, config, metadata)
    _set_implied(header, config, metadata)
    rope = _fit_rope(header, config) if getattr(config, "rope_parameters", None) else None
    for key, value in metadata.items():
        if key.startswith("rope."):
            if rope is None and value not in OFF:
                raise refused(header, key, value)
        elif key not in NO_EFFECT and not _reflected(config, key, value, metadata):
            raise refused(header, key, value)
    return rope


def foreign_notes(header: GGUFHeader) -> tuple[str, ...]:
    """A sentence on keys of other programs, which no number depends on here."""
    known = ("general.", "tokenizer.", "split.", "quantize.", f"{header.architecture}.")
    foreign = sorted(key for key in header.metadata if not key.startswith(known))
    return (f"not used of its metadata: {', '.join(foreign)}",) if foreign else ()


def _check_whole(header: GGUFHeader, config: Any, metadata: Mapping[str, Any]) -> None:
    """Raise where the file is silent about what transformers would then take from another model."""
    needed = [("block_count",), ("embedding_length",), EPSILONS]
    if _declared(config, ("num_attention_heads",)):
        needed.append(("attention.head_count",))
    for keys in needed:
        if not any(key in metadata for key in keys):
            raise header.fault(
                f"its metadata has no {' or '.join(f'{header.architecture}.{key}' for key in keys)}",
                action=DIRECTORY,
            )


def refused(header: GGUFHeader, key: str, value: Any) -> Exception:
    """The fault of a key whose value the model built would not have."""
    shown = str(value)
    return header.fault(
        f"{header.architecture}.{key} is {shown if len(shown) < 80 else shown[:77] + '...'}, "
        "which the model that transformers builds of the file would not have",
        action=DIRECTORY,
    )


def _declared(config: Any, names: tuple[str, ...]) -> str | None:
    """The first of some fields that the configuration's class has, not one that was merely put on it."""
    known = {*type(config).__dataclass_fields__, *(getattr(type(config), "attribute_map", None) or {})}
    return next((name for name in names if name in known), None)


def _set_fields(header: GGUFHeader, config: Any, metadata: Mapping[str, Any]) -> None:
    for key, names in FIELDS.items():
        name = _declared(config, names)
        if name is None or key not in metadata:
            continue
        value = _single(metadata[key])
        if value in OFF and key.endswith("softcapping"):
            setattr(config, name, None)
        elif value not in OFF and _may_set(config, key, value, metadata):
            setattr(config, name, value)
    config.tie_word_embeddings = "output.weight" not in header.tensors
    biases = {"attention_bias": ".attn_q.bias", "mlp_bias": ".ffn_gate.bias"}
    for name, ending in biases.items():
        if _declared(config, (name,)) and any(tensor.endswith(ending) for tensor in header.tensors):
            setattr(config, name, True)


def _may_set(config: Any, key: str, value: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether a field that has another value may have the file's: the model reads it as it stands."""
    if isinstance(value, list) or _reflected(config, key, value, metadata):
        return False
    if key == "attention.value_length" and "attention.key_length" in metadata:
        return False
    return key != "attention.sliding_window" or getattr(config, "use_sliding_window", None) is None


def _single(value: Any) -> Any:
    """A value that is given for each layer and is the same for all, once."""
    return value[0] if isinstance(value, list) and len(set(value)) == 1 else value


def _set_implied(header: GGUFHeader, config: Any, metadata: Mapping[str, Any]) -> None:
    """What llama.cpp takes for granted where the file is silent, and transformers takes otherwise."""
    if "attention.head_count_kv" not in metadata and _declared(config, ("num_key_value_heads",)):
        config.num_key_value_heads = config.num_attention_heads
    if config.model_type == "mistral" and "attention.sliding_window" not in metadata:
        config.sliding_window = None
    if config.model_type in ("gemma2", "gemma3_text"):
        # The two models of 27 billion weights divide by the width over the heads; neither file says so.
        whole = config.hidden_size // config.num_attention_heads
        largest = config.num_hidden_layers == {"gemma2": 46, "gemma3_text": 62}[config.model_type]
        config.query_pre_attn_scalar = whole if largest else config.head_dim
    pattern = metadata.get("attention.sliding_window_pattern")
    layers = config.num_hidden_layers if _declared(config, ("layer_types",)) else 0
    if isinstance(pattern, int) and pattern > 0:
        pattern = [bool((layer + 1) % pattern) for layer in range(layers)]
    if isinstance(pattern, list) and len(pattern) == layers and config.layer_types is not None:
        config.layer_types = ["sliding_attention" if slides else "full_attention" for slides in pattern]


def _fit_rope(header: GGUFHeader, config: Any) -> Rope:
    rope = read_rope(header)
    old, head_dim = config.rope_parameters, head_dimension(config)
    if "full_attention" in old:
        return _fit_layers(header, config, rope)
    dimensions = rope.dimensions or head_dim
    for name, table in rope.tables.items():
        if len(table) != dimensions // 2:
            raise header.fault(
                f"{name} has {len(table)} factors, and {dimensions} dimensions of a head turn in pairs",
                action="give a file whose table fits the model",
            )
    new = parameters(rope, head_dim, model_type=config.model_type)
    kept = {key: value for key, value in old.items() if key.startswith("mrope")}
    if "partial_rotary_factor" in old:
        kept["partial_rotary_factor"] = dimensions / head_dim
    elif dimensions != head_dim:
        raise refused(header, "rope.dimension_count", dimensions)
    sections = [part for part in header.architecture_metadata().get("rope.dimension_sections", []) if part]
    if sections and sections != list(old.get("mrope_section", [])):
        raise refused(header, "rope.dimension_sections", sections)
    config.rope_parameters = kept | new
    if "original_max_position_embeddings" in new and hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = new["original_max_position_embeddings"]
    return rope


def _fit_layers(header: GGUFHeader, config: Any, rope: Rope) -> Rope:
    """Where layers of full attention turn otherwise than those with a window, as in Gemma 3 and 4."""
    metadata, old = header.architecture_metadata(), config.rope_parameters
    new = parameters(rope, head_dimension(config), model_type=config.model_type)
    kind = old["full_attention"]["rope_type"]
    if rope.tables or (kind != "default" and new["rope_type"] != "default"):
        raise refused(header, "rope.scaling.type", new["rope_type"])
    full = new if kind == "default" else old["full_attention"] | {"rope_theta": rope.theta}
    sliding = old["sliding_attention"] | {"rope_theta": float(metadata.get("rope.freq_base_swa", 10_000.0))}
    config.rope_parameters = {"full_attention": full, "sliding_attention": sliding}
    return rope


def _reflected(config: Any, key: str, value: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether the configuration has a key's value, or could have none of it."""
    if key != "attention.sliding_window_pattern":
        value = _single(value)
    if key in DERIVED:
        actual = DERIVED[key](config, value, metadata)
        if actual is not None:
            return actual
    name = _declared(config, FIELDS.get(key, ()))
    if name is None:
        return value in OFF if not isinstance(value, list) else not any(value)
    actual = getattr(config, name)
    if isinstance(value, float) and isinstance(actual, (int, float)):
        return math.isclose(value, actual, rel_tol=1e-6)
    return bool(value == actual or (value in OFF and actual in OFF))


def _heads(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    """Heads of keys and values: of each layer, of the one that Falcon shares, or as many as of queries."""
    if isinstance(value, list):
        kinds = getattr(config, "layer_types", None) or []
        shared = getattr(config, "num_key_value_heads", None)
        return value == [shared if kind == "full_attention" else 0 for kind in kinds]
    if config.model_type == "falcon":
        shared = config.multi_query and not config.new_decoder_architecture
        return bool(value == 1 and shared)
    if _declared(config, ("num_key_value_heads",)) is None:
        return bool(value == config.num_attention_heads) if value else True
    return None


def _layers(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    return bool(value - metadata.get("nextn_predict_layers", 0) == config.num_hidden_layers)


def _width(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    """The width of a head, where the configuration has no field for it or one for each layer."""
    layers = getattr(config, "per_layer_config", None) or {}
    if isinstance(layers, dict) and layers:
        widths = [layer.get("head_dim") for layer in layers.values() if isinstance(layer, dict)]
        return bool(value == max([head_dimension(config), *(width for width in widths if width)]))
    if _declared(config, ("head_dim",)) is None and hasattr(config, "num_attention_heads"):
        return bool(value == head_dimension(config))
    return None


def _feed_forward(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    if config.model_type == "mamba":
        return bool(value in OFF)
    return bool(value == 4 * config.hidden_size) if config.model_type == "bloom" else None


def _window(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    """A window as wide as the context is none, for a model that has no window."""
    actual = getattr(config, "sliding_window", None)
    unused = getattr(config, "use_sliding_window", None) is False or actual in OFF
    return bool(value in OFF or value >= metadata.get("context_length", math.inf)) if unused else None


def _pattern(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    """Which layers have a window."""
    kinds = getattr(config, "layer_types", None) or []
    if isinstance(value, list):
        return value == [kind == "sliding_attention" for kind in kinds] or not any(value)
    return kinds == [
        "sliding_attention" if (layer + 1) % value else "full_attention" for layer in range(len(kinds))
    ]


def _inner(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    if config.model_type not in QWEN_NEXT:
        return None
    return bool(value == config.linear_value_head_dim * config.linear_num_value_heads)


def _interval(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    kinds = getattr(config, "layer_types", None) or []
    return all((kind == "full_attention") == ((place + 1) % value == 0) for place, kind in enumerate(kinds))


def _gating(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    """1 is a softmax over all experts, 2 a sigmoid of each, 3 a softmax over those chosen."""
    return bool(value == {"minimax_m2": 2, "gpt_oss": 3}.get(config.model_type, 1))


def _scale(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    width = getattr(config, "query_pre_attn_scalar", None) or head_dimension(config)
    return math.isclose(value, width**-0.5, rel_tol=1e-5)


def _context(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    """The longest row the model was trained on: a number only where positions are learned."""
    return None if _declared(config, FIELDS["context_length"]) else True


def _vocabulary(config: Any, value: Any, metadata: Mapping[str, Any]) -> bool | None:
    return bool(value == config.vocab_size)


DERIVED: Mapping[str, Callable[[Any, Any, Mapping[str, Any]], bool | None]] = {
    "vocab_size": _vocabulary,
    "context_length": _context,
    "block_count": _layers,
    "feed_forward_length": _feed_forward,
    "attention.head_count_kv": _heads,
    "attention.key_length": _width,
    "attention.value_length": _width,
    "attention.sliding_window": _window,
    "attention.sliding_window_pattern": _pattern,
    "attention.scale": _scale,
    "expert_gating_func": _gating,
    "full_attention_interval": _interval,
    "ssm.inner_size": _inner,
}
"""Keys for which no field, or more than a field, has the value: whether it has; none asks the field."""
