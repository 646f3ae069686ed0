"""Sums, means and whitening over real entries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from logratio.objectives import masked

X = torch.tensor([[1.0, 2.0, torch.nan], [3.0, -torch.inf, torch.inf]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_hand_worked():
    """(1 + 2 + 3) / 3 = 2 over tokens; ((1 + 2)/2 + 3)/2 = 2.25 over sequences."""
    assert masked.masked_sum(X, MASK) == 6
    assert masked.masked_sum(X, MASK, dim=1).tolist() == [3, 3]
    assert masked.masked_mean(X, MASK) == 2
    assert masked.masked_mean(X, MASK, dim=1).tolist() == [1.5, 3]
    assert masked.masked_mean(X, MASK, dim=1).mean() == 2.25


def test_masked_entries_have_exactly_no_gradient():
    x = X.clone().requires_grad_()
    masked.masked_mean(x, MASK).backward()
    third = 1 / 3
    torch.testing.assert_close(
        x.grad, torch.tensor([[third, third, 0], [third, 0, 0]], dtype=torch.float64), rtol=1e-15, atol=0
    )


def test_a_sum_of_nothing_is_zero_and_a_mean_of_nothing_is_refused():
    nothing = torch.zeros_like(MASK)
    assert masked.masked_sum(X, nothing) == 0
    with pytest.raises(ValueError, match="mean of no entry"):
        masked.masked_mean(X, nothing)
    with pytest.raises(ValueError, match="mean of no entry"):
        masked.masked_whiten(X, nothing)


def test_one_empty_row_is_refused():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked.masked_mean(X, mask) == 1.5
    with pytest.raises(ValueError, match="dim=1"):
        masked.masked_mean(X, mask, dim=1)


def test_whiten_hand_worked():
    """1, 2, 3 have mean 2 and variance 2/3: ∓√1.5."""
    root = 1.5**0.5
    expected = torch.tensor([[-root, 0, 0], [root, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(masked.masked_whiten(X, MASK), expected, rtol=1e-14, atol=1e-15)
    kept = masked.masked_whiten(X, MASK, shift_mean=False)
    torch.testing.assert_close(kept, expected + 2 * MASK, rtol=1e-14, atol=1e-15)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=30).filter(
        lambda values: max(values) - min(values) > 1e-3
    ),
    st.integers(0, 5),
)
def test_whitened_entries_have_mean_0_and_variance_1_whatever_the_padding(values, num_padded):
    real = torch.tensor(values, dtype=torch.float64)
    x = torch.cat([real, torch.full((num_padded,), 1e9, dtype=torch.float64)])
    mask = torch.arange(len(x)) < len(real)
    white = masked.masked_whiten(x, mask)
    assert abs(white[mask].mean()) < 1e-9
    assert abs(white[mask].var(correction=0) - 1) < 1e-9
    unpadded = masked.masked_whiten(real, torch.ones(len(real), dtype=torch.bool))
    torch.testing.assert_close(white[mask], unpadded, rtol=1e-9, atol=1e-12)
    assert not white[~mask].any()


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30, 1e-40])
def test_equal_entries_are_whitened_to_0_not_to_rounding_noise(value):
    x = torch.full((41, 100), value)
    mask = torch.rand(41, 100, generator=torch.Generator().manual_seed(0)) < 0.7
    assert not masked.masked_whiten(x, mask).any()
    kept = masked.masked_whiten(x, mask, shift_mean=False)
    torch.testing.assert_close(kept, x * mask, rtol=1e-6, atol=0)


def test_whitening_survives_the_ends_of_the_number_format():
    for scale in (1e-30, 1e30):
        white = masked.masked_whiten(torch.tensor([-scale, 0.0, scale]), torch.ones(3, dtype=torch.bool))
        torch.testing.assert_close(white, torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]))


def test_mixed_shapes_are_refused():
    for function in (masked.masked_sum, masked.masked_mean, masked.masked_whiten):
        with pytest.raises(TypeCheckError):
            function(torch.ones(4, 1), torch.ones(4, 3, dtype=torch.bool))
        with pytest.raises(TypeCheckError):
            function(torch.ones(4), torch.ones(4))
