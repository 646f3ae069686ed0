"""A decoder layer for sampling, without gradient: projections of the same states are one matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logratio.kernels.fused_decoder import epsilon, linear_modules, qk_norms, rotate, uses_rope, weights_of
from logratio.kernels.fused_layers import inverse_rms, normalise
from logratio.kernels.precision import ComputeWeights, small_batch_matmul


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
        biases = [module.bias.detach() for module in linear_modules(layer)[:3] if module.bias is not None]
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
