"""Direct preference optimisation and its family: losses of log-probabilities, one value an example.

What the functions share is said here once. A log-probability is that of the whole answer: the sum over its
tokens, in nats, the end token included. A length counts the same tokens, and is at least 1.

chosen, rejected: log π of the preferred answers and of the others, [pairs].
reference_chosen, reference_rejected: log π_ref of the same answers, [pairs].
chosen_lengths, rejected_lengths: numbers of tokens, [pairs].
beta: β, the strength of the pull to the reference; where there is no reference, the scale of the reward.
label_smoothing: ε; tau: τ; lam: λ; margin: γ; nll_weight: α in the formulas.

In the formulas a = log π(chosen) − log π_ref(chosen), c is the same of the rejected answer, h = a − c,
ℓ(x) = −log σ(x), and L_w, L_l are the lengths. A loss has one value a pair, in nats unless it says otherwise.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

Logprobs = Float[Tensor, " pairs"]
Lengths = Int[Tensor, " pairs"]
Losses = Float[Tensor, " pairs"]


def dpo_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Losses:
    """Direct preference optimisation; with label smoothing, conservative DPO.

    `(1 − ε) ℓ(βh) + ε ℓ(−βh)` (Rafailov et al., 2023, arXiv:2305.18290, eq. 7; cDPO: Mitchell, 2023). ln 2
    where policy and reference agree. Its derivative by h is −β σ(−βh) for ε = 0. For ε > 0 it is least
    where σ(βh) = 1 − ε, so it does not push for ever. Example: h = 10 and β = 0.1 give ln(1 + 1/e) = 0.3133.

    Raises:
        ValueError: the label smoothing is not in [0, 0.5).
    """
    _check_smoothing(label_smoothing)
    h = _margin(chosen, rejected, reference_chosen, reference_rejected)
    agree, disagree = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)
    return (1 - label_smoothing) * agree + label_smoothing * disagree


def robust_dpo_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    beta: float,
    label_smoothing: float,
) -> Losses:
    """Robust DPO: with labels flipped at rate ε its expectation is the loss on clean labels.

    `[(1 − ε) ℓ(βh) − ε ℓ(−βh)] / (1 − 2ε)` (Ray Chowdhury, Kini and Natarajan, 2024, arXiv:2403.00409).
    It can be negative and has no lower bound.

    Raises:
        ValueError: the label smoothing is not in [0, 0.5).
    """
    _check_smoothing(label_smoothing)
    h = _margin(chosen, rejected, reference_chosen, reference_rejected)
    agree, disagree = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)
    return ((1 - label_smoothing) * agree - label_smoothing * disagree) / (1 - 2 * label_smoothing)


def ipo_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    tau: float,
    normalise: Literal["sum", "mean"],
    chosen_lengths: Lengths | None = None,
    rejected_lengths: Lengths | None = None,
) -> Losses:
    """Identity preference optimisation: a regression of h onto 1/(2τ), finite also where labels agree.

    `(h − 1/(2τ))²` (Azar et al., 2023, arXiv:2310.12036, eq. 17). The equation has sums over tokens,
    `normalise="sum"`; `"mean"` puts a/L_w − c/L_l for h, as TRL does on the authors' word, and needs the
    lengths. The two want different τ. 1/(4τ²) where policy and reference agree: 25 at τ = 0.1. Squared nats.

    Raises:
        ValueError: τ is not above 0, `normalise` is neither of the two, or `"mean"` lacks a length.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be above 0")
    if normalise == "sum":
        h = _margin(chosen, rejected, reference_chosen, reference_rejected)
    elif normalise == "mean":
        if chosen_lengths is None or rejected_lengths is None:
            raise ValueError("normalise='mean' needs chosen_lengths and rejected_lengths")
        h = _per_token(chosen - reference_chosen, chosen_lengths) - _per_token(
            rejected - reference_rejected, rejected_lengths
        )
    else:
        raise ValueError(f"normalise is {normalise!r}; it must be 'sum' or 'mean'")
    return (h - 1 / (2 * tau)).square()


def hinge_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    beta: float,
) -> Losses:
    """The hinge on DPO's margin, as in SLiC: no gradient once a pair is right by enough.

    `max(0, 1 − βh)` (Zhao et al., 2023, arXiv:2305.10425). 1 where policy and reference agree.
    """
    return F.relu(1 - beta * _margin(chosen, rejected, reference_chosen, reference_rejected))


