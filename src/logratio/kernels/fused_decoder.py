"""The body of a Llama-like model, whose layers compute packed rows by the functions of `fused_layers`.

transformers' modules stay what the model is: they are loaded, saved and trained, and each is called, so that
hooks, profilers, `fully_shard` and checkpointing see it. The class of a layer is replaced by a subclass that
computes a packed row in fewer and larger steps, and anything else as before. That is for models whose every
part is known here; others are computed by their own forward pass. Both give the same numbers up to rounding,
and `training.layout_check.select_layout` holds them against each other before every run. Inside of a layer no
module is called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import SiLUActivation

from logratio.kernels.fused_layers import (
    EmbeddingLookup,
    LinearResidual,
    QKNorm,
    RMSNormLinear,
    SwiGLU,
    Workspace,
    apply_function,
)
from logratio.kernels.packed_attention import SegmentAttention
from logratio.kernels.packing import PrefixSharedRow
from logratio.kernels.precision import ComputeWeights
from logratio.packed_rows import PackedRow

FAMILIES = {"Llama": "llama", "Mistral": "mistral", "Qwen2": "qwen2", "Qwen3": "qwen3", "SmolLM3": "smollm3"}
"""Models that are known here: what their classes' names begin with, and transformers' module of them."""
SUPPORTED_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose frequencies do not depend on the length of what is read."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A body with its weights, and the copies of them that are computed with."""

    body: Any
    """transformers' model without its head."""
    compute_weights: ComputeWeights
    """Weights in the precision of products."""
    recompute: bool = False
    """Whether a layer's activations are computed again in the backward pass, from its states alone."""
    accumulate_in_place: bool = False
    """Whether backward passes add to the weights' `grad` past the graph, where `is_accumulable`."""

    @classmethod
    def of(
        cls,
        body: Any,
        compute_weights: ComputeWeights,
        *,
        recompute: bool = False,
        accumulate_in_place: bool = False,
    ) -> Decoder | None:
        """The decoder of a body, whose layers are fused then, or `None` where a part is not known here."""
        if not is_supported(body):
            return None
        fuse(body)
        return cls(body, compute_weights, recompute, accumulate_in_place)

    @property
    def layers(self) -> list[Any]:
        """The layers that are computed."""
        return list(self.body.layers[: self.body.config.num_hidden_layers])

    def begin(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Embeddings `[T, H]` of tokens, and cosine and sine `[T, 1, D]` of the angles of their positions."""
        hidden = self.body.embed_tokens(tokens, accumulate_in_place=self.accumulate_in_place)
        # Between layers nothing is narrower than float32, whatever the weights are.
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        cosine, sine = self.body.rotary_emb(hidden, positions[None])
        return hidden, (cosine[0, :, None], sine[0, :, None])

    def hidden_states(self, row: PackedRow, indices: Tensor) -> Tensor:
        """`[N, H]` states behind a row's tokens at `indices`, differentiable."""
        compact = PrefixSharedRow.of(row.input_ids[0], row.position_ids[0], row.spans)
        hidden, angles = self.begin(compact.tokens, compact.positions)
        *layers, last = self.layers
        scale, workspace = last.self_attn.scaling, Workspace()
        attend = SegmentAttention(
            row.spans, scale=scale, like=hidden, prefix=compact.prefix, workspace=workspace
        )
        packed = PackedContext(self, angles, attend, workspace)
        for layer in layers:
            hidden = layer(hidden, packed=packed)
        return self.body.norm(last(hidden, packed=packed, indices=compact.map_indices(indices)))


@dataclass(frozen=True, slots=True)
class PackedContext:
    """What all layers compute one packed row with."""

    decoder: Decoder
    """How they compute."""
    angles: tuple[Tensor, Tensor]
    """Cosine and sine of the tokens' positions, `[T, 1, D]` each."""
    attend: SegmentAttention
    """Who sees whom."""
    workspace: Workspace
    """Memory that a layer leaves to the next."""


class FusedLayer(nn.Module):
    """What stands before the class of a decoder layer of transformers, and computes packed rows."""

    def forward(
        self,
        hidden_states: Tensor,
        *arguments: Any,
        packed: PackedContext | None = None,
        indices: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        """States `[T, H]` of a packed row to those behind the layer; of its tokens at `indices` alone.

        Without `packed`, the layer's own forward pass.
        """
        if packed is None:
            return super().forward(hidden_states, *arguments, **settings)
        # Not within what is computed again: by the backward pass another adapter may be in use.
        weights = weights_of(self)
        if packed.decoder.recompute and indices is None and torch.is_grad_enabled():
            return checkpoint(
                *(compute_layer, self, weights, hidden_states, packed),
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return compute_layer(self, weights, hidden_states, packed, indices)


class FusedLookup(nn.Module):
    """What stands before the class of embeddings, whose gradient then takes memory for what is read."""

    padding_idx: int | None
    weight: Tensor

    def forward(self, tokens: Tensor, *, accumulate_in_place: bool | None = None) -> Any:
        """Embeddings of tokens; without `accumulate_in_place` by the module's own forward pass."""
        # A padding token whose embedding is not trained is the module's own affair.
        if accumulate_in_place is None or self.padding_idx is not None:
            return super().forward(tokens)
        return apply_function(EmbeddingLookup, self.weight, tokens, accumulate_in_place)


# The compiler cannot follow derivatives that are written out: a compiled layer computes them as they are.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def compute_layer(
    layer: Any, weights: Sequence[Tensor], hidden: Tensor, packed: PackedContext, wanted: Tensor | None = None
) -> Tensor:
    """States `[T, H]` behind a layer, or `[N, H]` behind its `wanted` tokens alone."""
    attention, workspace = layer.self_attn, packed.workspace
    compute_weights = [packed.decoder.compute_weights.of(weight) for weight in weights]
    in_place, norm = packed.decoder.accumulate_in_place, layer.input_layernorm
    biases = [module.bias for module in linear_modules(layer)[:3]]
    shared = (workspace, in_place, compute_weights[:3])
    *queries_keys, values = apply_function(
        RMSNormLinear, hidden, norm.weight, epsilon(norm), *shared, *weights[:3], *biases
    )
    if norms := qk_norms(attention):
        queries_keys = [
            apply_function(QKNorm, states, norm.weight, epsilon(norm), workspace)
            for states, norm in zip(queries_keys, norms, strict=True)
        ]
    if uses_rope(attention):
        queries_keys = [apply_function(Rotation, states, *packed.angles) for states in queries_keys]
    attended = packed.attend(
        *(states.unflatten(-1, (-1, attention.head_dim)) for states in (*queries_keys, values))
    )
    if wanted is not None:
        hidden, attended = hidden[wanted], attended[wanted]
    hidden = apply_function(LinearResidual, hidden, attended, in_place, compute_weights[3], weights[3])
    norm, shared = layer.post_attention_layernorm, (workspace, in_place, compute_weights[4:])
    return apply_function(SwiGLU, hidden, norm.weight, epsilon(norm), *shared, *weights[4:])


class Rotation(torch.autograd.Function):
    """Rotary position embedding, `x cos θ + rotate(x) sin θ` (arXiv:2104.09864, equation 34), in place."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """`[T, heads · D]`, twice `[T, 1, D]`, to the same tensor."""
        ctx.angles = cosine, sine
        ctx.mark_dirty(states)
        rotate(states.view(len(states), -1, cosine.shape[-1]), cosine, sine)
        return states

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        """Rotated back."""
        cosine, sine = ctx.angles
        turned = outer.clone(memory_format=torch.contiguous_format)
        rotate(turned.view(len(turned), -1, cosine.shape[-1]), cosine, -sine)
        return turned, None, None


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn `[T, heads, D]` in place; the first half of a head's numbers and the second are axes of planes."""
    half = states.shape[-1] // 2
    wide = states.to(torch.promote_types(states.dtype, cosine.dtype))
    first, second = wide.split(half, dim=-1)
    cosine, sine = cosine[..., :half], sine[..., :half]
    moved = first * sine
    first.mul_(cosine).sub_(second * sine)
    second.mul_(cosine).add_(moved)
    return states if wide is states else states.copy_(wide)


def epsilon(norm: Any) -> float:
    """What an RMSNorm adds to the mean square."""
    return float((norm.eps or 0.0) if isinstance(norm, nn.RMSNorm) else norm.variance_epsilon)


def weights_of(layer: Any) -> list[Tensor]:
    """The weights that a layer computes with now: of queries, keys, values, output, gate, up and down."""
    return [weight_of(module) for module in linear_modules(layer)]


def qk_norms(attention: Any) -> tuple[Any, ...]:
    """The norms of each query's and each key's own numbers; none where an architecture has none."""
    return (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()


def uses_rope(attention: Any) -> bool:
    """Whether queries and keys are turned by their positions: in some layers of SmolLM 3 they are not."""
    return bool(getattr(attention, "use_rope", True))


# --- which models are known ---------------------------------------------------------------------------


def is_supported(body: Any) -> bool:
    """Whether every part of a body is one that `Decoder` computes."""
    if (family := _family(body)) is None or "forward" in vars(body):
        return False
    config, (layer_class, attention, mlp, norm) = body.config, family
    plain = (
        _computes_as(body.embed_tokens, nn.Embedding, FusedLookup)
        and config.rope_parameters.get("rope_type") in SUPPORTED_ROPE_TYPES
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attention_dropout", 0.0)
    )
    return plain and all(
        _computes_as(layer, layer_class, FusedLayer)
        and type(layer.self_attn) is attention
        and type(layer.mlp) is mlp
        and isinstance(layer.mlp.act_fn, (nn.SiLU, SiLUActivation))
        and {type(module) for module in _norms(layer)} <= {norm, nn.RMSNorm}
        and all(is_linear(module) for module in linear_modules(layer))
        and all(module.bias is None for module in linear_modules(layer)[3:])
        and not any("forward" in vars(module) for module in _parts(layer))
        for layer in body.layers
    )


def fuse(body: Any) -> None:
    """Have the layers of a supported body compute packed rows; what else they compute stays as it is."""
    modules: list[nn.Module] = [body.embed_tokens, *body.layers]
    for module, fused in zip(modules, [FusedLookup, *[FusedLayer] * len(body.layers)], strict=True):
        if not isinstance(module, fused):
            module.__class__ = fused_class(fused, type(module))


@cache
def fused_class(fused: type[nn.Module], module_class: type[nn.Module]) -> type[nn.Module]:
    """The class of a module with what is fused before it."""
    return type(f"Fused{module_class.__name__}", (fused, module_class), {"__module__": __name__})


def __getattr__(name: str) -> type[nn.Module]:
    """The fused classes by their names, as a pickled model names them."""
    if name == "FusedEmbedding":
        return fused_class(FusedLookup, nn.Embedding)
    for family in FAMILIES:
        if name == f"Fused{family}DecoderLayer":
            module = import_module(_module_of(family))
            return fused_class(FusedLayer, getattr(module, f"{family}DecoderLayer"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _module_of(family: str) -> str:
    return "transformers.models.{0}.modeling_{0}".format(FAMILIES[family])


def _family(body: Any) -> tuple[type[nn.Module], ...] | None:
    """The classes of a known body's layers, attention, gated unit and norms; its module is imported."""
    family = type(body).__name__.removesuffix("Model")
    if family not in FAMILIES or type(body).__module__ != _module_of(family):
        return None
    module = sys.modules[_module_of(family)]
    return tuple(
        getattr(module, f"{family}{part}") for part in ("DecoderLayer", "Attention", "MLP", "RMSNorm")
    )


def _computes_as(module: nn.Module, known: type[nn.Module], fused: type[nn.Module]) -> bool:
    """Whether a module's forward pass is that of a known class, also under one that `fully_shard` made."""
    forward = unwrap(type(module).forward)
    return "forward" not in vars(module) and forward in (unwrap(known.forward), fused.forward)


def _parts(layer: Any) -> list[Any]:
    return [layer.self_attn, layer.mlp, *_norms(layer), *linear_modules(layer)]


def _norms(layer: Any) -> list[Any]:
    return [layer.input_layernorm, layer.post_attention_layernorm, *qk_norms(layer.self_attn)]


def linear_modules(layer: Any) -> list[Any]:
    """The projections of a layer to queries, keys, values, output, gate, up and down."""
    attention, mlp = layer.self_attn, layer.mlp
    products = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*products, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def is_linear(module: Any) -> bool:
    """Whether a module computes a product with `weight_of` it, and a bias, and nothing else."""
    if not type(module).__module__.startswith("peft."):
        return type(module) is nn.Linear
    from peft.tuners.lora.layer import Linear

    return (
        type(module) is Linear
        and type(module.get_base_layer()) is nn.Linear
        and not (module.merged or module.fan_in_fan_out or module.lora_variant)
        and not any(module.lora_bias.values())
        and all(type(dropout) is nn.Identity for dropout in module.lora_dropout.values())
        and all(low.weight.dtype == module.weight.dtype for low in module.lora_A.values())
        and (module.disable_adapters or len(module.active_adapters) == 1)
    )


def weight_of(linear: Any) -> Tensor:
    """`W`, or `W + (α/r)·B·A` of the adapter in use, differentiable in whatever of these is trained."""
    if type(linear) is nn.Linear:
        return linear.weight
    base: Tensor = linear.get_base_layer().weight
    if linear.disable_adapters or (name := linear.active_adapters[0]) not in linear.lora_A:
        return base
    down, up = linear.lora_A[name].weight, linear.lora_B[name].weight
    return torch.addmm(base, up, down, alpha=linear.scaling[name])
