"""Two policies at the same tokens, against softmaxes over the whole vocabulary."""

import pytest
import torch

from logratio.kernels.chunked_kl import compare_logits, compare_tokens

TOKENS, VOCABULARY = 7, 29


def heads(*, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    states, weight = (
        torch.randn(TOKENS, 5, generator=generator),
        torch.randn(VOCABULARY, 5, generator=generator),
    )
    others, head = (
        torch.randn(TOKENS, 4, generator=generator),
        torch.randn(VOCABULARY, 4, generator=generator),
    )
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return [(scale * x).to(dtype) for x in (states, weight, others, head)], targets


@pytest.mark.parametrize("chunk", [1, 8, 29, 100])
def test_all_four_are_those_of_the_whole_softmax(chunk):
    (states, weight, others, head), targets = heads()
    found = compare_tokens(states, weight, others, head, targets, chunk=chunk)
    log_p, log_q = (states @ weight.T).log_softmax(-1), (others @ head.T).log_softmax(-1)
    rows = torch.arange(TOKENS)
    expected = {
        "logprobs": log_p[rows, targets],
        "reference_logprobs": log_q[rows, targets],
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1),
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(found, name), values, rtol=1e-12, atol=1e-12, msg=name)
    alike = compare_logits(states @ weight.T, others @ head.T, targets)
    for ours, theirs in zip(alike, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_equal_policies_are_at_exactly_0():
    (states, weight, *_), targets = heads(dtype=torch.float32)
    found = compare_tokens(states, weight, states, weight, targets, chunk=8)
    assert torch.equal(found.kl, torch.zeros(TOKENS))
    assert torch.equal(found.logprobs, found.reference_logprobs)


def test_extreme_logits_stay_finite():
    (states, weight, others, head), targets = heads(scale=300.0, dtype=torch.float32)
    found = compare_tokens(states, weight, others, head, targets, chunk=8)
    assert all(torch.isfinite(values).all() for values in found)
    assert float(found.kl.min()) >= 0
