"""Importance sampling: what another policy's samples say about this one, and how far to believe it.

Weights are handled as logarithms, `log w = log π − log μ` with behaviour policy μ, so that a long sequence
does not overflow before it is normalised.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Level = Literal["token", "sequence", "per_decision"]


def log_weights(
    logprobs: Float[Tensor, "sequences time"],
    behaviour_logprobs: Float[Tensor, "sequences time"],
    mask: Bool[Tensor, "sequences time"],
    *,
    level: Level,
) -> Float[Tensor, "sequences ..."]:
    """Logarithms of the importance weights of sequences sampled from the behaviour policy.

    With ρ_t = π(a_t | s_t) / μ(a_t | s_t):
    `token`: log ρ_t. It leaves out how likely the state was: a surrogate as in PPO, no unbiased estimate.
    `sequence`: Σ_t log ρ_t, the weight of the whole.
    `per_decision`: Σ_{k ≤ t} log ρ_k, the weight of what is received at t (Precup, Sutton and Singh, 2000).

    Args:
        logprobs: log π of each token.
        behaviour_logprobs: log μ of each token, as it was sampled: temperature, top-k and top-p included.
        mask: true where a token is real.
        level: `"token"`, `"sequence"` or `"per_decision"`.

    Returns:
        [sequences] for `sequence`, else [sequences, time] with 0 (weight 1) where the mask is false.

    Raises:
        ValueError: the level is none of the three.
    """
    zero = torch.zeros_like(logprobs)
    log_ratio = torch.where(mask, logprobs - behaviour_logprobs, zero)
    if level == "token":
        return log_ratio
    if level == "sequence":
        return log_ratio.sum(dim=1)
    if level == "per_decision":
        return torch.where(mask, log_ratio.cumsum(dim=1), zero)
    raise ValueError(f"level is {level!r}; it must be 'token', 'sequence' or 'per_decision'")


def ordinary_estimate(
    values: Float[Tensor, " samples *steps"], log_weights: Float[Tensor, " samples *steps"]
) -> Float[Tensor, ""]:
    """Estimate E_π of a value from samples of μ, without bias.

    `(1/n) Σ_i w_i v_i`; of rewards received over time with per-decision weights,
    `(1/n) Σ_i Σ_t w_it r_it`. Its variance is (E_μ[w²v²] − E_π[v]²)/n.

    Args:
        values: one a sample, or one a step with 0 where there is no step.
        log_weights: log w, the same shape.

    Returns:
        A scalar in the unit of the values; inf where a weight is beyond the number format.

    Raises:
        ValueError: there is no sample.
    """
    _ensure_samples(log_weights)
    return (log_weights.exp() * values).sum() / len(values)


def self_normalised_estimate(
    values: Float[Tensor, " samples"], log_weights: Float[Tensor, " samples"]
) -> Float[Tensor, ""]:
    """Estimate E_π of a value from samples of μ by the weighted mean.

    `Σ w_i v_i / Σ w_i`: within the range of the values and unmoved by a factor that all weights share, but
    biased for few samples.

    Args:
        values: one a sample.
        log_weights: log w of the sample.

    Returns:
        A scalar in the unit of the values.

    Raises:
        ValueError: there is no sample, or no weight above 0.
    """
    weights = _relative_weights(log_weights)
    return (weights * values).sum() / weights.sum()


def truncate_weights(log_weights: Float[Tensor, "*samples"], *, ceiling: float) -> Float[Tensor, "*samples"]:
    """Bound the weights from above: less variance for some bias.

    `min(w, ceiling)`, in logarithms (Ionides, 2008). The bias is E_μ[(min(w, ceiling) − w) v].

    Args:
        log_weights: log w, any shape.
        ceiling: the largest weight, not its logarithm.

    Returns:
        log w, the same shape; no gradient flows where the ceiling binds.

    Raises:
        ValueError: the ceiling is not above 0.
    """
    if not ceiling > 0:
        raise ValueError(f"ceiling is {ceiling}; a weight's ceiling must be above 0")
    return log_weights.clamp(max=math.log(ceiling))


def effective_sample_size(log_weights: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """How many samples of π itself these weighted samples of μ are worth, roughly.

    `(Σ w)² / Σ w²` (Kong, 1992): n if all weights are equal, 1 if one outweighs the rest. It tends to
    n / (1 + χ²(π, μ)). Example: weights 1 and 3 give 16/10 = 1.6.

    Args:
        log_weights: log w of the samples.

    Returns:
        A scalar between 1 and the number of samples.

    Raises:
        ValueError: there is no sample, or no weight above 0.
    """
    weights = _relative_weights(log_weights)
    return weights.sum().square() / weights.square().sum()


def chi_square(log_weights: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """Estimate the χ² divergence of π from μ, without bias, from samples of μ.

    `(1/n) Σ w² − 1`. For |v| ≤ B the variance of the ordinary estimate is at most B² (1 + χ²) / n
    (Cortes, Mansour and Mohri, 2010). It can come out below 0; `n / effective_sample_size − 1` cannot, but
    is biased.

    Args:
        log_weights: log w of the samples.

    Returns:
        A scalar; inf where a squared weight is beyond the number format.

    Raises:
        ValueError: there is no sample.
    """
    _ensure_samples(log_weights)
    return torch.expm1(torch.logsumexp(2 * log_weights, dim=0) - math.log(len(log_weights)))


def _relative_weights(log_weights: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """The weights over the largest of them: at most 1, and exactly 1 where all are equal."""
    _ensure_samples(log_weights)
    largest = log_weights.detach().max()
    if bool(largest == -torch.inf):
        raise ValueError(f"all {len(log_weights)} weights are 0: these samples say nothing about the policy")
    return (log_weights - largest).exp()


def _ensure_samples(log_weights: Float[Tensor, "samples ..."]) -> None:
    if len(log_weights) == 0:
        raise ValueError("an estimate needs at least one sample")
