"""The preference losses: gradients on the enumerated language, golden values, minimisers: D1, D6, D7."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from logratio.objectives import dpo
from logratio.verify.checks.rows import Check, Row, control, equal, relative
from logratio.verify.worlds.oracle import Columns, central_differences, sequence_probabilities
from logratio.verify.worlds.world import World, sequence_logprobs

BETA, SMOOTHING = 0.3, 0.1
# Of the 121 answers by their number, preferred and not: short and long, ended and cut off.
PAIRS = ((0, 5), (7, 3), (40, 2), (30, 119), (66, 41), (13, 90))
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# Of the margin h alone.
Formula = Callable[[float], float]


def _softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def _smoothed(h: float) -> float:
    return (1 - SMOOTHING) * _softplus(-BETA * h) + SMOOTHING * _softplus(BETA * h)


def _robust(h: float) -> float:
    agree, disagree = _softplus(-BETA * h), _softplus(BETA * h)
    return ((1 - SMOOTHING) * agree - SMOOTHING * disagree) / (1 - 2 * SMOOTHING)


# The product's loss beside its formula in plain numbers.
OF_THE_MARGIN: dict[str, tuple[Loss, Formula]] = {
    "DPO": (lambda *four: dpo.dpo_loss(*four, beta=BETA), lambda h: _softplus(-BETA * h)),
    "conservative DPO": (
        lambda *four: dpo.dpo_loss(*four, beta=BETA, label_smoothing=SMOOTHING),
        _smoothed,
    ),
    "robust DPO": (
        lambda *four: dpo.robust_dpo_loss(*four, beta=BETA, label_smoothing=SMOOTHING),
        _robust,
    ),
    "IPO": (
        lambda *four: dpo.ipo_loss(*four, tau=0.2, normalise="sum"),
        lambda h: (h - 1 / (2 * 0.2)) ** 2,
    ),
}


def _margins(world: World, policy: Tensor, reference: Columns) -> list[float]:
    """The margin h of every prompt's pairs, from the probabilities of single sequences."""
    return [
        math.log(ours[chosen] / theirs[chosen]) - math.log(ours[rejected] / theirs[rejected])
        for ours, theirs in zip(sequence_probabilities(world, policy), reference, strict=True)
        for chosen, rejected in PAIRS
    ]


def _product_loss(world: World, policy: Tensor, reference: Tensor, loss: Loss) -> Tensor:
    """The mean loss of the same pairs, from all answers at once."""
    ours, theirs = sequence_logprobs(world, policy), sequence_logprobs(world, reference)
    chosen, rejected = (torch.tensor(column) for column in zip(*PAIRS, strict=True))
    four = (ours[:, chosen], ours[:, rejected], theirs[:, chosen], theirs[:, rejected])
    return loss(*(column.flatten() for column in four)).mean()


def check_dpo_gradients(quick: bool) -> list[Row]:
    """Losses and gradients by 320 logits against plain loops and central differences."""
    world = World()
    policy, reference = world.random_logits(seed=10), world.random_logits(seed=11)
    frozen = sequence_probabilities(world, reference)
    result = []
    for name, (loss, formula) in OF_THE_MARGIN.items():
        table = policy.clone().requires_grad_()
        value = _product_loss(world, table, reference, loss)
        (gradient,) = torch.autograd.grad(value, table)

        def exact(logits: Tensor, formula: Formula = formula) -> float:
            margins = _margins(world, logits, frozen)
            return math.fsum(formula(h) for h in margins) / len(margins)

        slopes = central_differences(exact, policy)
        result += [
            equal(f"{name}: the loss", value, exact(policy), tolerance=1e-12),
            relative(f"{name}: the gradient by finite differences", gradient, slopes, tolerance=1e-7),
        ]
    return [*result, *_first_gradient(world, reference)]


def _first_gradient(world: World, reference: Tensor) -> list[Row]:
    """Where policy and reference agree: ln 2, and −(β/2)(∇ log π(chosen) − ∇ log π(rejected))."""
    table = reference.clone().requires_grad_()
    value = _product_loss(world, table, reference, OF_THE_MARGIN["DPO"][0])
    (gradient,) = torch.autograd.grad(value, table)
    exact = torch.zeros_like(reference)
    chances = reference.softmax(dim=-1)
    for p in range(len(world.prompts)):
        for pair in PAIRS:
            for answer, sign in zip(pair, (-1.0, 1.0), strict=True):
                sequence = world.sequences[answer]
                for t, token in enumerate(sequence):
                    state = world.prefixes.index(sequence[:t])
                    score = -chances[p, state]
                    score[token] += 1
                    exact[p, state] += sign * BETA / 2 * score
    exact /= len(PAIRS) * len(world.prompts)
    return [
        equal("DPO where policy and reference agree: ln 2", value, math.log(2), tolerance=1e-15),
        relative(
            "its gradient there, −(β/2) times the difference of scores", gradient, exact, tolerance=1e-12
        ),
        control(
            "the gradient without β", float((gradient / BETA - exact).norm() / exact.norm()), at_least=1.0
        ),
    ]


