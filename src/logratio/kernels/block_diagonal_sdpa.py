"""Attention that computes a packed row group by group rather than all tokens against all.

The mask of a packed row is zero off its diagonal blocks. `scaled_dot_product_attention` computes those zeros
like anything else, which at four groups to a row is three quarters of its work. Here the row is cut where its
groups meet and each block is attended to by itself: the same sums over the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from logratio.kernels.packed_attention import group_mask
from logratio.packed_rows import PackedRow, Span

NAME = "logratio_segments"
BLOCKS = "logratio_blocks"
"""Attribute of a row's mask that holds the masks of its blocks: it goes wherever a model hands the mask."""


def packed_inputs(row: PackedRow) -> dict[str, Tensor]:
    """What a model's own forward pass is told of a packed row beside its tokens; nothing of a plain one.

    The mask `[1, 1, T, T]` is formed here, where something reads it: fused layers have no use for it.
    """
    if not row.spans:
        return {}
    mask = segment_mask(row.spans, row.input_ids.shape[1]).to(row.input_ids.device)
    blocks = attach_mask_blocks(mask, [span.num_tokens for span in row.spans])
    return {"position_ids": row.position_ids, "attention_mask": blocks}


def segment_mask(spans: Sequence[Span], num_tokens: int) -> Tensor:
    """`[1, 1, T, T]`: true where a token sees another: prompt and answer before it, and itself."""
    mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for span in spans:
        mask[span.start : span.start + span.num_tokens, span.start : span.start + span.num_tokens] = (
            group_mask(span)
        )
    return mask[None, None]


def attach_mask_blocks(mask: Tensor, lengths: Sequence[int]) -> Tensor:
    """`[1, 1, T, T]` mask that remembers its diagonal blocks, of `lengths` tokens one after another."""
    blocks, start = [], 0
    for length in lengths:
        blocks.append(mask[..., start : start + length, start : start + length].contiguous())
        start += length
    setattr(mask, BLOCKS, blocks)
    return mask


def use_block_attention(model: Any) -> None:
    """Let `model` use the blocks of masks that have them; others are attended to as before.

    Models that do not attend by `scaled_dot_product_attention` through transformers' table of attention
    functions are left as they are, and use the whole mask.
    """
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    # The table is transformers' own and global: what is registered is this module's function, also after the
    # module has been imported anew.
    AttentionInterface.register(NAME, attention_by_block)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attention_by_block(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Transformers' own attention function, for each block of the mask where it has blocks.

    Args:
        module: the attention layer.
        query: `[1, heads, T, D]`.
        key: `[1, key heads, T, D]`.
        value: the same.
        attention_mask: `[1, 1, T, T]`, with or without blocks, or as the model made it.
        settings: the layer's own, such as its scale.

    Returns:
        `[1, T, heads, D]`, and nothing in the place of the weights.
    """
    blocks = getattr(attention_mask, BLOCKS, [])
    if len(blocks) < 2 or settings.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    lengths = [block.shape[-1] for block in blocks]
    # `split` joins the gradients of its parts once; slices would each fill a whole tensor with zeros.
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), blocks, strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, **settings)[0] for part in parts], dim=1), None
