"""The policy gradient: what was better than expected becomes more probable."""

import torch
from jaxtyping import Float
from torch import Tensor


def reinforce_loss(
    logprobs: Float[Tensor, "*tokens"],
    advantages: Float[Tensor, "*tokens"],
    *,
    log_weights: Float[Tensor, "*tokens"] | None = None,
) -> Float[Tensor, "*tokens"]:
    """A loss whose gradient is minus the policy gradient.

    `−w·Ψ·log π(a|s)`, with no gradient through w and Ψ (Williams, 1992; Sutton et al., 1999). Summed over the
    tokens of a sequence and averaged over sequences from π, its gradient is `−∇J` for Ψ the return, the
    reward-to-go, either less a baseline that does not depend on the action, or the advantage. For sequences
    from another policy μ the same holds with w the weight of the sequence, or without w and with Ψ the sum of
    later rewards, each times its weight per decision; with w the token's own ratio it is a surrogate.

    Args:
        logprobs: log π of tokens, or of whole sequences.
        advantages: Ψ, the same shape.
        log_weights: log w of samples from another policy; without them w is 1.

    Returns:
        Values of the same shape, in the unit of the advantages. The value says nothing: its gradient does.
    """
    weighted = advantages if log_weights is None else advantages * log_weights.exp()
    return -weighted.detach() * logprobs


def greedy_baseline(
    rewards: Float[Tensor, " sequences"], greedy_rewards: Float[Tensor, " sequences"]
) -> Float[Tensor, " sequences"]:
    """Each answer's reward less that of the greedy answer to its prompt.

    `A = R(y) − R(argmax)` (ReMax: Li et al., 2023, arXiv:2310.10505). The baseline is independent of the
    answer drawn, so the gradient is unbiased.

    Args:
        rewards: one an answer.
        greedy_rewards: the reward of the greedy answer to the same prompt.

    Returns:
        [sequences] advantages.
    """
    return rewards - greedy_rewards


def optimal_baseline(
    returns: Float[Tensor, " sequences"], squared_score_norms: Float[Tensor, " sequences"]
) -> Float[Tensor, ""]:
    """The constant baseline with the least variance of the gradient.

    `b* = E[‖∇ log π‖² R] / E[‖∇ log π‖²]` (Greensmith, Bartlett and Baxter, 2004).

    Args:
        returns: R of sequences from the policy.
        squared_score_norms: ‖∇ log π‖² of the same sequences.

    Returns:
        A scalar in the unit of the returns.

    Raises:
        ValueError: all scores are 0, so that every baseline is as good.
    """
    total = squared_score_norms.sum()
    if not bool(total > 0):
        raise ValueError("all score norms are 0: the gradient is 0 whatever the baseline")
    return torch.dot(squared_score_norms, returns) / total