def length_normalised_dpo_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    beta: float,
) -> Losses:
    """DPO on log-ratios per token, so that length alone wins nothing.

    `ℓ(β(a/L_w − c/L_l))` (Lambert et al., Tülu 3, 2024, arXiv:2411.15124). β is on another scale than in DPO:
    5 there where DPO has 0.1.

    Raises:
        ValueError: a length is below 1.
    """
    a = _per_token(chosen - reference_chosen, chosen_lengths)
    c = _per_token(rejected - reference_rejected, rejected_lengths)
    return -F.logsigmoid(beta * (a - c))


def simpo_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    beta: float,
    margin: float,
) -> Losses:
    """Simple preference optimisation: no reference, log-probabilities per token, a target margin.

    `ℓ(β(log π(chosen)/L_w − log π(rejected)/L_l) − γ)` (Meng, Xia and Chen, 2024, arXiv:2405.14734, eq. 6).
    Usual: β from 2 to 2.5, γ about β/2.

    Raises:
        ValueError: a length is below 1.
    """
    difference = _per_token(chosen, chosen_lengths) - _per_token(rejected, rejected_lengths)
    return -F.logsigmoid(beta * difference - margin)


def orpo_odds_ratio_loss(
    chosen: Logprobs, rejected: Logprobs, *, chosen_lengths: Lengths, rejected_lengths: Lengths
) -> Losses:
    """The odds-ratio term of ORPO.

    `ℓ(log odds(chosen) − log odds(rejected))`, odds(y) = p/(1 − p) with log p = log π(y)/L (Hong, Lee and
    Thorne, 2024, arXiv:2403.07691, eq. 7). A p of 1 has no odds: log p is held at or below minus the
    number format's epsilon, with no gradient beyond.

    Raises:
        ValueError: a length is below 1.
    """
    odds_of_chosen = _log_odds(_per_token(chosen, chosen_lengths))
    odds_of_rejected = _log_odds(_per_token(rejected, rejected_lengths))
    return -F.logsigmoid(odds_of_chosen - odds_of_rejected)


def orpo_loss(
    chosen: Logprobs, rejected: Logprobs, *, chosen_lengths: Lengths, rejected_lengths: Lengths, lam: float
) -> Losses:
    """Odds-ratio preference optimisation: fine-tuning and preference in one loss, with no reference.

    `−log π(chosen)/L_w + λ·(odds-ratio term)` (Hong, Lee and Thorne, 2024, arXiv:2403.07691, eq. 6; λ = 0.1).

    Raises:
        ValueError: a length is below 1.
    """
    odds_ratio_term = orpo_odds_ratio_loss(
        chosen, rejected, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths
    )
    return -_per_token(chosen, chosen_lengths) + lam * odds_ratio_term


def kto_reference_point(
    logprobs: Float[Tensor, " examples"], reference_logprobs: Float[Tensor, " examples"]
) -> Float[Tensor, ""]:
    """KTO's reference point z₀: an estimate of the KL to the reference, from mismatched pairs.

    `max(0, mean(log π(y'|x) − log π_ref(y'|x)))` with y' the answer to another prompt of the
    batch. It carries no gradient.

    Args:
        logprobs: log π of the mismatched answers.
        reference_logprobs: log π_ref of them.

    Returns:
        A scalar in nats, at least 0.

    Raises:
        ValueError: there is no example.
    """
    if len(logprobs) == 0:
        raise ValueError("KTO's reference point needs at least one mismatched example")
    return (logprobs - reference_logprobs).detach().mean().clamp(min=0)


