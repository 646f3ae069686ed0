"""The shape of the largest importance weights: whether an estimate built on them can be believed at all."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_TAIL = 5
"""Weights that a tail needs before anything is said of its shape."""


def pareto_k(log_weights: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """The shape k̂ of the generalised Pareto distribution that the largest weights follow.

    The `min(n/5, 3√n)` largest weights, less the largest below them, are fitted by the posterior mean of
    Zhang and Stephens (2009), drawn a little to ½ for small tails (Vehtari et al., 2024, arXiv:1507.02646,
    appendix). Weights with shape k have moments up to 1/k: below 0.5 the estimate has a variance, above
    `min(1 − 1/log10 n, 0.7)` it is not to be trusted. Answers that were sampled more than once have equal
    weights: those that equal the threshold are no excess over it and are left out.

    Args:
        log_weights: log w of the samples.

    Returns:
        A scalar. −inf where the largest weights are all equal but for rounding: they have no tail. inf where
        the samples cannot tell: too few of them, no weight above 0, or one that is not a number.
    """
    count = len(log_weights)
    tail = math.ceil(min(count / 5, 3 * math.sqrt(count)))
    if tail < LEAST_TAIL:
        return log_weights.new_tensor(torch.inf)
    weights = (log_weights.double() - log_weights.double().max()).exp().sort().values
    excess = weights[-tail:] - weights[-tail - 1]
    if bool(excess[-1] <= 10 * torch.finfo(log_weights.dtype).eps):
        return log_weights.new_tensor(-torch.inf)
    # Neither what equals the threshold is above it, nor what is not a number.
    excess = excess[excess > 0]
    if len(excess) < LEAST_TAIL:
        return log_weights.new_tensor(torch.inf)
    return _shape(excess).to(log_weights.dtype)


def _shape(excess: Float[Tensor, " tail"]) -> Float[Tensor, ""]:
    """The posterior mean of the shape, over a grid of b = −k/σ; `excess` rises and is above 0."""
    count = len(excess)
    points = 30 + int(math.sqrt(count))
    steps = torch.arange(1, points + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[int(count / 4 + 0.5) - 1]
    grid = 1 / excess[-1] + (1 - (points / (steps - 0.5)).sqrt()) / (3 * quartile)
    shapes = torch.log1p(-grid[:, None] * excess).mean(dim=1)
    # log-likelihood of each point of the grid, with the scale that is the likeliest for it
    fit = count * ((-grid / shapes).log() - shapes - 1)
    b = torch.dot(fit.softmax(dim=0), grid)
    shape = torch.log1p(-b * excess).mean()
    # ten observations' worth of the shape ½
    return (count * shape + 5) / (count + 10)
