"""Layers of a decoder that keep little for their backward pass, and may add gradients where they stand.

Each function here is one step of a Llama-like layer with its derivative written out. What is cheap to
compute again (normalised states, the gate's activation) is computed again rather than kept, which leaves less
than half of what automatic differentiation of the same formulas keeps. A weight's gradient is one matrix
product; with `accumulate_in_place` it is added to the gradient that stands rather than made beside it first.
The sums are those of `backward`, and `torch.autograd.grad` finds no gradient of such a weight.

Weights come with the copies that are computed with: the weights themselves, or the same in fewer bits
(`precision`). States between layers, norms and gradients of weights are in the weights' own precision.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from logratio.kernels.precision import multiply

BLOCK = 1 << 18
"""Numbers of the memory that small tensors are cut from."""


def apply_function(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, of which PyTorch says nothing to a type checker."""
    return function.apply(*arguments)


def is_accumulable(weight: Tensor) -> bool:
    """Whether adding to `weight.grad` is all that the graph would do: a plain leaf without hooks."""
    return (
        weight.is_leaf
        and type(weight) in (Tensor, nn.Parameter)
        and not weight._backward_hooks
        and not weight._post_accumulate_grad_hooks
    )


def weight_gradient(
    weight: Tensor, grad_output: Tensor, inner: Tensor, *, accumulate_in_place: bool
) -> Tensor | None:
    """`grad_outputᵀ inner` of a weight `[out, in]` from `[T, out]` and `[T, in]`; `None` if it was added."""
    if not (accumulate_in_place and is_accumulable(weight)):
        return multiply(grad_output.T, inner).to(weight.dtype)
    if weight.grad is None:
        weight.grad = multiply(grad_output.T, inner).to(weight.dtype)
    else:
        accumulate_matmul(weight.grad, grad_output.T, inner)
    return None


def mmap_zeros(like: Tensor, shape: tuple[int, ...] | None = None, *, sparse: bool = False) -> Tensor:
    """Zeros on a CPU in a mapping of their own, of which pages that are written to take memory.

    For what is large and stands at the peak of a step: a mapping fits where no hole of the heap does, and is
    gone when it is freed.

    Args:
        like: has the type of the numbers, and the device; elsewhere than on a CPU the zeros are plain.
        shape: their form, where it is not that of `like`.
        sparse: whether few pages will be written to. Otherwise they are asked for in large ones.
    """
    shape = tuple(like.shape) if shape is None else shape
    size = like.element_size() * torch.Size(shape).numel()
    if like.device.type != "cpu" or not size:
        return like.new_zeros(shape)
    # Private: of a mapping that could be shared, pages that are only read take memory too.
    pages = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    if not sparse and hasattr(mmap, "MADV_HUGEPAGE"):
        # Advice: a kernel built without large pages refuses it, and small ones do.
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    # A tensor of its own rather than a view, which could be taken for a part of a larger one.
    return torch.frombuffer(pages, dtype=like.dtype).view(shape).detach()


class ChunkedWeightGradient:
    """The gradient of a weight that is met some rows at a time.

    Args:
        weight: `[rows, in]`.
        accumulate_in_place: whether to add to its gradient, where it `is_accumulable`.
    """

    def __init__(self, weight: Tensor, *, accumulate_in_place: bool) -> None:
        in_place = accumulate_in_place and is_accumulable(weight)
        existing = weight.grad if in_place else None
        self._accumulates = existing is not None
        self._gradient = mmap_zeros(weight) if existing is None else existing
        self.returned: Tensor | None = None if self._accumulates else self._gradient
        """What the graph is given: nothing where it was added to what stood."""
        if in_place and not self._accumulates:
            weight.grad, self.returned = self._gradient, None

    def add(self, start: int, grad_output: Tensor, inner: Tensor) -> None:
        """Add `grad_output inner`, `[rows, T]` by `[T, in]`, to the rows from `start` on; each row once."""
        rows = self._gradient[start : start + len(grad_output)]
        if self._accumulates:
            accumulate_matmul(rows, grad_output, inner)
        elif grad_output.dtype == rows.dtype:
            torch.mm(grad_output, inner, out=rows)
        else:
            rows.copy_(multiply(grad_output, inner))


