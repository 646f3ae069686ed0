"""How much better an action was than expected: returns, generalised advantages, baselines from siblings.

A token and an environment step are the same row. Two weights say what follows a row: `discounts` is γ, or 0
where the episode terminated, and multiplies the value of the next state; `traces` is λ, or 0 where the
episode ended for any reason, and multiplies the next row's advantage. An episode that was cut off by a time
limit keeps its discount and has trace 0: the value of the state it was cut at counts, what stands in the next
row does not. Whatever a weight of 0 cuts off may hold anything, NaN included.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "sequences time"]


def discounted_returns(rewards: Rows, discounts: Rows) -> Rows:
    """The discounted sum of the rewards from each row on: the reward-to-go.

    `G_t = r_t + γ_t G_{t+1}`, with nothing after the last row.

    Args:
        rewards: the reward received after each row's action.
        discounts: γ, or 0 where the episode ended.

    Returns:
        [sequences, time], in the unit of the rewards.
    """
    return discounted_sum(rewards, discounts)


def gae(rewards: Rows, values: Rows, next_values: Rows, discounts: Rows, traces: Rows) -> Rows:
    """Generalised advantage estimation.

    `δ_t = r_t + γ_t V(s'_t) − V(s_t)`, `A_t = δ_t + γ_t λ_t A_{t+1}` (Schulman et al., 2015,
    arXiv:1506.02438, eq. 16). λ = 0 gives the temporal difference, λ = 1 the return less the value, whatever
    the critic. `A_t + V(s_t)` is the critic's target.

    Args:
        rewards: the reward received after each row's action.
        values: the critic at each row's state.
        next_values: the critic at the true next state: the final observation where the episode was cut off.
        discounts: γ, or 0 where the episode terminated.
        traces: λ, or 0 where the episode ended for any reason.

    Returns:
        [sequences, time] advantages, in the unit of the rewards.
    """
    differences = rewards + weighted(discounts, next_values) - values
    return discounted_sum(differences, discounts * traces)


def leave_one_out(rewards: Float[Tensor, " sequences"], *, group_size: int) -> Float[Tensor, " sequences"]:
    """Each answer's reward less the mean of the other answers to its prompt.

    `A_i = R_i − Σ_{j≠i} R_j / (k − 1)` (Kool et al., 2019; Ahmadian et al., 2024, arXiv:2402.14740). The
    baseline does not depend on the answer, so the policy gradient with it is unbiased.

    Args:
        rewards: one an answer, the answers to a prompt side by side.
        group_size: k, the number of answers to a prompt.

    Returns:
        [sequences] advantages; a group of equal rewards gets exactly 0.

    Raises:
        ValueError: fewer than two answers to a prompt, or rewards that do not divide into groups.
    """
    groups = _groups(rewards, group_size)
    # R_i less the mean of the others is k/(k − 1) times R_i less the mean of all.
    return (group_size / (group_size - 1) * (groups - groups.mean(dim=1, keepdim=True))).flatten()


def group_centred(
    rewards: Float[Tensor, " sequences"], *, group_size: int, divide_by_std: bool = False
) -> Float[Tensor, " sequences"]:
    """Each answer's reward less the mean of all answers to its prompt, its own among them.

    `A_i = R_i − mean` (Dr. GRPO: Liu et al., 2025, arXiv:2503.20783): its gradient is (k − 1)/k of the true
    one, a change of scale only. With `divide_by_std`, `(R_i − mean) / std` (GRPO: Shao et al., 2024,
    arXiv:2402.03300), with the variance divided by k: prompts whose answers differ little weigh as much as
    others, which changes the gradient's direction.

    Args:
        rewards: one an answer, the answers to a prompt side by side.
        group_size: k, the number of answers to a prompt.
        divide_by_std: whether each group is scaled to deviation 1.

    Returns:
        [sequences] advantages; a group of equal rewards gets exactly 0.

    Raises:
        ValueError: fewer than two answers to a prompt, or rewards that do not divide into groups.
    """
    groups = _groups(rewards, group_size)
    highest = groups.max(dim=1, keepdim=True).values
    # In units of their spread squares neither overflow nor vanish.
    spread = torch.where(highest > 0, highest, torch.ones_like(highest))
    deviation = (groups - groups.mean(dim=1, keepdim=True)) / spread
    if not divide_by_std:
        return (deviation * spread).flatten()
    std = deviation.square().mean(dim=1, keepdim=True).sqrt()
    return (deviation / torch.where(std > 0, std, torch.ones_like(std))).flatten()


def discounted_sum(terms: Rows, weights: Rows) -> Rows:
    """`S_t = x_t + w_t S_{t+1}`."""
    total = terms.new_zeros(len(terms))
    nothing, sums = torch.zeros_like(total), []
    columns = zip(terms.unbind(dim=1), weights.unbind(dim=1), (weights == 0).unbind(dim=1), strict=True)
    for term, weight, is_cut in reversed(list(columns)):
        # As in `weighted`, whose mask is found here for all rows at once.
        total = term + torch.where(is_cut, nothing, weight * total)
        sums.append(total)
    return torch.stack(sums[::-1], dim=1) if sums else terms


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """`weights · values`, and 0 where the weight is 0, whatever the value: 0 times NaN would be NaN."""
    return torch.where(weights == 0, torch.zeros_like(values), weights * values)


def _groups(rewards: Tensor, group_size: int) -> Tensor:
    """`[prompts, group_size]` rewards above the lowest of their group: advantages are the same.

    Equal rewards are then exactly 0: no rounding in their mean is left for a deviation to magnify.
    """
    if group_size < 2:
        raise ValueError(f"group_size is {group_size}; a baseline from siblings needs at least 2 answers")
    if len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {group_size}")
    groups = rewards.reshape(-1, group_size)
    return groups - groups.min(dim=1, keepdim=True).values
