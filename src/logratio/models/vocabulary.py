"""Log-probabilities of given tokens without ever holding `[tokens, vocabulary]`.

`log p(y) = h·w_y − logsumexp_v h·w_v`. The vocabulary is walked through in chunks, forward and backward, so
that one `[chunk, tokens]` tile stands at a time; the gradient is formed in that tile's own memory:
`∂ log p / ∂ logits = onehot(y) − softmax`. The words lie along a tile's first axis, because processors
multiply the large weight by the few states faster that way round, up to twice for a hundred tokens.

Tiles are computed a second time for the gradient, but for the first of them, which are kept as far as a fixed
number of bytes goes: what stands does not grow with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from logratio.models.allocator import mapped_zeros
from logratio.models.precision import ALIGNMENT, Copies, multiply
from logratio.models.products import RowsGradient, Scratch, add_product

CHUNK = 2048
"""Words of the vocabulary at a time: a tile of some hundred tokens stays in a processor's cache."""
KEPT_BYTES = 64 << 20
"""Of tiles that are kept for the gradient rather than computed again."""


class Tiles:
    """Logits `[words, N]` chunk by chunk of the vocabulary; the first are kept for the second walk.

    Args:
        copy: `[V, H]` what is multiplied with.
        states: `[N, H]` in the same precision.
        dtype: in which the logits are given.
        chunk: words at a time.
        kept_bytes: of tiles that are kept.
    """

    def __init__(
        self, copy: Tensor, states: Tensor, *, dtype: torch.dtype, chunk: int, kept_bytes: int
    ) -> None:
        self.copy, self.states, self.dtype, self.chunk = copy, states, dtype, chunk
        self._room, self._scratch = kept_bytes, Scratch()
        self._kept: dict[int, Tensor] = {}

    def first(self) -> Iterator[tuple[int, Tensor]]:
        """Where each chunk begins, with its logits, which must stay as they are."""
        for start in range(0, len(self.copy), self.chunk):
            if size := self._room_for(start):
                self._room -= size
                self._kept[start] = tile = self._at(start, kept=True)
            else:
                tile = self._at(start)
            yield start, tile

    def again(self) -> Iterator[tuple[int, Tensor]]:
        """The same logits, in tiles that may be written over."""
        for start in range(0, len(self.copy), self.chunk):
            # A tile that has been written over is computed anew by whoever comes a third time.
            kept = self._kept.pop(start, None)
            yield start, self._at(start) if kept is None else kept
        # The graph, which holds this, lasts until the layers below have their gradients.
        self._scratch = Scratch()

    def less(self, tile: Tensor, number: Tensor) -> Tensor:
        """`tile − number`, in memory that the next tile takes."""
        return torch.sub(tile, number, out=self._scratch.like(tile))

    def logsumexp(self, tile: Tensor) -> Tensor:
        """`[N]` of a tile's words."""
        largest = tile.amax(dim=0)
        return self.less(tile, largest).exp_().sum(dim=0).log_().add_(largest)

    def _room_for(self, start: int) -> int:
        """Bytes of a tile, or 0 where there is no room to keep it."""
        words = min(self.chunk, len(self.copy) - start)
        size = words * len(self.states) * self.dtype.itemsize
        return size if size <= self._room else 0

    def _at(self, start: int, *, kept: bool = False) -> Tensor:
        words = self.copy[start : start + self.chunk]
        if self.dtype != words.dtype:
            return multiply(words, self.states.T).to(self.dtype)
        shape = (len(words), len(self.states))
        # Kept ones are freed one by one as the gradient of as many words takes their place, not to the heap.
        place = mapped_zeros(words, shape) if kept else self._scratch.shaped(shape, words, 1)
        return multiply(words, self.states.T, out=place)


class TokenLogprobs(torch.autograd.Function):
    """`log_softmax(hidden @ weightᵀ)[targets]`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tiles: Tiles, targets: Tensor) -> Tensor:
        """`[N, H]`, `[V, H]`, `[N]` to `[N]`, in float32 at least."""
        rows = torch.arange(len(targets), device=targets.device)
        chosen = torch.empty(len(targets), dtype=tiles.dtype, device=hidden.device)
        total = torch.full_like(chosen, -torch.inf)
        for start, tile in tiles.first():
            total = torch.logaddexp(total, tiles.logsumexp(tile))
            inside = (targets >= start) & (targets < start + len(tile))
            chosen[inside] = tile[targets[inside] - start, rows[inside]]
        ctx.save_for_backward(weight, targets, total)
        ctx.tiles = tiles
        return chosen - total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for `hidden` and `weight`; what is not asked for is not computed."""
        weight, targets, total = ctx.saved_tensors
        return (*head_gradients(ctx, weight, targets, total, of_logprob=outer[0]), None, None)


