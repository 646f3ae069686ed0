"""Rotary positions of a GGUF file: what its metadata and tables say, held against what a model computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from logratio.models.gguf.header import GGUFHeader

Factors = np.ndarray[Any, np.dtype[np.float64]]

KNOWN = {
    "dimension_count", "dimension_count_swa", "dimension_sections", "freq_base", "freq_base_swa",
    "scale_linear", "scaling.type", "scaling.factor", "scaling.attn_factor", "scaling.yarn_attn_factor",
    "scaling.finetuned", "scaling.original_context_length", "scaling.yarn_ext_factor",
    "scaling.yarn_beta_fast", "scaling.yarn_beta_slow",
}  # fmt: skip
"""The keys under `rope.` that are used here; any other is refused unless its value is 0."""
TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
THETA = 10_000.0
"""The base where the file names none, as llama.cpp has it."""
ROUNDING = 5e-6
"""Relative distance of two frequencies that float32 rounding explains, of bases up to millions."""
DIRECTORY = "give the transformers directory of this model"


@dataclass(frozen=True, kw_only=True)
class Rope:
    """What a file says of rotary positions.

    With d dimensions that turn, position p turns pair i by p · θ^(-2i/d) / factors[i], and queries and keys
    are multiplied by `attention`.
    """

    theta: float
    """θ, the base."""
    dimensions: int | None
    """d; none where the file does not say."""
    kind: str
    """none, linear or yarn; tables of factors are of kind none or linear."""
    factor: float
    """By how much positions are squeezed."""
    original: int
    """The context that the model was first trained on."""
    attention: float | None
    """What queries and keys are multiplied by; none where the kind says it."""
    betas: tuple[float, float]
    """YaRN: turns within the first context above which a pair is left alone, below which it is squeezed."""
    whole_pairs: bool
    """YaRN: whether the edges that the betas give are rounded to whole pairs; GPT-OSS does not."""
    tables: Mapping[str, Factors]
    """The tables of factors in the file, by the name of their tensor."""


def read_rope(header: GGUFHeader) -> Rope:
    """What the file says, every key under `rope.` accounted for.

    Raises:
        ModelNotFound: it says something that is not used here or that can be read in two ways.
    """
    metadata = {
        key[5:]: value for key, value in header.architecture_metadata().items() if key.startswith("rope.")
    }
    for key, value in metadata.items():
        if key not in KNOWN and value not in (0, None, False):
            raise _refused(header, f"rope.{key}", value)
    kind = str(metadata.get("scaling.type", "linear"))
    factor = float(metadata.get("scaling.factor", metadata.get("scale_linear", 1.0))) or 1.0
    tables = {name: header.read(name).reshape(-1) for name in TABLES if name in header.tensors}
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise _refused(header, "rope.scaling.type", kind)
    long = "rope_factors_long.weight" in tables or "rope_factors_short.weight" in tables
    if long and (len(tables) != 2 or "rope_freqs.weight" in tables):
        raise header.fault(
            f"it has the tables {', '.join(tables)}: rope_factors_long goes with _short, and no other",
            action=DIRECTORY,
        )
    if (kind == "longrope") > long or (long and (kind == "yarn" or (factor != 1.0 and kind != "none"))):
        raise _refused(header, "rope.scaling.type", f"{kind} (factor {factor:g}, tables: {list(tables)})")
    if kind == "yarn":
        kind = _check_yarn(header, metadata, factor, tables)
    original = int(
        metadata.get("scaling.original_context_length")
        or header.architecture_metadata().get("context_length")
        or 0
    )
    return Rope(
        theta=float(metadata.get("freq_base", THETA)),
        dimensions=metadata.get("dimension_count"),
        kind="none" if kind in ("none", "longrope") or (kind == "linear" and factor == 1.0) else kind,
        factor=1.0 if kind in ("none", "longrope") else factor,
        original=original,
        attention=_attention(header, metadata, kind, factor, long=long, original=original),
        betas=(
            float(metadata.get("scaling.yarn_beta_fast", 32.0)),
            float(metadata.get("scaling.yarn_beta_slow", 1.0)),
        ),
        whole_pairs=header.architecture not in ("gpt-oss", "gpt_oss"),
        tables=tables,
    )


def parameters(rope: Rope, head_dim: int, *, model_type: str) -> dict[str, Any]:
    """The `rope_parameters` of transformers for what a file says.

    Tables that are Llama 3's become `llama3`. Any other table is carried exactly, as `longrope` with the same
    factors for short and for long rows, so that no number depends on the length of a row.
    """
    base = {"rope_theta": rope.theta}
    if rope.kind == "yarn":
        fast, slow = rope.betas
        return base | {
            "rope_type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original,
            "attention_factor": rope.attention,
            "beta_fast": fast,
            "beta_slow": slow,
            "truncate": rope.whole_pairs,
        }
    if "rope_factors_long.weight" in rope.tables:
        return base | _table(
            rope, rope.tables["rope_factors_short.weight"], rope.tables["rope_factors_long.weight"]
        )
    dimensions = rope.dimensions or head_dim
    factors = rope.tables.get("rope_freqs.weight", np.ones(dimensions // 2)) * rope.factor
    plain = rope.attention in (None, 1.0)
    if plain and np.all(factors == 1.0):
        return base | {"rope_type": "default"}
    # Phi-3's configuration takes no other kind than longrope.
    if plain and model_type != "phi3":
        if np.all(factors == factors[0]):
            return base | {"rope_type": "linear", "factor": float(factors[0])}
        llama3 = _llama3(rope.theta, dimensions, factors)
        if llama3:
            return base | llama3
    return base | _table(rope, factors, factors)


def frequencies(rope: Rope, head_dim: int) -> Factors:
    """The frequencies θ^(-2i/d) / factors of short rows, in float64, straight from what the file says."""
    dimensions = rope.dimensions or head_dim
    pairs = np.arange(0, dimensions, 2)
    plain = rope.theta ** (-pairs / dimensions)
    if rope.kind == "yarn":
        low, high = (_turning_pair(rope, dimensions, beta) for beta in rope.betas)
        if rope.whole_pairs:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dimensions - 1)
        ramp = np.clip((pairs / 2 - low) / max(high - low, 0.001), 0, 1)
        return plain * (1 - ramp) + plain / rope.factor * ramp
    table = rope.tables.get("rope_factors_short.weight", rope.tables.get("rope_freqs.weight"))
    return plain / rope.factor / (1.0 if table is None else table)


def check_model(header: GGUFHeader, rope: Rope, model: Any) -> None:
    """Raise `ModelNotFound` where a model turns positions otherwise than the file says.

    Frequencies per kind of layer are compared for layers of full attention.
    """
    head_dim = head_dimension(model.config)
    expected = frequencies(rope, head_dim)
    attention = 1.0 if rope.attention is None else rope.attention
    for name, module in model.named_modules():
        for buffer in ("inv_freq", "full_attention_inv_freq"):
            built = getattr(module, buffer, None)
            if built is None:
                continue
            actual = built.detach().double().numpy()
            scale = getattr(module, buffer.replace("inv_freq", "attention_scaling"), 1.0)
            same = actual.shape == expected.shape and np.allclose(actual, expected, rtol=ROUNDING, atol=0)
            if not same or not math.isclose(scale, attention, rel_tol=ROUNDING):
                raise header.fault(
                    f"transformers' {type(model).__name__} does not turn positions as the file's rope.* keys "
                    f"and tables say ({name}.{buffer})",
                    action=DIRECTORY,
                )


def head_dimension(config: Any) -> int:
    """How wide a head is."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _check_yarn(
    header: GGUFHeader, metadata: Mapping[str, Any], factor: float, tables: Mapping[str, Factors]
) -> str:
    """The kind that YaRN's mixing factor leaves of it: 1 is YaRN, 0 is linear."""
    mixing = float(metadata.get("scaling.yarn_ext_factor", 1.0))
    if tables:
        raise _refused(header, "rope.scaling.type", f"yarn (with the table {next(iter(tables))})")
    if mixing == 0.0:
        return "linear"
    if mixing not in (1.0, -1.0):
        raise _refused(header, "rope.scaling.yarn_ext_factor", mixing)
    return "yarn" if factor != 1.0 else "none"


