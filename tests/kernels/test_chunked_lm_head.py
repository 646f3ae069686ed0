"""Log-probabilities in chunks against the whole softmax."""

import pytest
import torch

from logratio.kernels import chunked_lm_head
from logratio.kernels.chunked_lm_head import (
    KEPT_BYTES,
    LogitChunks,
    logit_chunks_of,
    token_logprobs,
    token_logprobs_and_entropy,
)

VOCABULARY, WIDTH, TOKENS = 37, 6, 11


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    return hidden, weight, targets


def whole(hidden, weight, targets):
    return (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 38, 8192])
def test_every_chunk_size_gives_the_whole_softmax_and_its_gradient(inputs, chunk):
    hidden, weight, targets = inputs
    outer = torch.linspace(-2, 3, TOKENS, dtype=torch.float64)
    ours = token_logprobs(hidden, weight, targets, chunk=chunk)
    theirs = whole(hidden, weight, targets)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    for left, right in zip(
        torch.autograd.grad(ours, (hidden, weight), outer),
        torch.autograd.grad(theirs, (hidden, weight), outer),
        strict=True,
    ):
        assert torch.allclose(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kept_bytes", [0, 3 * 10 * 16 * 8, 1 << 20])
@pytest.mark.parametrize("entropy", [False, True])
def test_chunks_that_are_kept_are_those_computed_again(inputs, kept_bytes, entropy, monkeypatch):
    """None, some and all kept; and a second pass backward finds none that the first has written over."""
    monkeypatch.setattr(chunked_lm_head, "KEPT_BYTES", kept_bytes)
    hidden, weight, targets = inputs
    ours = (
        token_logprobs_and_entropy(hidden, weight, targets, chunk=10)[0]
        if entropy
        else token_logprobs(hidden, weight, targets, chunk=10)
    )
    expected = torch.autograd.grad(whole(hidden, weight, targets).sum(), (hidden, weight))
    for _ in range(2):
        found = torch.autograd.grad(ours.sum(), (hidden, weight), retain_graph=True)
        for left, right in zip(found, expected, strict=True):
            assert torch.allclose(left, right, rtol=0, atol=1e-12)


def test_no_more_bytes_of_chunks_are_kept_than_given(inputs):
    hidden, weight, _ = (value.detach() for value in inputs)
    for given, kept in ((0, []), (879, [30]), (880, [0]), (1760, [0, 10]), (10**9, [0, 10, 20, 30])):
        logit_chunks = LogitChunks(weight, hidden, dtype=torch.float64, chunk=10, kept_bytes=given)
        assert [start for start, _ in logit_chunks.first_pass()] == [0, 10, 20, 30]
        assert sorted(logit_chunks._kept) == kept


def test_nothing_is_kept_where_no_gradient_is_asked_for(inputs):
    hidden, weight, _ = inputs
    with torch.no_grad():
        assert logit_chunks_of(hidden, weight, 10, None)._room == 0
    assert logit_chunks_of(hidden, weight, 10, None)._room == KEPT_BYTES


def test_gradcheck(inputs):
    hidden, weight, targets = inputs
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, targets, chunk=10), (hidden, weight))


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_finite_at_large_logits(inputs, scale):
    hidden, weight, targets = (value.detach() for value in inputs)
    hidden = (hidden * scale).float().requires_grad_()
    weight = weight.float().requires_grad_()
    logprobs = token_logprobs(hidden, weight, targets, chunk=10)
    logprobs.sum().backward()
    assert torch.isfinite(logprobs).all()
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(weight.grad).all()


def test_bfloat16_states_give_float32_logprobs(inputs):
    hidden, weight, targets = (value.detach() for value in inputs)
    result = token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), whole(hidden, weight, targets), atol=0.1)


def test_a_frozen_head_gets_no_gradient(inputs):
    hidden, weight, targets = inputs
    frozen = weight.detach()
    token_logprobs(hidden, frozen, targets).sum().backward()
    assert hidden.grad is not None
    assert frozen.grad is None


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 38, 8192])
def test_entropy_in_chunks_is_that_of_the_whole_softmax(inputs, chunk):
    hidden, weight, targets = inputs
    logprobs, entropy = token_logprobs_and_entropy(hidden, weight, targets, chunk=chunk)
    every = (hidden @ weight.T).log_softmax(-1)
    exact = -(every.exp() * every).sum(dim=-1)
    assert torch.allclose(logprobs, whole(hidden, weight, targets), rtol=0, atol=1e-12)
    assert torch.allclose(entropy, exact, rtol=0, atol=1e-12)
    outer = torch.linspace(-2, 3, TOKENS, dtype=torch.float64)
    plain = (whole(hidden, weight, targets), exact)
    outers = (outer, outer.flip(0))
    for left, right in zip(
        torch.autograd.grad((logprobs, entropy), (hidden, weight), outers),
        torch.autograd.grad(plain, (hidden, weight), outers),
        strict=True,
    ):
        assert torch.allclose(left, right, rtol=0, atol=1e-12)


def test_an_entropy_that_is_only_looked_at_changes_no_gradient(inputs):
    hidden, weight, targets = inputs
    outer = torch.linspace(-2, 3, TOKENS, dtype=torch.float64)
    looked_at, _ = token_logprobs_and_entropy(hidden, weight, targets, chunk=10)
    alone = token_logprobs(hidden, weight, targets, chunk=10)
    for left, right in zip(
        torch.autograd.grad(looked_at, (hidden, weight), outer),
        torch.autograd.grad(alone, (hidden, weight), outer),
        strict=True,
    ):
        assert torch.equal(left, right)


def test_the_entropy_alone_has_its_gradient(inputs):
    hidden, weight, targets = inputs
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs_and_entropy(h, w, targets, chunk=10)[1], (hidden, weight)
    )


@pytest.mark.parametrize("num_tokens", [1, 16, 17])
def test_a_token_has_the_same_numbers_among_any_number_of_others(inputs, num_tokens):
    hidden, weight, _ = inputs
    states = hidden[:1].expand(num_tokens, WIDTH)
    targets = torch.full((num_tokens,), 3)
    logprobs, entropy = token_logprobs_and_entropy(states, weight, targets)
    assert logprobs.shape == entropy.shape == (num_tokens,)
    assert torch.allclose(logprobs, whole(states, weight, targets), rtol=0, atol=1e-12)
    assert torch.allclose(entropy, entropy[:1].expand(num_tokens), rtol=0, atol=1e-12)


def test_gradcheck_of_entropy(inputs):
    hidden, weight, targets = inputs
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs_and_entropy(h, w, targets, chunk=10), (hidden, weight)
    )


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_entropy_is_finite_at_large_logits(inputs, scale):
    hidden, weight, targets = (value.detach() for value in inputs)
    hidden = (hidden * scale).float().requires_grad_()
    logprobs, entropy = token_logprobs_and_entropy(hidden, weight.float().requires_grad_(), targets, chunk=10)
    (logprobs + entropy).sum().backward()
    assert bool(entropy.isfinite().all())
    assert bool((entropy > -1e-2 * scale).all())
    assert bool(hidden.grad.isfinite().all())