CHOSEN, REJECTED = (-0.5, -10.0, -1.0, -120.3), (-0.1, -30.0, -21.0, -90.7)
REFERENCE_CHOSEN, REFERENCE_REJECTED = (-0.5, -10.1, -0.1, -118.0), (-0.1, -20.1, -0.1, -95.0)
CHOSEN_LENGTHS, REJECTED_LENGTHS = torch.tensor([1, 5, 2, 40]), torch.tensor([1, 12, 9, 31])
LENGTHS = {"chosen_lengths": CHOSEN_LENGTHS, "rejected_lengths": REJECTED_LENGTHS}


def _kto(logprobs: Tensor, reference: Tensor, *, desirable: bool) -> Tensor:
    labels = torch.full(logprobs.shape, desirable)
    point = torch.tensor(0.5, dtype=logprobs.dtype)
    return dpo.kto_loss(logprobs, reference, labels, reference_point=point, beta=0.1)


# The loss of (chosen, rejected, reference's chosen, reference's rejected), and its values on the four pairs:
# computed once with numpy in float64 from the published formulas.
GOLDEN: dict[str, tuple[Loss, tuple[float, float, float, float]]] = {
    "DPO": (
        lambda *four: dpo.dpo_loss(*four, beta=0.1),
        (0.6931471806, 0.3132616875, 0.1269280110, 1.0766366959),
    ),
    "conservative DPO": (
        lambda *four: dpo.dpo_loss(*four, beta=0.1, label_smoothing=0.1),
        (0.6931471806, 0.4132616875, 0.3269280110, 1.0106366959),
    ),
    "robust DPO": (
        lambda *four: dpo.robust_dpo_loss(*four, beta=0.1, label_smoothing=0.1),
        (0.6931471806, 0.1882616875, -0.1230719890, 1.1591366959),
    ),
    "IPO of sums": (
        lambda *four: dpo.ipo_loss(*four, tau=0.1, normalise="sum"),
        (25.0, 25.0, 225.0, 134.56),
    ),
    "IPO of means": (
        lambda *four: dpo.ipo_loss(*four, tau=0.1, normalise="mean", **LENGTHS),
        (25.0, 17.2640250000, 9.7829938272, 27.0005950117),
    ),
    "hinge": (lambda *four: dpo.hinge_loss(*four, beta=0.1), (1.0, 0.0, 0.0, 1.66)),
    "length-normalised DPO": (
        lambda *four: dpo.length_normalised_dpo_loss(*four, beta=5.0, **LENGTHS),
        (0.6931471806, 0.0145194160, 0.0000860008, 1.2994423591),
    ),
    "SimPO": (
        lambda w, r, *_: dpo.simpo_loss(w, r, beta=2.0, margin=1.0, **LENGTHS),
        (1.9529776105, 0.6931471806, 0.0671757760, 1.4352645585),
    ),
    "DPO-positive": (
        lambda *four: dpo.dpop_loss(*four, beta=0.1, lam=5.0),
        (0.6931471806, 0.3132616875, 0.1924764656, 1.9615651718),
    ),
    "DPO with likelihood": (
        lambda *four: dpo.dpo_nll_loss(*four, chosen_lengths=CHOSEN_LENGTHS, beta=0.1),
        (1.1931471806, 2.3132616875, 0.6269280110, 4.0841366959),
    ),
    "KTO, desirable": (
        lambda w, _r, ref_w, _ref_r: _kto(w, ref_w, desirable=True),
        (0.5124973965, 0.5099986669, 0.5349429452, 0.5695462239),
    ),
    "KTO, undesirable": (
        lambda _w, r, _ref_w, ref_r: _kto(r, ref_r, desirable=False),
        (0.4875026035, 0.2611499939, 0.1052693895, 0.5938731029),
    ),
    "ORPO's odds ratio": (
        lambda w, r, *_: dpo.orpo_odds_ratio_loss(w, r, **LENGTHS),
        (1.9696625541, 0.4519316040, 0.0673437868, 0.7371383569),
    ),
    "APO-zero": (
        lambda *four: dpo.apo_zero_loss(*four, beta=0.1),
        (1.0000000000, 0.7684120985, 0.6325573992, 1.1631215230),
    ),
}
SLOPES = (-0.0500000000, -0.0268941421, -0.0119202922, -0.0659260388)