class TokenLogprobsAndEntropy(torch.autograd.Function):
    """Both from one walk through the vocabulary: `H = logsumexp − Σ_v p_v x_v` of the logits x."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tiles: Tiles, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[N, H]`, `[V, H]`, `[N]` to two of `[N]`, in float32 at least."""
        rows = torch.arange(len(targets), device=targets.device)
        chosen = torch.empty(len(targets), dtype=tiles.dtype, device=hidden.device)
        total, mean = torch.full_like(chosen, -torch.inf), torch.zeros_like(chosen)
        for start, tile in tiles.first():
            inside = (targets >= start) & (targets < start + len(tile))
            chosen[inside] = tile[targets[inside] - start, rows[inside]]
            part = tiles.logsumexp(tile)
            part_mean = tiles.less(tile, part).exp_().mul_(tile).sum(dim=0)
            larger = torch.logaddexp(total, part)
            # The mean logit so far, weighed by the shares of what was walked through and of this tile.
            mean = mean * (total - larger).exp() + part_mean * (part - larger).exp()
            total = larger
        ctx.save_for_backward(weight, targets, total, mean)
        ctx.tiles = tiles
        # An entropy that is only looked at has no gradient, rather than one of zeros to be computed with.
        ctx.set_materialize_grads(False)
        return chosen - total, total - mean

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor | None, ...]:
        """`∂ log p/∂x = onehot − p` and `∂H/∂x = −p (x − Σ p x)`."""
        weight, targets, total, mean = ctx.saved_tensors
        of_logprob, of_entropy = outer
        if of_logprob is None:
            of_logprob = torch.zeros_like(total)
        bend = None if of_entropy is None else (of_entropy, mean)
        found = head_gradients(ctx, weight, targets, total, of_logprob=of_logprob, bend=bend)
        return (*found, None, None)


def head_gradients(
    ctx: Any,
    weight: Tensor,
    targets: Tensor,
    total: Tensor,
    *,
    of_logprob: Tensor,
    bend: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients for `hidden` and `weight`, chunk by chunk of the vocabulary.

    Args:
        ctx: says which are wanted, and has the logits.
        weight: `[V, H]`.
        targets: `[N]`.
        total: `[N]` logsumexp of the logits.
        of_logprob: `[N]` gradient of each log-probability.
        bend: `[N]` gradient of each entropy, and the mean logit; `None`: no entropy has a gradient.
    """
    to_hidden, to_weight = ctx.needs_input_grad[:2]
    copy, narrow = ctx.tiles.copy, ctx.tiles.states
    hidden_gradient = total.new_zeros(narrow.shape[::-1]) if to_hidden else None
    weight_gradient = RowsGradient(weight) if to_weight else None
    rows = torch.arange(len(targets), device=targets.device)
    for start, tile in ctx.tiles.again():
        words = copy[start : start + len(tile)]
        slope = of_logprob if bend is None else ctx.tiles.less(tile, bend[1]).mul_(bend[0]).add_(of_logprob)
        tile.sub_(total).exp_().mul_(-slope)
        inside = (targets >= start) & (targets < start + len(words))
        tile[targets[inside] - start, rows[inside]] += of_logprob[inside]
        tile = tile.to(words.dtype)
        if hidden_gradient is not None:
            add_product(hidden_gradient, words.T, tile)
        if weight_gradient is not None:
            weight_gradient.add(start, tile, narrow)
    return (
        None if hidden_gradient is None else hidden_gradient.T,
        None if weight_gradient is None else weight_gradient.returned,
    )


def token_logprobs_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK, copies: Copies | None = None
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` with the entropy of each distribution, `[N]` nats each, both differentiable."""
    states, words = aligned(hidden, targets)
    logprobs, entropy = TokenLogprobsAndEntropy.apply(  # type: ignore[no-untyped-call]
        states, weight, tiles_of(states, weight, chunk, copies), words
    )
    return logprobs[: len(targets)], entropy[: len(targets)]


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int = CHUNK, copies: Copies | None = None
) -> Tensor:
    """Log-probability of each target under a linear head.

    Args:
        hidden: `[N, H]` states that predict the targets.
        weight: `[V, H]` the head.
        targets: `[N]` token ids below `V`.
        chunk: words of the vocabulary at a time.
        copies: what is multiplied with in the place of the head; without it, the head.

    Returns:
        `[N]` nats, in float32 or wider, differentiable with respect to `hidden` and `weight`.
    """
    states, words = aligned(hidden, targets)
    logprobs: Tensor = TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        states, weight, tiles_of(states, weight, chunk, copies), words
    )
    return logprobs[: len(targets)]


def tiles_of(hidden: Tensor, weight: Tensor, chunk: int, copies: Copies | None) -> Tiles:
    """The logits of `[N, H]` states under a head `[V, H]`, kept where a gradient may be asked for."""
    copy = (copies or Copies()).of(weight)
    return Tiles(
        copy,
        hidden.detach().to(copy.dtype),
        dtype=torch.promote_types(hidden.dtype, torch.float32),
        chunk=chunk,
        kept_bytes=KEPT_BYTES if torch.is_grad_enabled() else 0,
    )


def aligned(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """States and targets with empty tokens behind them, up to a multiple of `ALIGNMENT`."""
    extra = -len(targets) % ALIGNMENT
    pad = torch.nn.functional.pad
    return (pad(hidden, (0, 0, 0, extra)), pad(targets, (0, extra))) if extra else (hidden, targets)
