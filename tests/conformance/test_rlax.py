"""Returns, advantages, V-trace, clip and KL against rlax, on random rows with episodes that end inside."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from logratio.objectives.advantages import gae
from logratio.objectives.importance import log_weights
from logratio.objectives.kl import exact_kl
from logratio.objectives.policy_gradient import reinforce_loss
from logratio.objectives.ppo import clip_loss
from logratio.objectives.vtrace import vtrace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    jax = pytest.importorskip("jax")
    rlax = pytest.importorskip("rlax")
    jax.config.update("jax_enable_x64", True)

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

CLOSE = {"rtol": 1e-11, "atol": 1e-12}
SEEDS = range(8)


class Rows:
    """One stream of T steps: rewards, values of T + 1 states, discounts that are 0 at ends, log-ratios."""

    def __init__(self, seed: int, *, endings: bool = True) -> None:
        generator = np.random.default_rng(seed)
        time = int(generator.integers(1, 25))
        self.rewards, self.log_ratio = generator.normal(size=(2, time))
        self.values = generator.normal(size=time + 1)
        alive = generator.random(time) > 0.2 if endings else np.ones(time, dtype=bool)
        self.discounts = generator.uniform(0.5, 1.0, size=time) * alive

    def ours(self, lam: float):
        """The arguments of our functions: `[1, T]` each."""
        traces = np.where(self.discounts > 0, lam, 0.0)
        five = (self.rewards, self.values[:-1], self.values[1:], self.discounts, traces)
        return tuple(torch.from_numpy(column.copy())[None] for column in five)


def numbers(values) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


@pytest.mark.parametrize("lam", [0.0, 0.4, 0.95, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_generalised_advantages(seed, lam):
    rows = Rows(seed)
    theirs = rlax.truncated_generalized_advantage_estimation(rows.rewards, rows.discounts, lam, rows.values)
    torch.testing.assert_close(gae(*rows.ours(lam))[0], numbers(theirs), **CLOSE)


@pytest.mark.parametrize("lam", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_lambda_returns_are_advantages_with_the_values_added(seed, lam):
    rows = Rows(seed)
    theirs = rlax.lambda_returns(rows.rewards, rows.discounts, rows.values[1:], lam)
    ours = gae(*rows.ours(lam))[0] + numbers(rows.values[:-1])
    torch.testing.assert_close(ours, numbers(theirs), **CLOSE)


@pytest.mark.parametrize(("lam", "ceiling"), [(1.0, 1.0), (0.9, 1.0), (0.5, 3.0), (1.0, 1e9)])
@pytest.mark.parametrize("seed", SEEDS)
def test_vtrace(seed, lam, ceiling):
    """rlax has c̄ = 1 always; there λ mixes values at an end too, where the discount is 0."""
    rows = Rows(seed)
    theirs = rlax.vtrace_td_error_and_advantage(
        rows.values[:-1],
        rows.values[1:],
        rows.rewards,
        rows.discounts,
        np.exp(rows.log_ratio),
        lam,
        clip_rho_threshold=ceiling,
        clip_pg_rho_threshold=ceiling,
    )
    ours = vtrace(numbers(rows.log_ratio)[None], *rows.ours(lam), rho_ceiling=ceiling, c_ceiling=1.0)
    torch.testing.assert_close(ours.targets[0] - numbers(rows.values[:-1]), numbers(theirs.errors), **CLOSE)
    torch.testing.assert_close(ours.advantages[0], numbers(theirs.pg_advantage), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_without_an_end_is_a_trace_of_0_in_rlax_as_well(seed):
    """A time limit: the next value counts, the next row does not. rlax takes a λ for every step."""
    rows = Rows(seed, endings=False)
    cut = np.random.default_rng(seed).random(len(rows.rewards)) < 0.3
    traces = np.where(cut, 0.0, 0.9)
    theirs = rlax.truncated_generalized_advantage_estimation(
        rows.rewards, rows.discounts, traces, rows.values
    )
    first_four = rows.ours(0.9)[:4]
    torch.testing.assert_close(gae(*first_four, numbers(traces)[None])[0], numbers(theirs), **CLOSE)


@pytest.mark.parametrize("epsilon", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_clipped_surrogate_and_its_gradient(seed, epsilon):
    rows = Rows(seed)

    def surrogate(log_ratio):
        return rlax.clipped_surrogate_pg_loss(jax.numpy.exp(log_ratio), rows.rewards, epsilon)

    value, slope = jax.value_and_grad(surrogate)(rows.log_ratio)
    log_ratio = numbers(rows.log_ratio).requires_grad_()
    ours = clip_loss(log_ratio, numbers(rows.rewards), clip_range=epsilon).mean()
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(value), rel=1e-11, abs=1e-13)
    torch.testing.assert_close(log_ratio.grad, numbers(slope), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_policy_gradient_by_the_logits(seed):
    generator = np.random.default_rng(seed)
    logits, actions = generator.normal(size=(9, 4)), generator.integers(0, 4, size=9)
    advantages, weights = generator.normal(size=(2, 9))
    ones = np.ones(9)
    theirs = jax.grad(lambda x: rlax.policy_gradient_loss(x, actions, advantages * weights, ones))(logits)
    table = numbers(logits).requires_grad_()
    logprobs = table.log_softmax(-1)[torch.arange(9), torch.from_numpy(actions)]
    loss = reinforce_loss(logprobs, numbers(advantages * weights)).mean()
    torch.testing.assert_close(torch.autograd.grad(loss, table)[0], numbers(theirs), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_divergence_and_ratios_of_two_policies(seed):
    generator = np.random.default_rng(seed)
    policy, behaviour = generator.normal(size=(2, 7, 5))
    actions = generator.integers(0, 5, size=7)
    divergence = [float(rlax.categorical_kl_divergence(p, q)) for p, q in zip(policy, behaviour, strict=True)]
    torch.testing.assert_close(exact_kl(numbers(policy), numbers(behaviour)), numbers(divergence), **CLOSE)
    ratios = rlax.categorical_importance_sampling_ratios(policy, behaviour, actions)
    chosen = (torch.arange(7), torch.from_numpy(actions))
    two = (numbers(table).log_softmax(-1)[chosen][None] for table in (policy, behaviour))
    ours = log_weights(*two, torch.ones(1, 7, dtype=torch.bool), level="token").exp()[0]
    torch.testing.assert_close(ours, numbers(ratios), **CLOSE)
