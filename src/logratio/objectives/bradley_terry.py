"""Bradley–Terry: the chance that one answer is preferred, from the difference of their strengths.

What a reward model is trained with, and rankings of more than two. `strengths` fits the strengths themselves.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def preference_probability(
    a: Float[Tensor, "*comparisons"], b: Float[Tensor, "*comparisons"]
) -> Float[Tensor, "*comparisons"]:
    """The probability that a is preferred to b.

    `σ(a − b)` (Bradley and Terry, 1952). Example: strengths ln 3 and 0 give 3/4.

    Args:
        a: strengths (rewards, in units of the label noise), any shape.
        b: the same shape.

    Returns:
        Probabilities, the same shape. Adding one number to both strengths changes nothing.
    """
    return (a - b).sigmoid()


def comparison_loss(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    *,
    margin: float | Float[Tensor, " pairs"] = 0.0,
    centring: float = 0.0,
    preference: float | Float[Tensor, " pairs"] = 1.0,
) -> Float[Tensor, " pairs"]:
    """The negative log-likelihood of a comparison: what a reward model is trained with.

    `−p log σ(d − m) − (1 − p) log σ(−d − m) + η (chosen + rejected)²` with d = chosen − rejected. The margin
    m asks for a larger difference where people were surer (Touvron et al., Llama 2, 2023, arXiv:2307.09288,
    with 1, 2/3, 1/3 and 0). The centring η fixes what comparisons leave open, the zero of the rewards
    (Eisenstein et al., 2023, arXiv:2312.09244, with 0.01); at 0, adding one number to both rewards changes
    nothing. A tie is p = ½. Equal rewards, no margin and no centring give ln 2 = 0.6931.

    Args:
        chosen: rewards of the preferred answers.
        rejected: rewards of the others.
        margin: m, one number, or one a pair.
        centring: η.
        preference: p, the probability that chosen is preferred: 1 for a plain label.

    Returns:
        Nats, one a pair.

    Raises:
        ValueError: the centring is negative.
    """
    if centring < 0:
        raise ValueError(f"centring is {centring}; it must not be negative")
    difference = chosen - rejected
    agree, disagree = -F.logsigmoid(difference - margin), -F.logsigmoid(-difference - margin)
    likelihood = preference * agree + (1 - preference) * disagree
    return likelihood + centring * (chosen + rejected).square()


def plackett_luce_loss(
    strengths: Float[Tensor, "rankings items"], mask: Bool[Tensor, "rankings items"] | None = None
) -> Float[Tensor, " rankings"]:
    """The negative log-likelihood of whole rankings.

    `−Σ_k [s_k − log Σ_{l ≥ k} exp(s_l)]`: the best is chosen among all, the next among the rest (Luce, 1959;
    Plackett, 1975). Of two items it is Bradley–Terry.

    Args:
        strengths: the strengths of the items of each ranking, the best first.
        mask: true where a ranking has an item; shorter rankings end earlier.

    Returns:
        Nats, one a ranking.

    Raises:
        ValueError: an item stands behind a gap.
    """
    if mask is None:
        mask = torch.ones_like(strengths, dtype=torch.bool)
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("a ranking has an item behind a gap: items come first, then what is masked")
    present = strengths.masked_fill(~mask, -torch.inf)
    remaining = torch.logcumsumexp(present.flip(1), dim=1).flip(1)
    zero = torch.zeros_like(strengths)
    terms = torch.where(mask, remaining, zero) - torch.where(mask, strengths, zero)
    return terms.sum(dim=1)
