"""Signal and noise of a gradient, against gradients of which both are known."""

import pytest
import torch
from torch import nn

from logratio.training.gradient_noise import GradientSNR


def module(*sizes):
    return nn.ParameterList([nn.Parameter(torch.zeros(size, dtype=torch.float64)) for size in sizes])


def show(snr, parts, shares):
    """One minibatch's parts, added up as backward passes add them."""
    snr.start_minibatch()
    weights = list(snr.module.parameters())
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    for part, share in zip(parts, shares, strict=True):
        for weight, piece in zip(weights, part.split([w.numel() for w in weights]), strict=True):
            weight.grad += piece.reshape(weight.shape)
        snr.add_micro_batch(share)


def test_the_ratio_is_that_of_the_definition():
    generator = torch.Generator().manual_seed(1)
    parts = torch.randn(6, 10, generator=generator, dtype=torch.float64)
    shares = [0.2, 0.5, 0.3, 0.4, 0.4, 0.2]
    snr = GradientSNR(module(4, 6))
    show(snr, parts[:3], shares[:3])
    show(snr, parts[3:], shares[3:])
    mean = parts.sum(dim=0) / 2
    spread = sum(s * ((g / s - mean) ** 2).sum() for g, s in zip(parts, shares, strict=True)) / 5
    expected = (mean @ mean) / (spread / 2) - 1
    assert snr.signal_to_noise() == pytest.approx(float(expected), rel=1e-12)


def test_its_mean_is_the_signal_over_the_noise():
    """Parts of n answers each, every answer's gradient μ plus standard normal noise."""
    dimensions, parts, answers, runs = 400, 8, 4, 300
    generator = torch.Generator().manual_seed(0)
    truth = torch.full((dimensions,), 0.3, dtype=torch.float64)
    ratios = []
    for _ in range(runs):
        noise = torch.randn(parts, dimensions, generator=generator, dtype=torch.float64) / answers**0.5
        snr = GradientSNR(module(dimensions))
        for half in (noise[:4], noise[4:]):
            show(snr, (truth + half) / 4, [0.25] * 4)
        ratios.append(snr.signal_to_noise())
    exact = 0.09 * dimensions / (dimensions / (parts * answers))
    error = torch.tensor(ratios).std() / runs**0.5
    # A ratio of two estimates is biased by a few in a thousand here.
    assert abs(sum(ratios) / runs - exact) < 4 * float(error) + 0.005 * exact


def test_no_signal_is_0_on_average():
    generator = torch.Generator().manual_seed(2)
    ratios = []
    for _ in range(300):
        snr = GradientSNR(module(400))
        show(snr, torch.randn(8, 400, generator=generator, dtype=torch.float64) / 8, [0.125] * 8)
        ratios.append(snr.signal_to_noise())
    assert abs(sum(ratios) / 300) < 4 * float(torch.tensor(ratios).std()) / 300**0.5


def test_one_part_tells_no_variance():
    snr = GradientSNR(module(3))
    show(snr, torch.ones(1, 3, dtype=torch.float64), [1.0])
    assert snr.signal_to_noise() is None


def test_a_sample_of_the_coordinates_stands_for_all(monkeypatch):
    monkeypatch.setattr("logratio.training.gradient_noise.COORDINATES", 500)
    generator = torch.Generator().manual_seed(5)
    parts = torch.randn(6, 20_000, generator=generator, dtype=torch.float64) + 0.5
    some, every = GradientSNR(module(7_000, 13_000)), GradientSNR(module(7_000, 13_000))
    show(some, parts / 6, [1 / 6] * 6)
    assert 480 < len(some.micro_batches[0][0]) < 520
    monkeypatch.setattr("logratio.training.gradient_noise.COORDINATES", 100_000)
    show(every, parts / 6, [1 / 6] * 6)
    assert len(every.micro_batches[0][0]) == 20_000
    assert some.signal_to_noise() == pytest.approx(every.signal_to_noise(), rel=0.2)
