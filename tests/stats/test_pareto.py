"""The shape of the largest weights: known shapes, the paper's formulas, what cannot be told."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.stats.pareto import LEAST_TAIL, pareto_k


def tail_of(count, *, shape, seed=0, dtype=torch.float64):
    """log w of samples with P(w > x) = x^(−1/shape)."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64).clamp(min=1e-300)
    return (-shape * uniform.log()).to(dtype)


def zhang_and_stephens(log_weights):
    """The estimate in plain numbers: Zhang and Stephens (2009) with the prior of Vehtari et al."""
    count = len(log_weights)
    size = math.ceil(min(count / 5, 3 * math.sqrt(count)))
    weights = sorted(math.exp(x - max(log_weights)) for x in log_weights)
    x = [w - weights[-size - 1] for w in weights[-size:]]
    n, m = len(x), 30 + math.floor(math.sqrt(len(x)))
    quartile = x[math.floor(n / 4 + 0.5) - 1]
    grid = [1 / x[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]

    def profile(b):
        k = math.fsum(math.log(1 - b * y) for y in x) / n
        return n * (math.log(-b / k) - k - 1)

    fits = [profile(b) for b in grid]
    weight = [1 / math.fsum(math.exp(other - own) for other in fits) for own in fits]
    b = math.fsum(w * each for w, each in zip(weight, grid, strict=True))
    k = math.fsum(math.log(1 - b * y) for y in x) / n
    return (n * k + 10 * 0.5) / (n + 10)


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_known_shapes_are_found(shape):
    """Within five standard errors (1 + k)/√tail."""
    count = 200_000
    error = (1 + shape) / math.sqrt(3 * math.sqrt(count))
    assert abs(pareto_k(tail_of(count, shape=shape)).item() - shape) < 5 * error


def test_weights_with_an_end_have_no_heavy_tail():
    """Uniform between 0 and 1: shape −1. Gaussian log-weights of small spread: far below 0.5."""
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(100_000, generator=generator, dtype=torch.float64)
    assert pareto_k(uniform.log()) < -0.5
    normal = torch.randn(100_000, generator=generator, dtype=torch.float64)
    assert pareto_k(0.1 * normal) < 0.2
    assert pareto_k(3 * normal) > 0.7


@pytest.mark.parametrize("count", [21, 25, 60, 225, 1_000])
@pytest.mark.parametrize("shape", [0.2, 0.9])
def test_it_is_the_papers_estimate(count, shape):
    log_weights = tail_of(count, shape=shape, seed=count)
    assert pareto_k(log_weights).item() == pytest.approx(zhang_and_stephens(log_weights.tolist()), abs=1e-10)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(-1e3, 1e3))
def test_neither_order_nor_a_shared_factor_matters(seed, shift):
    log_weights = tail_of(200, shape=0.6, seed=seed)
    expected = pareto_k(log_weights).item()
    assert pareto_k(log_weights.flip(0) + shift).item() == pytest.approx(expected, abs=1e-6)


def test_equal_weights_have_no_tail():
    """Equal, or equal but for rounding: nothing outweighs anything."""
    assert pareto_k(torch.zeros(100, dtype=torch.float64)) == -math.inf
    rounding = torch.zeros(100, dtype=torch.float64)
    rounding[:3] = 1e-16
    rounding[3:40] = -1e-16
    assert pareto_k(rounding) == -math.inf
    # Cut at a ceiling, more than the tail is equal.
    assert pareto_k(tail_of(1_000, shape=1.2).clamp(max=0.5)) == -math.inf


def test_ties_with_the_threshold_are_no_excess():
    """Half of the tail stands exactly at the threshold: the shape is that of the other half."""
    log_weights = tail_of(1_000, shape=0.5, seed=3).sort().values
    tail = math.ceil(3 * math.sqrt(1_000))
    tied = log_weights.clone()
    tied[-tail - 1 : -tail // 2] = log_weights[-tail // 2 - 1]
    assert -0.5 < pareto_k(tied) < 1.5


def test_too_few_samples_cannot_tell():
    assert pareto_k(torch.zeros(0)) == math.inf
    assert pareto_k(tail_of(20, shape=0.5)) == math.inf
    assert pareto_k(tail_of(21, shape=0.5)) < math.inf
    few = torch.zeros(100, dtype=torch.float64)
    few[: LEAST_TAIL - 1] = torch.arange(1.0, LEAST_TAIL, dtype=torch.float64)
    assert pareto_k(few) == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_comfort(value):
    log_weights = tail_of(100, shape=0.5)
    log_weights[7] = value
    assert pareto_k(log_weights) == math.inf
    assert pareto_k(torch.full((100,), -math.inf)) == math.inf


def test_far_apart_weights_give_a_finite_shape():
    for dtype in (torch.float32, torch.float64):
        far = torch.linspace(-1e4, 1e4, 1_000, dtype=dtype)
        assert pareto_k(far).isfinite()
        assert pareto_k(far).dtype == dtype
        impossible = tail_of(1_000, shape=0.5, dtype=dtype)
        impossible[::2] = -math.inf
        assert pareto_k(impossible).isfinite()