def check_golden_losses(quick: bool) -> list[Row]:
    """Every loss on four pairs against values computed once with another library."""
    four = [
        torch.tensor(column, dtype=torch.float64)
        for column in (CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)
    ]
    result = [
        equal(name, loss(*four), torch.tensor(values, dtype=torch.float64), tolerance=1e-10)
        for name, (loss, values) in GOLDEN.items()
    ]
    four[0].requires_grad_()
    (slopes,) = torch.autograd.grad(GOLDEN["DPO"][0](*four).sum(), four[0])
    exact = torch.tensor(SLOPES, dtype=torch.float64)
    return [*result, equal("DPO's derivative by h", slopes, exact, tolerance=1e-10)]


def check_noisy_labels(quick: bool) -> list[Row]:
    """Flipped labels, label smoothing and IPO's target: expectations and minimisers known in closed form."""
    h = torch.linspace(-20, 20, 41, dtype=torch.float64)
    zero = torch.zeros_like(h)
    clean = dpo.dpo_loss(h, zero, zero, zero, beta=BETA)
    result = []
    for flipped in (0.1, 0.3):
        robust = [
            dpo.robust_dpo_loss(x, zero, zero, zero, beta=BETA, label_smoothing=flipped) for x in (h, -h)
        ]
        noisy = [dpo.dpo_loss(x, zero, zero, zero, beta=BETA) for x in (h, -h)]
        expected, wrong = ((1 - flipped) * right + flipped * turned for right, turned in (robust, noisy))
        error = float((wrong - clean).abs().max())
        result += [
            equal(
                f"robust DPO with {flipped:.0%} of labels flipped is DPO on clean ones",
                expected,
                clean,
                tolerance=1e-12,
            ),
            control(f"plain DPO with {flipped:.0%} of labels flipped", error, at_least=flipped),
        ]
    for smoothing in (0.1, 0.4):
        best = _minimiser(lambda *x, e=smoothing: dpo.dpo_loss(*x, beta=BETA, label_smoothing=e))
        sure = 1 / (1 + math.exp(-BETA * best))
        what = f"conservative DPO is least where σ(βh) = 1 − ε, ε = {smoothing:g}"
        result.append(equal(what, sure, 1 - smoothing, tolerance=1e-12))
    for tau in (0.1, 1.0):
        best = _minimiser(lambda *x, t=tau: dpo.ipo_loss(*x, tau=t, normalise="sum"))
        result.append(equal(f"IPO is least at h = 1/(2τ), τ = {tau:g}", best, 1 / (2 * tau), tolerance=1e-12))
    return [*result, *_three_arms()]


def _minimiser(loss: Loss) -> float:
    """The h between −50 and 50 where the loss's derivative changes its sign, by bisection."""
    low, high = -50.0, 50.0
    zero = torch.zeros(1, dtype=torch.float64)
    for _ in range(60):
        h = torch.tensor([(low + high) / 2], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(h, zero, zero, zero).sum(), h)
        low, high = (float(h.detach()), high) if slope < 0 else (low, float(h.detach()))
    return (low + high) / 2


def _three_arms() -> list[Row]:
    """Three answers, each always preferred to the next: IPO stays at a finite policy, DPO runs away.

    With a uniform reference IPO asks every pair for a margin of c = 1/(2τ), and the least-squares answer is
    the logits 2c/3, 0, −2c/3 (the bandit of Azar et al., 2023, section 5).
    """
    winners, losers = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    uniform = torch.full((3,), -math.log(3), dtype=torch.float64)

    def gradient(logits: Tensor, loss: Loss) -> Tensor:
        table = logits.clone().requires_grad_()
        policy = table.log_softmax(dim=0)
        value = loss(policy[winners], policy[losers], uniform[winners], uniform[losers]).sum()
        return torch.autograd.grad(value, table)[0]

    result = []
    for tau in (0.1, 1.0):
        best = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64) / (3 * tau)
        slope = gradient(best, lambda *x, t=tau: dpo.ipo_loss(*x, tau=t, normalise="sum"))
        what = f"IPO on three arms, τ = {tau:g}: no gradient at the least-squares policy"
        result.append(equal(what, slope, torch.zeros(3, dtype=torch.float64), tolerance=1e-12))
    far = torch.tensor([20.0, 0.0, -20.0], dtype=torch.float64)
    pull = -gradient(far, lambda *x: dpo.dpo_loss(*x, beta=0.1))
    still = float(pull[0] - pull[2])
    return [*result, control("DPO on three arms still pulls apart logits 40 apart", still, at_least=0.01)]


CHECKS = (
    Check(name="D1", title="DPO's losses and gradients on the enumerated language", run=check_dpo_gradients),
    Check(name="D6", title="every preference loss gives its golden values", run=check_golden_losses),
    Check(
        name="D7",
        title="flipped labels, smoothing and IPO's target do what theory says",
        run=check_noisy_labels,
    ),
)
