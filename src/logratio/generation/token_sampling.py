"""Drawing one token a row: counter-based uniform numbers, truncation, inverse of the cumulative sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 256
NUCLEUS_CANDIDATES = 512
BELOW_ONE = float(np.nextafter(1.0, 0.0))


class SampledTokens(NamedTuple):
    """One token for each row, with its two log-probabilities in nats: three `[rows]` tensors on the CPU."""

    tokens: Tensor
    logprobs: Tensor
    model_logprobs: Tensor


def uniform_numbers(seeds: Sequence[int], count: int) -> Tensor:
    """`[len(seeds), count]` numbers in [0, 1) that depend on nothing but (seed, position).

    The counter-based form of SplitMix64 (Steele, Lea and Flood 2014): the n-th number of a seed is
    `mix(mix(seed) + n·γ)`, so that no state passes from one token to the next, nor between rows.
    """
    start = _mix(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64))
    counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = _mix(start[:, None] + counters[None, :])
    # The upper 53 bits are all that a double holds.
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def sample_from_logits(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int, top_p: float
) -> SampledTokens:
    """Draw a token from each row of `logits`.

    Temperature, top-k and top-p are applied in this order. `logprobs` are those of the distribution that
    results; `model_logprobs` those of the logits as they are. Without truncation at temperature 1 they are
    the same numbers. Temperature 0 takes the most probable token, whose log-probability is then 0.

    Args:
        logits: `[rows, vocabulary]`.
        uniform: `[rows]` numbers in [0, 1), float64 on the CPU.
        temperature: 0 or above.
        top_k: 0 for no limit; tokens that tie with the k-th are kept.
        top_p: 1 for no limit; tokens that tie with the last one needed are kept.

    Raises:
        FloatingPointError: logits with a NaN or a positive infinity, or all of them negative infinities.
    """
    # Half precision has three digits: probabilities are formed in float32 at least.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    block_sums = _block_sums(weights)
    if not bool(torch.isfinite(block_sums).all()):
        raise FloatingPointError("the model's logits are not finite")
    if temperature == 0:
        tokens = shifted.argmax(-1).cpu()
        model_logprobs = _logprobs(shifted, block_sums, tokens)
        return SampledTokens(tokens, torch.zeros_like(model_logprobs), model_logprobs)
    if temperature == 1 and not top_k and top_p == 1:
        tokens = _inverse_cdf(weights, block_sums, uniform)
        logprobs = _logprobs(shifted, block_sums, tokens)
        return SampledTokens(tokens, logprobs, logprobs)
    truncated = truncate(shifted / temperature, top_k=top_k, top_p=top_p)
    weights = truncated.exp()
    truncated_sums = _block_sums(weights)
    tokens = _inverse_cdf(weights, truncated_sums, uniform)
    logprobs = _logprobs(truncated, truncated_sums, tokens)
    return SampledTokens(tokens, logprobs, _logprobs(shifted, block_sums, tokens))


def truncate(logits: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Set to -inf what top-k, and then top-p of the rest, leave out: `[rows, vocabulary]`."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        logits = logits.masked_fill(logits < _nucleus_threshold(logits, top_p), -torch.inf)
    return logits


def _nucleus_threshold(logits: Tensor, top_p: float) -> Tensor:
    """The smallest logit of the smallest set whose probability reaches `top_p`: `[rows, 1]`."""
    logprobs = logits.log_softmax(-1)
    # Sorting the whole vocabulary is slow, and a few hundred tokens nearly always hold the nucleus.
    for size in (min(NUCLEUS_CANDIDATES, logits.shape[-1]), logits.shape[-1]):
        candidates = logprobs.topk(size, dim=-1)
        mass_before = candidates.values.exp().cumsum(-1).roll(1, dims=-1)
        mass_before[:, 0] = 0
        needed = (mass_before < top_p).sum(-1, keepdim=True)
        if int(needed.max()) < size:
            break
    return logits.gather(-1, candidates.indices.gather(-1, needed - 1))


def _block_sums(weights: Tensor) -> Tensor:
    """Sums of blocks of the vocabulary: `[rows, blocks]`, float64 on the CPU."""
    return _blocks(weights).sum(-1).cpu().double()


def _blocks(weights: Tensor) -> Tensor:
    padding = -weights.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(weights, (0, padding)) if padding else weights
    return padded.view(len(weights), -1, BLOCK)


def _logprobs(shifted: Tensor, block_sums: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of `tokens`: `[rows]`, float64 on the CPU."""
    token_logits = shifted.gather(-1, tokens.to(shifted.device)[:, None])[:, 0]
    return token_logits.cpu().double() - block_sums.sum(-1).log()


def _inverse_cdf(weights: Tensor, block_sums: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative weight passes `uniform` of the whole: `[rows]`.

    First the block is found, then the token in it: two short sums instead of one over the vocabulary.
    """
    block, fraction = _inverse_cdf_index(block_sums, uniform)
    rows = torch.arange(len(weights), device=weights.device)
    inside = _blocks(weights)[rows, block.to(weights.device)].cpu().double()
    return block * BLOCK + _inverse_cdf_index(inside, fraction)[0]


def _inverse_cdf_index(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The entry at which the cumulative weight passes `uniform` of the whole, and how far into it that is.

    An entry of weight 0 is never found, whatever the rounding.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    index = (cumulative <= target[:, None]).sum(-1)
    width = weights.gather(-1, index[:, None])[:, 0]
    before = cumulative.gather(-1, index[:, None])[:, 0] - width
    return index, ((target - before) / width).clamp(0.0, BELOW_ONE)
