"""The numbers behind the page's pictures, computed with the product's own functions.

They are there to explain, and judge nothing: what is judged are the checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from logratio.objectives.advantages import discounted_returns
from logratio.objectives.importance import effective_sample_size, self_normalised_estimate
from logratio.objectives.kl import exact_kl, k1, k2, k3
from logratio.objectives.policy_gradient import reinforce_loss
from logratio.verify.checks.optimum import METHODS, sampled
from logratio.verify.worlds.training import fit_dpo, labelled_pairs, standard_problem, train_sampled
from logratio.verify.worlds.world import World, sequence_logprobs, token_logprobs

Form = Callable[[Tensor, Tensor], Tensor]

CENTRE, SHIFTS = -1.0, tuple(step / 4 for step in range(17))
SAMPLE_SIZES = (10, 100, 10_000)
BETA = 0.3
NEAR, FAR = 0.2, 1.5
DISTANCES = tuple(0.25 + 0.05 * step for step in range(20))


def measure(*, quick: bool) -> dict[str, Any]:
    """All pictures' numbers by name, as JSON takes them.

    Args:
        quick: whether samples are drawn fewer times over.
    """
    return {
        "importance": importance(repeats=50 if quick else 200),
        "kl_estimators": kl_estimators(),
        "kl_gradients": kl_gradients(),
        "ways": ways(quick=quick),
    }


def importance(*, repeats: int) -> dict[str, Any]:
    """The mean of x under N(−1, 1) from samples of N(−1 + shift, 1), at many shifts.

    Of each sample size: the median of the self-normalised estimate over `repeats` draws, the share of
    draws whose sign is wrong, and the mean effective sample size as a share; beside it the share that
    1/(1 + χ²) = exp(−shift²) says.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for size in SAMPLE_SIZES:
        medians, wrong, effective = [], [], []
        for shift in SHIFTS:
            centre = CENTRE + shift
            x = centre + torch.randn(repeats, size, generator=generator, dtype=torch.float64)
            log_weights = ((x - centre).square() - (x - CENTRE).square()) / 2
            rows = list(zip(x, log_weights, strict=True))
            estimates = torch.stack([self_normalised_estimate(values, logs) for values, logs in rows])
            worth = torch.stack([effective_sample_size(logs) for _, logs in rows])
            medians.append(float(estimates.median()))
            wrong.append(float((estimates > 0).double().mean()))
            effective.append(float(worth.mean()) / size)
        sizes.append({"size": size, "median": medians, "wrong_sign": wrong, "effective": effective})
    exact = torch.tensor(SHIFTS, dtype=torch.float64).square().neg().exp()
    return {
        "truth": CENTRE,
        "repeats": repeats,
        "shifts": list(SHIFTS),
        "sizes": sizes,
        "exact_effective": exact.tolist(),
    }


def kl_estimators() -> dict[str, Any]:
    """Bias and deviation of one sample's estimate of KL, each over KL, at growing distances.

    Exact sums over the 121 sequences of one prompt. The estimates: k1, k2 and k3 of the sequence, and the
    sum over its states of the exact KL of the next token (Rao–Blackwell).
    """
    world = World(prompts=((1,),))
    divergences: list[float] = []
    bias: dict[str, list[float]] = {}
    deviation: dict[str, list[float]] = {}
    for distance in DISTANCES:
        policy, reference = _pair(world, distance)
        log_pi = sequence_logprobs(world, policy)[0]
        log_ratio = log_pi - sequence_logprobs(world, reference)[0]
        weights = log_pi.exp()
        divergence = torch.dot(weights, log_ratio)
        local = exact_kl(policy[0], reference[0])[world.states]
        estimates = {
            "k1": k1(log_ratio),
            "k2": k2(log_ratio),
            "k3": k3(log_ratio),
            "rao_blackwell": torch.where(world.mask, local, torch.zeros_like(local)).sum(dim=1),
        }
        divergences.append(float(divergence))
        for name, values in estimates.items():
            mean = torch.dot(weights, values)
            variance = torch.dot(weights, (values - mean).square())
            bias.setdefault(name, []).append(float((mean - divergence) / divergence))
            deviation.setdefault(name, []).append(float(variance.sqrt() / divergence))
    return {"kl": divergences, "bias": bias, "deviation": deviation}