def accumulate_matmul(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left right` to `total`, which keeps its own precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(multiply(left, right))


def residual_matmul(states: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`states + left right`, in the precision of the states; the product by itself takes no memory."""
    if states.dtype == left.dtype:
        return torch.addmm(states, left, right)
    return states + multiply(left, right)


class Workspace:
    """Memory for what a step of a layer needs until it is done, taken once for all layers of a row.

    What is freed between tensors that are kept for the backward pass would leave holes that nothing fits.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, torch.dtype], Tensor] = {}
        self._block: Tensor | None = None

    def empty_like(self, states: Tensor, slot: int = 0) -> Tensor:
        """A tensor of the form of `states`, with no numbers yet; what was given from this place is gone."""
        return self.empty(states.shape, states, slot)

    def empty(self, shape: Sequence[int], like: Tensor, slot: int = 0) -> Tensor:
        """The same of a form of its own."""
        size = torch.Size(shape).numel()
        held = self._held.get((slot, like.dtype))
        if held is None or held.numel() < size:
            held = self._held[slot, like.dtype] = like.new_empty(size)
        return held[:size].view(torch.Size(shape))

    def empty_small(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of some thousand numbers that is kept, cut from memory of its own.

        Between the large ones each would take the end of a hole, and what needed all of it another hole.
        """
        size = torch.Size(shape).numel()
        if self._block is None or self._block.dtype != like.dtype or len(self._block) < size:
            self._block = like.new_empty(max(size, BLOCK))
        kept, self._block = self._block[:size].view(torch.Size(shape)), self._block[size:]
        # Autograd counts what is written to a tensor: to this one, and not to the others of the block.
        return kept.data


class RMSNormLinear(torch.autograd.Function):
    """`[x̂ W₁ᵀ + b₁, x̂ W₂ᵀ + b₂, …]` of `x̂ = x / √(mean x² + ε) · scale` (RMSNorm, arXiv:1910.07467)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        scale: Tensor,
        epsilon: float,
        workspace: Workspace,
        accumulate_in_place: bool,
        compute_weights: Sequence[Tensor],
        *weights: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """`[T, H]` to as many `[T, out]` as there are copies; `weights` are as many weights, then biases."""
        inverse = inverse_rms(states, epsilon, out=workspace.empty_small((len(states), 1), states))
        normed = normalise(states, scale, inverse, out=workspace.empty_like(states)).to(
            compute_weights[0].dtype
        )
        ctx.save_for_backward(states, scale, inverse, *compute_weights)
        # Not among what is saved: of a layer that is computed again that would be another tensor's gradient.
        ctx.weights, ctx.workspace, ctx.accumulate_in_place = weights, workspace, accumulate_in_place
        biases = weights[len(compute_weights) :]
        return tuple(
            multiply(normed, compute_weight.T)
            if bias is None
            else multiply(normed, compute_weight.T).add_(bias)
            for compute_weight, bias in zip(compute_weights, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor) -> tuple[Any, ...]:
        """Gradients of states and scale, and of every weight and bias that is trained."""
        states, scale, inverse, *compute_weights = ctx.saved_tensors
        normed = normalise(states, scale, inverse, out=ctx.workspace.empty_like(states)).to(
            compute_weights[0].dtype
        )
        count, wanted = len(compute_weights), ctx.needs_input_grad[6:]
        gradients = [
            weight_gradient(weight, grad, normed, accumulate_in_place=ctx.accumulate_in_place)
            if trained
            else None
            for weight, grad, trained in zip(ctx.weights[:count], grad_output, wanted[:count], strict=True)
        ]
        gradients += [
            grad.sum(0).to(bias.dtype) if trained else None
            for bias, grad, trained in zip(ctx.weights[count:], grad_output, wanted[count:], strict=True)
        ]
        to_states, to_scale = rmsnorm_linear_backward(
            ctx, grad_output, compute_weights, states, scale, inverse
        )
        return (to_states, to_scale, None, None, None, None, *gradients)


class SwiGLU(torch.autograd.Function):
    """`x + (silu(x̂ Gᵀ) · x̂ Uᵀ) Dᵀ` with x̂ as in `RMSNormLinear` (SwiGLU, arXiv:2002.05202, equation 6)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        scale: Tensor,
        epsilon: float,
        workspace: Workspace,
        accumulate_in_place: bool,
        compute_weights: Sequence[Tensor],
        *weights: Tensor,
    ) -> Tensor:
        """`[T, H]` to `[T, H]`; copies and weights are of gate, up and down."""
        gate_weight, up_weight, down_weight = compute_weights
        inverse = inverse_rms(states, epsilon, out=workspace.empty_small((len(states), 1), states))
        normed = normalise(states, scale, inverse, out=workspace.empty_like(states)).to(gate_weight.dtype)
        gate, up = multiply(normed, gate_weight.T), multiply(normed, up_weight.T)
        ctx.save_for_backward(states, scale, inverse, gate, up, *compute_weights)
        ctx.weights, ctx.workspace, ctx.accumulate_in_place = weights, workspace, accumulate_in_place
        activated = torch.ops.aten.silu(gate, out=workspace.empty_like(gate))
        return residual_matmul(states, activated.mul_(up), down_weight.T)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        """Gradients of states and scale, and of every weight that is trained."""
        states, scale, inverse, gate, up, *compute_weights = ctx.saved_tensors
        down_weight, weights, wanted = compute_weights[2], ctx.weights, ctx.needs_input_grad[6:]
        inner = grad_output.to(down_weight.dtype)
        workspace, in_place = ctx.workspace, {"accumulate_in_place": ctx.accumulate_in_place}
        activated = torch.ops.aten.silu(gate, out=workspace.empty_like(gate))
        other = workspace.empty_like(up, 1)
        to_down = (
            weight_gradient(weights[2], inner, torch.mul(activated, up, out=other), **in_place)
            if wanted[2]
            else None
        )
        to_hidden = multiply(inner, down_weight, out=other)
        to_up = activated.mul_(to_hidden)
        to_gate = torch.ops.aten.silu_backward(to_hidden.mul_(up), gate, grad_input=other)
        normed = normalise(states, scale, inverse, out=workspace.empty_like(states, 2)).to(down_weight.dtype)
        gradients = [
            weight_gradient(weight, grad, normed, **in_place) if trained else None
            for weight, grad, trained in zip(weights[:2], (to_gate, to_up), wanted[:2], strict=True)
        ]
        to_states, to_scale = rmsnorm_linear_backward(
            ctx, (to_gate, to_up), compute_weights[:2], states, scale, inverse
        )
        return (to_states.add_(grad_output), to_scale, None, None, None, None, *gradients, to_down)


class QKNorm(torch.autograd.Function):
    """`x / √(mean x² + ε) · scale` of each head's numbers (RMSNorm, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, scale: Tensor, epsilon: float, workspace: Workspace) -> Tensor:
        """`[T, heads · D]` and `[D]` to `[T, heads · D]`."""
        heads = QKNorm.by_head(states, scale)
        inverse = inverse_rms(heads, epsilon, out=workspace.empty_small((len(heads), 1), heads))
        ctx.save_for_backward(states, scale, inverse)
        ctx.workspace = workspace
        normed = torch.empty_like(states)
        normed.view(heads.shape).copy_(normalise(heads, scale, inverse, out=workspace.empty_like(heads)))
        return normed

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor) -> tuple[Any, ...]:
        """Gradients of states and scale."""
        states, scale, inverse = ctx.saved_tensors
        heads = QKNorm.by_head(states, scale)
        gradient = QKNorm.by_head(grad_output[0], scale).clone()
        to_heads, to_scale = rmsnorm_backward(
            *(gradient, heads, scale, inverse, ctx.workspace), scaled=ctx.needs_input_grad[1]
        )
        return to_heads.to(states.dtype).view_as(states), to_scale, None, None

    @staticmethod
    def by_head(states: Tensor, scale: Tensor) -> Tensor:
        """`[T · heads, D]`, in no fewer bits than the scale has."""
        return states.reshape(-1, len(scale)).to(torch.promote_types(states.dtype, scale.dtype))


class LinearResidual(torch.autograd.Function):
    """`x + y Wᵀ`."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        inner: Tensor,
        accumulate_in_place: bool,
        compute_weight: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """`[T, H]` and `[T, in]` to `[T, H]`."""
        ctx.save_for_backward(inner, compute_weight)
        ctx.weight, ctx.accumulate_in_place = weight, accumulate_in_place
        return residual_matmul(states, inner, compute_weight.T)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        """Gradients of all three tensors that have one."""
        inner, compute_weight = ctx.saved_tensors
        narrow = grad_output.to(inner.dtype)
        to_weight = (
            weight_gradient(ctx.weight, narrow, inner, accumulate_in_place=ctx.accumulate_in_place)
            if ctx.needs_input_grad[4]
            else None
        )
        return grad_output, multiply(narrow, compute_weight), None, None, to_weight


class EmbeddingLookup(torch.autograd.Function):
    """Rows of a table of embeddings."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, token_ids: Tensor, accumulate_in_place: bool) -> Tensor:
        """`[V, H]` and `[T]` to `[T, H]`."""
        ctx.save_for_backward(token_ids)
        ctx.table, ctx.accumulate_in_place = table, accumulate_in_place
        return table[token_ids]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        """Rows that were not read have no gradient; where one stands, the others are all that is touched."""
        table, (token_ids,) = ctx.table, ctx.saved_tensors
        if not (ctx.accumulate_in_place and is_accumulable(table)):
            return torch.zeros_like(table).index_add_(0, token_ids, grad_output), None, None
        if table.grad is None:
            # A batch reads few of a vocabulary's rows, and what it does not read has no gradient.
            table.grad = mmap_zeros(table, sparse=True)
        table.grad.index_add_(0, token_ids, grad_output)
        return None, None, None


# --- norms --------------------------------------------------------------------------------------------


def inverse_rms(states: Tensor, epsilon: float, *, out: Tensor | None = None) -> Tensor:
    """`1 / √(mean x² + ε)`: `[T, 1]`, written to `out` where that is given."""
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True, out=out)
    return norm.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()


def normalise(states: Tensor, scale: Tensor, inverse: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`x · inverse · scale`: `[T, H]`, written to `out` where that is given."""
    return torch.mul(states, inverse, out=out).mul_(scale)


def rmsnorm_linear_backward(
    ctx: Any,
    grad_output: Sequence[Tensor],
    compute_weights: Sequence[Tensor],
    states: Tensor,
    scale: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of states and scale from those of several products of the normalised states.

    With `g = Σᵢ outerᵢ Wᵢ` and `u = x · inverse`: `∂scale = Σ_T g u`, `∂x = inverse (g s − u mean(g s u))`.
    """
    gradient = multiply(grad_output[0], compute_weights[0]).to(states.dtype)
    for grad, compute_weight in zip(grad_output[1:], compute_weights[1:], strict=True):
        accumulate_matmul(gradient, grad, compute_weight)
    return rmsnorm_backward(gradient, states, scale, inverse, ctx.workspace, scaled=ctx.needs_input_grad[1])


def rmsnorm_backward(
    gradient: Tensor, states: Tensor, scale: Tensor, inverse: Tensor, workspace: Workspace, *, scaled: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of states and, where it is `scaled`, of the scale, from that of the normalised states."""
    unit = torch.mul(states, inverse, out=workspace.empty_like(states, 2))
    other = workspace.empty_like(states, 3)
    to_scale = torch.mul(gradient, unit, out=other).sum(0) if scaled else None
    gradient.mul_(scale)
    mean = torch.mul(gradient, unit, out=other).mean(-1, keepdim=True)
    return gradient.sub_(unit.mul_(mean)).mul_(inverse), to_scale
