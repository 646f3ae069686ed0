"""Layers of a decoder that keep little for their backward pass, and add gradients where they stand.

Each function here is one step of a Llama-like layer with its derivative written out. What is cheap to
compute again (normalised states, the gate's activation) is computed again rather than kept, which leaves less
than half of what automatic differentiation of the same formulas keeps. A weight's gradient is one matrix
product; inside `gradients_in_place` it is added to the gradient that stands rather than made beside it first.

Weights come with the copies that are computed with: the weights themselves, or the same in fewer bits
(`precision`). States between layers, norms and gradients of weights are in the weights' own precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from logratio.models.allocator import mapped_zeros
from logratio.models.precision import multiply

BLOCK = 1 << 18
"""Numbers of the memory that small tensors are cut from."""
_in_place = False


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, of which PyTorch says nothing to a type checker."""
    return function.apply(*arguments)


@contextmanager
def gradients_in_place() -> Iterator[None]:
    """Have backward passes in here add to the weights' `grad` at once, and not by way of the graph.

    The sums are those of `backward`. `torch.autograd.grad` finds no gradient of such a weight in here.
    """
    global _in_place
    before, _in_place = _in_place, True
    try:
        yield
    finally:
        _in_place = before


def weight_gradient(weight: Tensor, outer: Tensor, inner: Tensor) -> Tensor | None:
    """`outerᵀ inner` for a weight `[out, in]` from `[T, out]` and `[T, in]`; `None` where it was added."""
    if not (_in_place and weight.is_leaf):
        return multiply(outer.T, inner).to(weight.dtype)
    if weight.grad is None:
        weight.grad = multiply(outer.T, inner).to(weight.dtype)
    else:
        add_product(weight.grad, outer.T, inner)
    return None