def _attention(
    header: GGUFHeader, metadata: Mapping[str, Any], kind: str, factor: float, *, long: bool, original: int
) -> float | None:
    """What queries and keys are multiplied by."""
    given = metadata.get("scaling.attn_factor")
    if kind != "yarn":
        if long and given is None and header.architecture_metadata().get("context_length") != original:
            raise header.fault(
                "it has tables of rope factors and no rope.scaling.attn_factor, which scales attention",
                action=DIRECTORY,
            )
        return 1.0 if given is None else float(given)
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    total = metadata.get("scaling.yarn_attn_factor")
    if given is not None and not math.isclose(given, usual, rel_tol=1e-4):
        # llama.cpp multiplies the usual factor by it, and its converter writes the whole factor there.
        raise _refused(header, "rope.scaling.attn_factor", given)
    return usual if total is None else float(total)


def _table(rope: Rope, short: Factors, long: Factors) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": [float(value) for value in short],
        "long_factor": [float(value) for value in long],
        "attention_factor": 1.0 if rope.attention is None else rope.attention,
        "original_max_position_embeddings": rope.original,
    }


def _llama3(theta: float, dimensions: int, factors: Factors) -> dict[str, Any] | None:
    """Llama 3's parameters where they give these very factors, with its own edges of 1 and 4 turns.

    Between the edges 1/f = (1 - s)/F + s, with s = (L θ^(-2i/d) / 2π - 1) / 3: each factor there gives L.
    """
    # Factors are quotients of float32 numbers; the parameter was written with a few digits.
    largest = float(f"{factors.max():.5g}")
    between = (factors > 1.0 + ROUNDING) & (factors < largest * (1.0 - ROUNDING))
    if not between.any() or largest <= 1.0:
        return None
    plain = theta ** (-np.arange(0, dimensions, 2) / dimensions)
    smooth = (1 / factors[between] - 1 / largest) / (1 - 1 / largest)
    original = round(float(np.median((1 + 3 * smooth) * 2 * math.pi / plain[between])))
    turns = original * plain / (2 * math.pi)
    share = np.clip((turns - 1) / 3, 0, 1)
    if not np.allclose(1 / ((1 - share) / largest + share), factors, rtol=ROUNDING, atol=0):
        return None
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }


def _turning_pair(rope: Rope, dimensions: int, turns: float) -> float:
    """Which pair turns so often within the first context."""
    return dimensions * math.log(rope.original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))


def _refused(header: GGUFHeader, key: str, value: Any) -> Exception:
    return header.fault(
        f"{header.architecture}.{key} is {value}, which the model built of the file would not have",
        action=DIRECTORY,
    )