def kto_loss(
    logprobs: Float[Tensor, " examples"],
    reference_logprobs: Float[Tensor, " examples"],
    desirable: Bool[Tensor, " examples"],
    *,
    reference_point: Float[Tensor, ""],
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " examples"]:
    """Kahneman–Tversky optimisation: answers that are good or bad each by itself, with no pairs.

    `λ_D (1 − σ(β(a − z₀)))` for a desirable answer, `λ_U (1 − σ(β(z₀ − c)))` for an undesirable one
    (Ethayarajh et al., 2024, arXiv:2402.01306, eq. 8). λ/2 where policy and reference agree and z₀ = 0.

    Args:
        logprobs: log π of the answers.
        reference_logprobs: log π_ref of them.
        desirable: true where the answer is a good one.
        reference_point: z₀, from `kto_reference_point`; held constant, whatever it was computed from.
        beta: β, strength of the pull to the reference.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.

    Returns:
        One an example, between 0 and its λ.
    """
    distance = beta * (logprobs - reference_logprobs - reference_point.detach())
    # 1 − σ(x) is σ(−x), which keeps its digits where it is small.
    return torch.where(
        desirable, desirable_weight * torch.sigmoid(-distance), undesirable_weight * torch.sigmoid(distance)
    )


def dpop_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    beta: float,
    lam: float,
) -> Losses:
    """DPO-positive: DPO that is charged where the preferred answer becomes less likely than it was.

    `ℓ(β(h − λ max(0, −a)))` (Pal et al., Smaug, 2024, arXiv:2402.13228, with λ = 50).
    """
    h = _margin(chosen, rejected, reference_chosen, reference_rejected)
    return -F.logsigmoid(beta * (h - lam * F.relu(reference_chosen - chosen)))


def dpo_nll_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    chosen_lengths: Lengths,
    beta: float,
    nll_weight: float = 1.0,
) -> Losses:
    """DPO with the likelihood of the preferred answer, as in iterative reasoning preference optimisation.

    `ℓ(βh) − α log π(chosen)/L_w` (Pang et al., 2024, arXiv:2404.19733).

    Raises:
        ValueError: a length is below 1.
    """
    preference = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=beta)
    return preference - nll_weight * _per_token(chosen, chosen_lengths)


def apo_zero_loss(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    beta: float,
) -> Losses:
    """Anchored preference optimisation, "zero": the chosen up and the rejected down, each from the reference.

    `1 − σ(βa) + σ(βc)` (D'Oosterlinck et al., 2024, arXiv:2408.06266). 1 where policy and reference agree.
    """
    a, c = chosen - reference_chosen, rejected - reference_rejected
    return torch.sigmoid(-beta * a) + torch.sigmoid(beta * c)


def implicit_rewards(
    logprobs: Float[Tensor, " answers"], reference_logprobs: Float[Tensor, " answers"], *, beta: float
) -> Float[Tensor, " answers"]:
    """The reward that a policy implies, up to a constant of the prompt.

    `β (log π − log π_ref)` (Rafailov et al., 2023, arXiv:2305.18290, section 4).

    Args:
        logprobs: log π of answers.
        reference_logprobs: log π_ref of them.
        beta: β, as in training.

    Returns:
        In units of the reward, one an answer.
    """
    return beta * (logprobs - reference_logprobs)


def gradient_weight(
    chosen: Logprobs,
    rejected: Logprobs,
    reference_chosen: Logprobs,
    reference_rejected: Logprobs,
    *,
    beta: float,
) -> Float[Tensor, " pairs"]:
    """How strongly DPO still pulls at a pair.

    `σ(−βh)`, the factor in DPO's gradient `−β σ(−βh) (∇ log π(chosen) − ∇ log π(rejected))`. ½ where policy
    and reference agree; a mean near 0 says that training is saturated.
    """
    return torch.sigmoid(-beta * _margin(chosen, rejected, reference_chosen, reference_rejected))


def _margin(
    chosen: Logprobs, rejected: Logprobs, reference_chosen: Logprobs, reference_rejected: Logprobs
) -> Losses:
    """The margin h = a − c, in nats."""
    # Answer by answer first: each is a difference of close numbers, which rounding leaves exact.
    return (chosen - reference_chosen) - (rejected - reference_rejected)


def _per_token(total: Logprobs, lengths: Lengths) -> Losses:
    """A total over the tokens of an answer, divided by their number."""
    if bool((lengths < 1).any()):
        raise ValueError(f"a length is {int(lengths.min())}; an answer has at least one token")
    return total / lengths


def _log_odds(mean_logprob: Logprobs) -> Losses:
    """The logarithm of p/(1 − p) from log p."""
    log_p = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)
    return log_p - _log1mexp(log_p)


def _log1mexp(x: Logprobs) -> Losses:
    """log(1 − exp(x)) for x < 0, accurate at both ends (Mächler, 2012)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 0.5")
