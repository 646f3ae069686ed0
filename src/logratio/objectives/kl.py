"""KL divergence: exact over the vocabulary, and three estimates from samples.

All take the log-ratio as `log π − log ρ` of a token or a sequence sampled from π, and speak of
KL[π, ρ] = E_π[log π − log ρ], in nats. These are measurements. What their gradient is, where one
differentiates them all the same, each docstring says; it is seldom the gradient of KL[π, ρ].
"""

import torch
from jaxtyping import Float
from torch import Tensor


def exact_kl(
    logits_p: Float[Tensor, "*tokens vocabulary"], logits_q: Float[Tensor, "*tokens vocabulary"]
) -> Float[Tensor, "*tokens"]:
    """KL[p, q] of two next-token distributions, over the whole vocabulary.

    `Σ_v p_v (log p_v − log q_v)`, computed as `Σ_v p_v·k3(log p_v − log q_v)`. The two are equal, since
    `Σ q_v = Σ p_v = 1`, but in the second no term is negative: the sum is never below 0, nothing is
    clamped, and an error in a normaliser enters squared. Summed over the tokens of a sequence
    from π this is the Rao–Blackwell estimate of the sequence's KL (Amini, Vieira and Cotterell, 2025,
    arXiv:2504.10637): unbiased, with less variance than k1 and k3.

    Its gradient is that of the token's KL with the state held fixed. Summed over sampled tokens it leaves
    out that π also chooses the states, so it is not the gradient of the sequence's KL.

    Args:
        logits_p: unnormalised log-probabilities, any leading axes, then the vocabulary. −inf is probability
            0. Precisions below float32 are computed in float32.
        logits_q: the same shape.

    Returns:
        Nats per token, the vocabulary axis gone; inf where q gives 0 to something that p does not.
    """
    dtype = torch.promote_types(logits_p.dtype, torch.float32)
    log_p = torch.log_softmax(logits_p, dim=-1, dtype=dtype)
    log_q = torch.log_softmax(logits_q, dim=-1, dtype=dtype)
    p, q = log_p.exp(), log_q.exp()
    absent_p, absent_q = log_p == -torch.inf, log_q == -torch.inf
    log_ratio = torch.where(absent_p | absent_q, torch.zeros_like(log_p), log_p - log_q)
    # Where q is far above p, exp(−log_ratio) would overflow against a p that vanishes; their product is q.
    far = (log_ratio < -1) | absent_p
    terms = torch.where(far, q - p * (1 - log_ratio), p * k3(log_ratio.clamp(min=-1)))
    impossible = (absent_q & ~absent_p).any(dim=-1)
    return terms.sum(dim=-1).masked_fill(impossible, torch.inf)


def k1(log_ratio: Float[Tensor, "*samples"]) -> Float[Tensor, "*samples"]:
    """The plain estimate of KL[π, ρ]: unbiased, of high variance, negative for about half of the samples.

    `log π − log ρ` (Schulman, "Approximating KL Divergence", 2020).

    Gradient: as a loss, zero in expectation, since E_π[∇ log π] = 0. As a cost in the reward (no
    gradient through it, undiscounted, reward-to-go) it gives the exact gradient of the sequence's KL.

    Args:
        log_ratio: log π − log ρ of samples from π, any shape.

    Returns:
        Nats, the same shape.
    """
    return log_ratio


def k2(log_ratio: Float[Tensor, "*samples"]) -> Float[Tensor, "*samples"]:
    """Half the squared log-ratio: biased, never negative, of low variance near ρ.

    `½ (log π − log ρ)²` (Schulman, 2020).

    Gradient: as a loss on the log-ratio of a whole sequence from π, exactly that of KL[π, ρ], though the
    value is biased. As a loss on each token, that of the local KL with the state distribution frozen.

    Args:
        log_ratio: log π − log ρ of samples from π, any shape.

    Returns:
        Nats, the same shape.
    """
    return log_ratio.square() / 2


def k3(log_ratio: Float[Tensor, "*samples"]) -> Float[Tensor, "*samples"]:
    """The estimate of KL[π, ρ] that is unbiased and never negative.

    `r − 1 − log r` with r = ρ/π (Schulman, 2020). Example: ρ twice as likely as π gives
    2 − 1 − ln 2 = 0.3069. Not clamped, so it overflows to inf where exp(log ρ − log π) does.

    Gradient: as a loss, that of KL[ρ, π], the other direction; per token that of the local one. In the
    reward the two directions nearly cancel and it hardly regularises: use `k1` there.

    Args:
        log_ratio: log π − log ρ of samples from π, any shape.

    Returns:
        Nats, the same shape.
    """
    # exp(x) − 1 would lose x to rounding where the policies are close, sign and all.
    return torch.expm1(-log_ratio) + log_ratio


def local_kl_loss(
    log_ratio: Float[Tensor, "*tokens"], *, log_weights: Float[Tensor, "*tokens"] | None = None
) -> Float[Tensor, "*tokens"]:
    """A loss a token whose gradient is that of the local KL: the state distribution is held fixed.

    `sg(w)·½ (log π − log ρ)²`, so that over tokens of μ with weights w = π/μ the mean gradient is
    `Σ_s d_μ(s) ∇KL[π(·|s), ρ(·|s)]` (Liu et al., 2025, arXiv:2510.01555, k2 as a loss). It is not the
    gradient of the sequence's KL, which also follows how π chooses its states: for that charge `k1` in the
    reward. The value is not a KL divergence.

    Args:
        log_ratio: log π − log ρ of the tokens drawn, differentiable.
        log_weights: log π − log μ, μ the policy that drew them; none where that is π. No gradient flows
            through them.

    Returns:
        Squared nats per token, the same shape.
    """
    loss = k2(log_ratio)
    return loss if log_weights is None else log_weights.detach().exp() * loss
