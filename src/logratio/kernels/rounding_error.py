"""How far two computations of one number may lie apart, for nothing but rounding.

A token's log-probability is `x_y − logsumexp x` of logits that many rounded products lead to. With the unit
roundoff `u` of the products' precision it is rounded by a random amount of standard deviation

    σ = c·u,   u = 2⁻²⁴ (float32), 2⁻⁸ (bfloat16),

where `c` is how far the model's depth and the width of its logits carry a rounding: 12 in SmolLM2-135M.
`TOKEN_NOISE` has σ with c = 16 for bfloat16, and with room for a model that is 64 times as wide in float32,
whose rounding is too small to hide a fault even so. Where more is wanted than the usual, a model's own σ is
measured: `LanguagePolicy.rounding_noise`.

From it follows what two computations of the same tokens by products of other shapes may differ by. Each is σ
away from the exact value, so that

- their root mean square over N tokens is at most 2σ, as measured on N of them `2σ (1 + 6/√N)`;
- the largest of up to 10⁷ is at most 8 · 2σ (a normal number is farther out once in 10¹⁵);
- the sum over an answer's T tokens, whose roundings are independent, is at most 8 · 2σ√T, and where the
  order of the sum is not fixed `8·u₃₂·√T·|sum|` more (Higham and Mary, 2019, theorem 2.4,
  doi:10.1137/18M1226312);
- the mean of n losses that are added up in parts has a relative error of at most `8·u₃₂·√n`.

Rows that are packed alike go through products of the same shapes and come out equal to the last bit in any
precision; there σ is that of float32, which leaves room for sums that a device takes in any order.
`docs/computing.md` holds the limits beside what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from logratio.kernels.precision import Precision

TOKEN_NOISE: dict[Precision, float] = {"fp32": 2.0**-14, "bf16": 2.0**-4}
"""σ of a token's log-probability, in nats, by the precision of products."""
LARGEST_NOISE = 0.25
"""Nats a token from which on rounding alone moves ratios past the usual clip of PPO, 0.2."""
WIDE = 8.0
"""Standard deviations that no rounding reaches."""
SAME_ROWS_NOISE = 2.0**-18
"""σ of float32 without the room for wider models: where rows are packed alike a fault stands alone."""


def largest_difference(noise: float) -> float:
    """How far two log-probabilities of a token may lie apart, in nats."""
    return WIDE * 2.0 * noise


def mean_square_difference(noise: float, num_tokens: int) -> float:
    """How large the root mean square of such differences of `num_tokens` tokens may be, in nats."""
    return 2.0 * noise * (1.0 + 6.0 / math.sqrt(num_tokens))


def sum_difference(logprobs: Tensor, lengths: Tensor, *, noise: float, in_order: bool = False) -> Tensor:
    """How far two sums over the tokens of answers may lie apart: `[answers]` nats.

    Args:
        logprobs: `[answers]` the sums.
        lengths: `[answers]` tokens of each.
        noise: σ of a token, in nats.
        in_order: whether both are summed in the same order, as a CPU does.
    """
    wide = torch.promote_types(logprobs.dtype, torch.float32)
    unit = 0.0 if in_order else torch.finfo(wide).eps / 2.0
    roots = lengths.to(wide).sqrt()
    return WIDE * roots * (2.0 * noise + unit * logprobs.to(wide).abs())


def repeat_difference(read: Callable[[], Tensor]) -> Tensor:
    """How far the same rows come out apart when they are read again, with a graph and without.

    0 where a device computes the same numbers twice, as every processor that this was run on does.
    """
    with torch.no_grad():
        first, second = read(), read()
    with torch.enable_grad():
        differentiable = read().detach()
    return torch.maximum((first - second).abs(), (first - differentiable).abs())


@dataclass(frozen=True, slots=True)
class LogprobDifference:
    """How far two computations of the same tokens' log-probabilities lie apart, in nats."""

    largest: float
    """Of any token."""
    root_mean_square: float
    """Over the tokens."""
    num_tokens: int
    """How many there are."""

    @classmethod
    def of(cls, differences: Tensor) -> LogprobDifference:
        """From the differences of all tokens: `[N]`."""
        exact = differences.detach().cpu().double()
        return cls(float(exact.abs().max()), float(exact.square().mean().sqrt()), len(exact))

    def explained_by(self, noise: float) -> bool:
        """Whether a rounding of σ = `noise` explains it; NaN is explained by nothing."""
        limit = mean_square_difference(noise, self.num_tokens)
        return self.largest <= largest_difference(noise) and self.root_mean_square <= limit
