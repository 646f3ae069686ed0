"""Masked sums and masked means of a padded tensor: the one place where anything is reduced.

The denominator is part of an algorithm (a mean over tokens and a mean over sequences have different
gradients), so it is chosen here, by name, and nowhere inside a loss.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_sum(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, dim: int | None = None
) -> Float[Tensor, "..."]:
    """Sum the entries of `x` where `mask` is true, over everything or over one axis.

    A masked entry may hold anything, NaN included: it adds 0 and its gradient is exactly 0.

    Args:
        x: values of any shape.
        mask: true where an entry is real; the same shape.
        dim: the axis to sum over; all of them if None.

    Returns:
        A scalar, or `x`'s shape without the axis `dim`. A sum over no entry is 0.
    """
    # Chosen, not multiplied: 0 times NaN would be NaN.
    real = torch.where(mask, x, torch.zeros_like(x))
    return real.sum() if dim is None else real.sum(dim)


def masked_mean(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, dim: int | None = None
) -> Float[Tensor, "..."]:
    """Average the entries of `x` where `mask` is true, over everything or over one axis.

    `Σ mask·x / Σ mask`. With `dim` each row has its own denominator, so `masked_mean(x, mask)` weighs
    tokens equally and `masked_mean(x, mask, dim=1).mean()` weighs sequences equally.

    Args:
        x: values of any shape.
        mask: true where an entry is real; the same shape.
        dim: the axis to average over; all of them if None.

    Returns:
        A scalar, or `x`'s shape without the axis `dim`.

    Raises:
        ValueError: there is nothing to average, in all of `x` or in one of its rows.
    """
    count = mask.sum() if dim is None else mask.sum(dim)
    if bool((count == 0).any()):
        raise ValueError(f"the mean of no entry: a mask of shape {tuple(mask.shape)} is empty (dim={dim})")
    return masked_sum(x, mask, dim=dim) / count


def masked_whiten(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, shift_mean: bool = True
) -> Float[Tensor, "*shape"]:
    """Scale the real entries of `x` to mean 0 and variance 1.

    `(x − mean) / std`, with mean and variance over the real entries and the variance divided by their
    number n, not n − 1. With `shift_mean=False` the mean is added back: only the spread is scaled, as is
    done with rewards. Example: 1, 2, 3 become −1.2247, 0, 1.2247, since the variance is 2/3.

    Args:
        x: values of any shape.
        mask: true where an entry is real; the same shape.
        shift_mean: whether the mean is taken away.

    Returns:
        `x`'s shape; masked entries are 0. Where all real entries are equal, their deviation is 0.

    Raises:
        ValueError: no entry is real.
    """
    mean = masked_mean(x, mask)
    low, high = x[mask].min(), x[mask].max()
    # Whitening does not change under shift and scale. On [0, 1] equal entries are exactly 0, so rounding
    # in their mean is never divided by its own spread, and squares neither overflow nor vanish.
    spread = torch.where(high > low, high - low, torch.ones_like(high))
    unit = (x - low) / spread
    deviation = unit - masked_mean(unit, mask)
    variance = masked_mean(deviation.square(), mask)
    white = deviation / torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
    return torch.where(mask, white if shift_mean else white + mean, torch.zeros_like(x))