def kl_gradients() -> dict[str, Any]:
    """How far the expected gradient of each form of KL penalty is from the gradient of KL itself.

    Exact sums over the sequences of both prompts, far from the reference and near it: `‖g − ∇KL‖/‖∇KL‖`
    and the cosine of the two; no cosine where the gradient is 0.
    """
    world = World()
    gradients = {}
    for where, distance in (("far", FAR), ("near", NEAR)):
        policy, reference = _pair(world, distance)
        logits = policy.clone().requires_grad_()
        logprobs = token_logprobs(world, logits).flatten(0, 1)
        log_ratio = logprobs - token_logprobs(world, reference).flatten(0, 1)
        weights = logprobs.sum(dim=1).exp() / len(world.prompts)
        divergence = (weights * log_ratio.sum(dim=1)).sum()
        true = _gradient(divergence, logits)
        forms = {}
        for name, form in FORMS.items():
            # Expected over sequences from π: the weights say how often each comes, and carry no gradient.
            loss = (weights.detach() * form(logprobs, log_ratio)).sum()
            forms[name] = _compare(_gradient(loss, logits), true)
        gradients[where] = {"kl": float(divergence.detach()), "forms": forms}
    return gradients


def ways(*, quick: bool) -> dict[str, Any]:
    """The distance to the optimum after each update: REINFORCE and PPO from samples, DPO on all pairs.

    Total variation to `π* ∝ π_ref exp(r/β)`, a list a run. Beside them PPO with k3 in the reward in the place
    of k1, whose end is another policy.

    Args:
        quick: whether fewer runs are made.
    """
    problem = standard_problem(beta=BETA)
    clip_range, epochs, updates = METHODS["PPO"]
    wrong = train_sampled(
        problem, seeds=(0,), clip_range=clip_range, epochs=epochs, updates=updates, estimator=k3
    )
    runs = {
        "reinforce": sampled("REINFORCE", BETA, quick),
        "ppo": sampled("PPO", BETA, quick),
        "dpo": fit_dpo(problem, labelled_pairs(problem, torch.ones_like(problem.rewards))),
        "ppo_k3": wrong,
    }
    distances = {name: list(map(list, zip(*run.distances, strict=True))) for name, run in runs.items()}
    return {"beta": BETA, "runs": distances}


def _pair(world: World, distance: float) -> tuple[Tensor, Tensor]:
    """A policy and its reference, so far apart in a fixed direction."""
    reference = world.random_logits(seed=0)
    return reference + distance * world.random_logits(seed=1), reference


def _in_reward(logprobs: Tensor, costs: Tensor) -> Tensor:
    """Costs taken from the reward, undiscounted, each token charged with what comes from it on."""
    charged = discounted_returns(-costs.detach(), torch.ones_like(costs))
    return reinforce_loss(logprobs, charged).sum(dim=1)


FORMS: dict[str, Form] = {
    "k1_in_reward": lambda logprobs, log_ratio: _in_reward(logprobs, k1(log_ratio)),
    "k2_sequence": lambda logprobs, log_ratio: k2(log_ratio.sum(dim=1)),
    "k2_token": lambda logprobs, log_ratio: k2(log_ratio).sum(dim=1),
    "k3_token": lambda logprobs, log_ratio: k3(log_ratio).sum(dim=1),
    "k3_sequence": lambda logprobs, log_ratio: k3(log_ratio.sum(dim=1)),
    "k3_in_reward": lambda logprobs, log_ratio: _in_reward(logprobs, k3(log_ratio)),
    "k1_loss": lambda logprobs, log_ratio: k1(log_ratio).sum(dim=1),
}
"""Ways to write a KL penalty: log π and the log-ratio of each token, `[sequences, time]`, to a loss each."""


def _gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def _compare(gradient: Tensor, true: Tensor) -> dict[str, float | None]:
    length = float(gradient.norm())
    error = float((gradient - true).norm() / true.norm())
    # Rounding leaves something of a gradient that is 0, and that has no direction.
    small = length < 1e-12
    cosine = None if small else float((gradient * true).sum() / true.norm()) / length
    return {"error": error, "cosine": cosine}
