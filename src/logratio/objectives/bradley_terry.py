"""Bradley–Terry: the chance that one answer is preferred, from the difference of their strengths."""

from jaxtyping import Float
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
) -> Float[Tensor, " pairs"]:
    """The negative log-likelihood of a comparison: what a reward model is trained with.

    `−log σ(chosen − rejected − margin)`; the margin asks for a larger difference where people were surer
    (Touvron et al., Llama 2, 2023, arXiv:2307.09288, with 1, 2/3, 1/3 and 0). Equal strengths and no margin
    give ln 2 = 0.6931.

    Args:
        chosen: strengths of the preferred answers.
        rejected: strengths of the others.
        margin: one number, or one a pair.

    Returns:
        Nats, one a pair.
    """
    return -F.logsigmoid(chosen - rejected - margin)
