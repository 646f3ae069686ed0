"""The body of a Llama-like model, computed by the functions of `fused_layers` on the model's own weights.

transformers' modules stay what the model is: they are loaded, saved and trained. This is another way to
compute what their forward pass computes, for a packed row, in fewer and larger steps. It is for models whose
every part is known here; others are computed by their own forward pass. Both give the same numbers up to
rounding, and `training.layout_check.select_layout` holds them against each other before every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaModel, MistralModel, Qwen2Model, Qwen3Model, SmolLM3Model
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3MLP, Qwen3RMSNorm
from transformers.models.smollm3.modeling_smollm3 import SmolLM3Attention, SmolLM3MLP, SmolLM3RMSNorm

from logratio.kernels.fused_layers import (
    EmbeddingLookup,
    LinearResidual,
    QKNorm,
    RMSNormLinear,
    SwiGLU,
    Workspace,
    apply_function,
    inverse_rms,
    normalise,
)
from logratio.kernels.packed_attention import SegmentAttention
from logratio.kernels.precision import ComputeWeights, small_batch_matmul
from logratio.kernels.shared_prefix import PrefixSharedRow
from logratio.models.lora import is_linear, weight_of
from logratio.packed_rows import PackedRow

SUPPORTED_LAYERS = {
    LlamaModel: (LlamaAttention, LlamaMLP, LlamaRMSNorm),
    MistralModel: (MistralAttention, MistralMLP, MistralRMSNorm),
    Qwen2Model: (Qwen2Attention, Qwen2MLP, Qwen2RMSNorm),
    Qwen3Model: (Qwen3Attention, Qwen3MLP, Qwen3RMSNorm),
    SmolLM3Model: (SmolLM3Attention, SmolLM3MLP, SmolLM3RMSNorm),
}
"""Models that are known here, with what their layers are made of."""
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

    @classmethod
    def of(cls, body: Any, compute_weights: ComputeWeights, *, recompute: bool = False) -> Decoder | None:
        """The decoder of a body, or `None` where a part of it is not known here."""
        return cls(body, compute_weights, recompute) if is_supported(body) else None

    @property
    def layers(self) -> list[Any]:
        """The layers that are computed."""
        return list(self.body.layers[: self.body.config.num_hidden_layers])

    def begin(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Embeddings `[T, H]` of tokens, and cosine and sine `[T, 1, D]` of the angles of their positions."""
        embeddings = self.body.embed_tokens
        # A padding token whose embedding is not trained is the module's own affair.
        still = embeddings.padding_idx is not None
        hidden = embeddings(tokens) if still else apply_function(EmbeddingLookup, embeddings.weight, tokens)
        # Between layers nothing is narrower than float32, whatever the weights are.
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        cosine, sine = self.body.rotary_emb(hidden, positions[None])
        return hidden, (cosine[0, :, None], sine[0, :, None])

    def hidden_states(self, row: PackedRow, indices: Tensor) -> Tensor:
        """`[N, H]` states behind a row's tokens at `indices`, differentiable."""
        compact = PrefixSharedRow.of(row.input_ids[0], row.position_ids[0], row.spans)
        hidden, angles = self.begin(compact.tokens, compact.positions)
        scale = self.layers[0].self_attn.scaling
        workspace = Workspace()
        attend = SegmentAttention(
            row.spans, scale=scale, like=hidden, prefix=compact.prefix, workspace=workspace
        )
        common = (angles, attend, workspace)
        *layers, last = self.layers
        for layer in layers:
            # Not within what is computed again: by the backward pass another adapter may be in use.
            arguments = (layer, weights_of(layer), hidden, *common)
            if self.recompute and torch.is_grad_enabled():
                hidden = checkpoint(self._layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = self._layer(*arguments)
        hidden = self._layer(last, weights_of(last), hidden, *common, wanted=compact.map_indices(indices))
        return self.body.norm(hidden)

    def _layer(
        self,
        layer: Any,
        weights: Sequence[Tensor],
        hidden: Tensor,
        angles: tuple[Tensor, Tensor],
        attend: SegmentAttention,
        workspace: Workspace,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """States `[t, H]` behind a layer, or `[N, H]` behind its `wanted` tokens alone."""
        attention, output = layer.self_attn, weights[3]
        *queries_keys, values = self._normed_products(hidden, layer, weights[:3], workspace)
        if norms := qk_norms(attention):
            queries_keys = [
                apply_function(QKNorm, states, norm.weight, epsilon(norm), workspace)
                for states, norm in zip(queries_keys, norms, strict=True)
            ]
        if uses_rope(attention):
            queries_keys = [apply_function(Rotation, states, *angles) for states in queries_keys]
        attended = attend(
            *(states.unflatten(-1, (-1, attention.head_dim)) for states in (*queries_keys, values))
        )
        if wanted is not None:
            hidden, attended = hidden[wanted], attended[wanted]
        hidden = apply_function(LinearResidual, hidden, attended, self.compute_weights.of(output), output)
        norm, mlp = layer.post_attention_layernorm, weights[4:]
        compute_weights = [self.compute_weights.of(weight) for weight in mlp]
        return apply_function(SwiGLU, hidden, norm.weight, epsilon(norm), workspace, compute_weights, *mlp)

    def _normed_products(
        self, hidden: Tensor, layer: Any, weights: Sequence[Tensor], workspace: Workspace
    ) -> tuple[Tensor, ...]:
        norm, compute_weights = layer.input_layernorm, [self.compute_weights.of(weight) for weight in weights]
        biases = [module.bias for module in _linear(layer)[:3]]
        return apply_function(
            RMSNormLinear, hidden, norm.weight, epsilon(norm), workspace, compute_weights, *weights, *biases
        )


@dataclass(frozen=True, slots=True)
class MergedQKVLayer:
    """A layer to be computed without gradient: what is multiplied with the same states is one matrix."""

    layer: Any
    """transformers' layer, of which norms are read."""
    qkv: Tensor
    """Projections to queries, keys and values, one under the other."""
    qkv_bias: Tensor | None
    """Their biases."""
    output: Tensor
    """From what was attended to."""
    gate_up: Tensor
    """Gate and up, one under the other."""
    down: Tensor
    """Back to the states' width."""

    @classmethod
    def of(cls, layer: Any, compute_weights: ComputeWeights) -> MergedQKVLayer:
        """Join a layer's weights as they are now."""
        biases = [module.bias.detach() for module in _linear(layer)[:3] if module.bias is not None]
        weights = [compute_weights.widened(weight) for weight in weights_of(layer)]
        return cls(
            layer=layer,
            qkv=torch.cat(weights[:3]),
            qkv_bias=torch.cat(biases) if biases else None,
            output=weights[3],
            gate_up=torch.cat(weights[4:6]),
            down=weights[6],
        )

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return int(self.layer.self_attn.k_proj.out_features // self.head_width)

    @property
    def head_width(self) -> int:
        """Numbers of a head."""
        return int(self.layer.self_attn.head_dim)

    @property
    def scaling(self) -> float:
        """What a query's product with a key is multiplied by."""
        return float(self.layer.self_attn.scaling)

    def project_qkv(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[T, heads, D]`, keys and values `[T, key heads, D]`, turned to their positions."""
        qkv = small_batch_matmul(self.qkv, self._normed(hidden, self.layer.input_layernorm))
        if self.qkv_bias is not None:
            qkv += self.qkv_bias
        heads = qkv.reshape(len(hidden), -1, self.head_width)
        queries_keys, values = heads[:, : -self.key_heads], heads[:, -self.key_heads :]
        query, key = queries_keys[:, : -self.key_heads], queries_keys[:, -self.key_heads :]
        for states, norm in zip((query, key), qk_norms(self.layer.self_attn), strict=False):
            wide = states.to(torch.promote_types(states.dtype, norm.weight.dtype))
            states.copy_(normalise(wide, norm.weight, inverse_rms(wide, epsilon(norm))))
        if uses_rope(self.layer.self_attn):
            rotate(queries_keys, cosine, sine)
        return query, key, values

    def after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The states `[T, H]` behind the layer, from those before it and what was attended to."""
        hidden = hidden + small_batch_matmul(self.output, attended.to(self.output.dtype))
        normed = self._normed(hidden, self.layer.post_attention_layernorm)
        gate, up = small_batch_matmul(self.gate_up, normed).chunk(2, dim=-1)
        return hidden + small_batch_matmul(self.down, torch.nn.functional.silu(gate).mul_(up))

    def _normed(self, hidden: Tensor, norm: Any) -> Tensor:
        inverse = inverse_rms(hidden, epsilon(norm))
        return normalise(hidden, norm.weight, inverse).to(self.qkv.dtype)


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
    return [weight_of(module) for module in _linear(layer)]


def qk_norms(attention: Any) -> tuple[Any, ...]:
    """The norms of each query's and each key's own numbers; none where an architecture has none."""
    return (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()


def uses_rope(attention: Any) -> bool:
    """Whether queries and keys are turned by their positions: in some layers of SmolLM 3 they are not."""
    return bool(getattr(attention, "use_rope", True))


def is_supported(body: Any) -> bool:
    """Whether every part of a body is one that `Decoder` computes."""
    if type(body) not in SUPPORTED_LAYERS or "forward" in vars(body):
        return False
    attention, mlp, norm = SUPPORTED_LAYERS[type(body)]
    config = body.config
    plain = (
        type(body.embed_tokens) is nn.Embedding
        and config.rope_parameters.get("rope_type") in SUPPORTED_ROPE_TYPES
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attention_dropout", 0.0)
    )
    return plain and all(
        type(layer.self_attn) is attention
        and type(layer.mlp) is mlp
        and isinstance(layer.mlp.act_fn, (nn.SiLU, SiLUActivation))
        and {type(module) for module in _norms(layer)} <= {norm, nn.RMSNorm}
        and all(is_linear(module) for module in _linear(layer))
        and all(module.bias is None for module in _linear(layer)[3:])
        for layer in body.layers
    )


def _norms(layer: Any) -> list[Any]:
    return [layer.input_layernorm, layer.post_attention_layernorm, *qk_norms(layer.self_attn)]


def _linear(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    products = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*products, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