class RowsGradient:
    """The gradient of a weight that is met some rows at a time.

    Args:
        weight: `[rows, in]`.
    """

    def __init__(self, weight: Tensor) -> None:
        standing = weight.grad if _in_place and weight.is_leaf else None
        self._stands = standing is not None
        self._whole = mapped_zeros(weight) if standing is None else standing
        self.returned: Tensor | None = None if self._stands else self._whole
        """What the graph is given: nothing where it was added to what stood."""
        if _in_place and weight.is_leaf and not self._stands:
            weight.grad, self.returned = self._whole, None

    def add(self, start: int, outer: Tensor, inner: Tensor) -> None:
        """Add `outer inner`, `[some rows, T]` and `[T, in]`, to the rows from `start` on; each row once."""
        rows = self._whole[start : start + len(outer)]
        if self._stands:
            add_product(rows, outer, inner)
        elif outer.dtype == rows.dtype:
            torch.mm(outer, inner, out=rows)
        else:
            rows.copy_(multiply(outer, inner))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left right` to `total`, which keeps its own precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(multiply(left, right))


def plus_product(states: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`states + left right`, in the precision of the states; the product by itself takes no memory."""
    if states.dtype == left.dtype:
        return torch.addmm(states, left, right)
    return states + multiply(left, right)


class Scratch:
    """Memory for what a step of a layer needs until it is done, taken once for all layers of a row.

    What is freed between tensors that are kept for the backward pass would leave holes that nothing fits.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, torch.dtype], Tensor] = {}
        self._block: Tensor | None = None

    def like(self, states: Tensor, place: int = 0) -> Tensor:
        """A tensor of the form of `states`, with no numbers yet; what was given from this place is gone."""
        return self.shaped(states.shape, states, place)

    def shaped(self, shape: Sequence[int], like: Tensor, place: int = 0) -> Tensor:
        """The same of a form of its own."""
        size = torch.Size(shape).numel()
        held = self._held.get((place, like.dtype))
        if held is None or held.numel() < size:
            held = self._held[place, like.dtype] = like.new_empty(size)
        return held[:size].view(torch.Size(shape))

    def small(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of some thousand numbers that is kept, cut from memory of its own.

        Between the large ones each would take the end of a hole, and what needed all of it another hole.
        """
        size = torch.Size(shape).numel()
        if self._block is None or self._block.dtype != like.dtype or len(self._block) < size:
            self._block = like.new_empty(max(size, BLOCK))
        kept, self._block = self._block[:size].view(torch.Size(shape)), self._block[size:]
        # Autograd counts what is written to a tensor: to this one, and not to the others of the block.
        return kept.data


class NormedProducts(torch.autograd.Function):
    """`[x̂ W₁ᵀ + b₁, x̂ W₂ᵀ + b₂, …]` of `x̂ = x / √(mean x² + ε) · scale` (RMSNorm, arXiv:1910.07467)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        scale: Tensor,
        epsilon: float,
        scratch: Scratch,
        copies: Sequence[Tensor],
        *weights: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """`[T, H]` to as many `[T, out]` as there are copies; `weights` are as many weights, then biases."""
        inverse = inverse_norm(states, epsilon, out=scratch.small((len(states), 1), states))
        normed = normalise(states, scale, inverse, out=scratch.like(states)).to(copies[0].dtype)
        ctx.save_for_backward(states, scale, inverse, *weights)
        ctx.copies, ctx.scratch = copies, scratch
        biases = weights[len(copies) :]
        return tuple(
            multiply(normed, copy.T) if bias is None else multiply(normed, copy.T).add_(bias)
            for copy, bias in zip(copies, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        """Gradients of states and scale, and of every weight and bias that is trained."""
        states, scale, inverse, *weights = ctx.saved_tensors
        normed = normalise(states, scale, inverse, out=ctx.scratch.like(states)).to(ctx.copies[0].dtype)
        count = len(ctx.copies)
        found = [
            weight_gradient(weight, one, normed) if wanted else None
            for weight, one, wanted in zip(weights[:count], outer, ctx.needs_input_grad[5:], strict=False)
        ]
        found += [
            one.sum(0).to(bias.dtype) if wanted else None
            for bias, one, wanted in zip(
                weights[count:], outer, ctx.needs_input_grad[5 + count :], strict=True
            )
        ]
        to_states, to_scale = normed_gradient(ctx, outer, states, scale, inverse)
        return (to_states, to_scale, None, None, None, *found)


class GatedUnit(torch.autograd.Function):
    """`x + (silu(x̂ Gᵀ) · x̂ Uᵀ) Dᵀ` with x̂ as in `NormedProducts` (SwiGLU, arXiv:2002.05202, equation 6)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        scale: Tensor,
        epsilon: float,
        scratch: Scratch,
        copies: Sequence[Tensor],
        *weights: Tensor,
    ) -> Tensor:
        """`[T, H]` to `[T, H]`; copies and weights are of gate, up and down."""
        gate_copy, up_copy, down_copy = copies
        inverse = inverse_norm(states, epsilon, out=scratch.small((len(states), 1), states))
        normed = normalise(states, scale, inverse, out=scratch.like(states)).to(gate_copy.dtype)
        gate, up = multiply(normed, gate_copy.T), multiply(normed, up_copy.T)
        ctx.save_for_backward(states, scale, inverse, gate, up, *weights)
        ctx.copies, ctx.scratch = copies, scratch
        active = torch.ops.aten.silu(gate, out=scratch.like(gate))
        return plus_product(states, active.mul_(up), down_copy.T)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        """Gradients of states and scale, and of every weight that is trained."""
        states, scale, inverse, gate, up, *weights = ctx.saved_tensors
        down_copy = ctx.copies[2]
        wanted = ctx.needs_input_grad[5:]
        inner = outer.to(down_copy.dtype)
        scratch = ctx.scratch
        active = torch.ops.aten.silu(gate, out=scratch.like(gate))
        other = scratch.like(up, 1)
        to_down = weight_gradient(weights[2], inner, torch.mul(active, up, out=other)) if wanted[2] else None
        to_hidden = multiply(inner, down_copy, out=other)
        to_up = active.mul_(to_hidden)
        to_gate = torch.ops.aten.silu_backward(to_hidden.mul_(up), gate, grad_input=other)
        normed = normalise(states, scale, inverse, out=scratch.like(states, 2)).to(down_copy.dtype)
        found = [
            weight_gradient(weight, one, normed) if trained else None
            for weight, one, trained in zip(weights[:2], (to_gate, to_up), wanted[:2], strict=True)
        ]
        to_states, to_scale = normed_gradient(ctx, (to_gate, to_up), states, scale, inverse)
        return (to_states.add_(outer), to_scale, None, None, None, *found, to_down)


class HeadNorm(torch.autograd.Function):
    """`x / √(mean x² + ε) · scale` of each head's numbers (RMSNorm, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, scale: Tensor, epsilon: float, scratch: Scratch) -> Tensor:
        """`[T, heads · D]` and `[D]` to `[T, heads · D]`."""
        heads = HeadNorm.by_head(states, scale)
        inverse = inverse_norm(heads, epsilon, out=scratch.small((len(heads), 1), heads))
        ctx.save_for_backward(states, scale, inverse)
        ctx.scratch = scratch
        found = torch.empty_like(states)
        found.view(heads.shape).copy_(normalise(heads, scale, inverse, out=scratch.like(heads)))
        return found

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        """Gradients of states and scale."""
        states, scale, inverse = ctx.saved_tensors
        heads = HeadNorm.by_head(states, scale)
        gradient = HeadNorm.by_head(outer[0], scale).clone()
        to_heads, to_scale = through_norm(
            *(gradient, heads, scale, inverse, ctx.scratch), scaled=ctx.needs_input_grad[1]
        )
        return to_heads.to(states.dtype).view_as(states), to_scale, None, None

    @staticmethod
    def by_head(states: Tensor, scale: Tensor) -> Tensor:
        """`[T · heads, D]`, in no fewer bits than the scale has."""
        return states.reshape(-1, len(scale)).to(torch.promote_types(states.dtype, scale.dtype))


class AddedProduct(torch.autograd.Function):
    """`x + y Wᵀ`."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, inner: Tensor, copy: Tensor, weight: Tensor) -> Tensor:
        """`[T, H]` and `[T, in]` to `[T, H]`."""
        ctx.save_for_backward(inner, weight)
        ctx.copy = copy
        return plus_product(states, inner, copy.T)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        """Gradients of all three tensors that have one."""
        inner, weight = ctx.saved_tensors
        narrow = outer.to(inner.dtype)
        to_weight = weight_gradient(weight, narrow, inner) if ctx.needs_input_grad[3] else None
        return outer, multiply(narrow, ctx.copy), None, to_weight


class Lookup(torch.autograd.Function):
    """Rows of a table of embeddings."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, places: Tensor) -> Tensor:
        """`[V, H]` and `[T]` to `[T, H]`."""
        ctx.save_for_backward(table, places)
        return table[places]

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        """Rows that were not read have no gradient; where one stands, the others are all that is touched."""
        table, places = ctx.saved_tensors
        if not (_in_place and table.is_leaf):
            return torch.zeros_like(table).index_add_(0, places, outer), None
        if table.grad is None:
            # A batch reads few of a vocabulary's rows, and what it does not read has no gradient.
            table.grad = mapped_zeros(table, sparse=True)
        table.grad.index_add_(0, places, outer)
        return None, None


# --- norms --------------------------------------------------------------------------------------------


def inverse_norm(states: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
    """`1 / √(mean x² + ε)`: `[T, 1]`, written to `out` where that is given."""
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True, out=out)
    return norm.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()


def normalise(states: Tensor, scale: Tensor, inverse: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`x · inverse · scale`: `[T, H]`, written to `out` where that is given."""
    return torch.mul(states, inverse, out=out).mul_(scale)


def normed_gradient(
    ctx: Any, outer: Sequence[Tensor], states: Tensor, scale: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of states and scale from those of several products of the normalised states.

    With `g = Σᵢ outerᵢ Wᵢ` and `u = x · inverse`: `∂scale = Σ_T g u`, `∂x = inverse (g s − u mean(g s u))`.
    """
    gradient = multiply(outer[0], ctx.copies[0]).to(states.dtype)
    for one, copy in zip(outer[1:], ctx.copies[1:], strict=False):
        add_product(gradient, one, copy)
    return through_norm(gradient, states, scale, inverse, ctx.scratch, scaled=ctx.needs_input_grad[1])


def through_norm(
    gradient: Tensor, states: Tensor, scale: Tensor, inverse: Tensor, scratch: Scratch, *, scaled: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of states and, where it is `scaled`, of the scale, from that of the normalised states."""
    unit = torch.mul(states, inverse, out=scratch.like(states, 2))
    other = scratch.like(states, 3)
    to_scale = torch.mul(gradient, unit, out=other).sum(0) if scaled else None
    gradient.mul_(scale)
    mean = torch.mul(gradient, unit, out=other).mean(-1, keepdim=True)
    return gradient.sub_(unit.mul_(mean)).mul_(inverse), to_scale
