"""Importance sampling against sums over every answer of an enumerated model."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from logratio.objectives import importance


@pytest.fixture
def rewards(world):
    """One number an answer, about −1 to 1."""
    return torch.sin(torch.arange(len(world.answers), dtype=torch.float64))


@pytest.fixture
def exact(world):
    """π, μ and log w of every answer, from the model's tables alone."""
    log_target, log_behaviour = world.answer_logprobs(world.policy), world.answer_logprobs(world.other)
    return log_target.exp(), log_behaviour.exp(), log_target - log_behaviour


def weights_of(world, level):
    target, behaviour = world.token_logprobs(world.policy), world.token_logprobs(world.other)
    return importance.log_weights(target, behaviour, world.mask, level=level)


def each_alone(estimate, *columns):
    """The estimate from every answer as a sample of one."""
    return torch.stack([estimate(*(column[i : i + 1] for column in columns)) for i in range(len(columns[0]))])


def test_log_weights_hand_worked():
    logprobs = torch.tensor([[-1.0, -2.0, torch.nan], [-3.0, torch.nan, -torch.inf]])
    behaviour = torch.tensor([[-1.5, -1.0, 0.0], [-1.0, 0.0, -torch.inf]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    by_level = {
        level: importance.log_weights(logprobs, behaviour, mask, level=level).tolist()
        for level in ("token", "sequence", "per_decision")
    }
    assert by_level["token"] == [[0.5, -1.0, 0.0], [-2.0, 0.0, 0.0]]
    assert by_level["sequence"] == [-0.5, -2.0]
    assert by_level["per_decision"] == [[0.5, -0.5, 0.0], [-2.0, 0.0, 0.0]]


def test_the_sequence_weight_is_the_ratio_of_probabilities(world, exact):
    _, _, log_weights = exact
    torch.testing.assert_close(weights_of(world, "sequence"), log_weights, rtol=1e-13, atol=1e-13)


def test_the_ordinary_estimate_is_unbiased(world, exact, rewards):
    target, behaviour, log_weights = exact
    estimates = each_alone(importance.ordinary_estimate, rewards, log_weights)
    truth = (target * rewards).sum()
    assert ((behaviour * estimates).sum() - truth).abs() < 1e-12
    variance = (behaviour * (estimates - truth).square()).sum()
    expected = (behaviour * (target / behaviour * rewards).square()).sum() - truth**2
    assert variance.item() == pytest.approx(expected.item(), rel=1e-10)


def test_an_estimate_of_many_is_the_mean_of_estimates_of_one(world, exact, rewards):
    _, _, log_weights = exact
    whole = importance.ordinary_estimate(rewards, log_weights)
    assert whole.item() == pytest.approx(
        each_alone(importance.ordinary_estimate, rewards, log_weights).mean().item(), abs=1e-13
    )


def test_per_decision_weights_are_unbiased_and_token_weights_are_not(world, exact):
    target, behaviour, _ = exact
    steps = torch.where(world.mask, world.step_rewards[world.state, world.action], 0.0)

    def expectation(level):
        estimates = each_alone(importance.ordinary_estimate, steps, weights_of(world, level))
        return (behaviour * estimates).sum().item()

    truth = value_of_prefix(world, ())
    assert truth == pytest.approx((target * steps.sum(1)).sum().item(), abs=1e-12)
    assert expectation("per_decision") == pytest.approx(truth, abs=1e-12)
    assert abs(expectation("token") - truth) > 1e-2


def value_of_prefix(world, prefix):
    """E_π of the rewards after a prefix, by recursion over prefixes instead of a sum over answers."""
    if prefix not in world.prefixes:
        return 0.0
    state = world.prefixes.index(prefix)
    chances = world.policy[state].softmax(-1).tolist()
    return math.fsum(
        chance * (world.step_rewards[state, token].item() + value_of_prefix(world, (*prefix, token)))
        for token, chance in enumerate(chances)
    )


def test_the_self_normalised_estimate_of_two_samples(world, exact, rewards):
    """Its expectation over all pairs of answers, against a loop; it is biased and so not J."""
    target, behaviour, log_weights = exact
    w, v = log_weights.exp().tolist(), rewards.tolist()
    pairs = [(i, j) for i in range(0, 121, 3) for j in range(0, i + 1, 3)]
    for i, j in pairs:
        index = torch.tensor([i, j])
        got = importance.self_normalised_estimate(rewards[index], log_weights[index]).item()
        assert got == pytest.approx((w[i] * v[i] + w[j] * v[j]) / (w[i] + w[j]), abs=1e-12)
    whole = importance.self_normalised_estimate(rewards, log_weights + behaviour.log())
    assert whole.item() == pytest.approx((target * rewards).sum().item(), abs=1e-12)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-5, 5)), min_size=1, max_size=20), st.floats(-1e4, 1e4)
)
def test_a_shared_factor_moves_neither_the_normalised_estimate_nor_the_sample_size(rows, shift):
    log_weights, values = torch.tensor(rows, dtype=torch.float64).unbind(1)
    estimate = importance.self_normalised_estimate(values, log_weights)
    assert values.min() - 1e-9 <= estimate <= values.max() + 1e-9
    moved = importance.self_normalised_estimate(values, log_weights + shift)
    assert moved.item() == pytest.approx(estimate.item(), abs=1e-7)
    size = importance.effective_sample_size(log_weights)
    assert 1 - 1e-9 <= size <= len(rows) + 1e-9
    assert importance.effective_sample_size(log_weights + shift).item() == pytest.approx(
        size.item(), rel=1e-7
    )


def test_truncation_has_exactly_its_known_bias(world, exact, rewards):
    target, behaviour, log_weights = exact
    for ceiling in (0.5, 2.0, 10.0):
        bounded = importance.truncate_weights(log_weights, ceiling=ceiling)
        estimates = each_alone(importance.ordinary_estimate, rewards, bounded)
        bias = (behaviour * estimates).sum() - (target * rewards).sum()
        weights = target / behaviour
        expected = (behaviour * (weights.clamp(max=ceiling) - weights) * rewards).sum()
        assert bias.item() == pytest.approx(expected.item(), abs=1e-12)
        assert bounded.exp().max() <= ceiling * (1 + 1e-12)
    assert torch.equal(importance.truncate_weights(log_weights, ceiling=1e6), log_weights)


def test_effective_sample_size(world, exact):
    """Weights 1 and 3 are worth (1 + 3)² / (1 + 9) = 1.6; for many samples n / (1 + χ²)."""
    _, behaviour, log_weights = exact
    pair = torch.tensor([1.0, 3.0], dtype=torch.float64).log()
    assert importance.effective_sample_size(pair).item() == pytest.approx(1.6, rel=1e-14)
    assert importance.effective_sample_size(torch.tensor([0.0, -1e4])).item() == 1
    drawn = torch.multinomial(behaviour, 50_000, replacement=True, generator=torch.Generator().manual_seed(3))
    share = importance.effective_sample_size(log_weights[drawn]) / len(drawn)
    divergence = (behaviour * log_weights.exp().square()).sum() - 1
    assert share.item() == pytest.approx(1 / (1 + divergence.item()), rel=0.03)
    sampled = importance.chi_square(log_weights[drawn]).item()
    assert sampled == pytest.approx(log_weights[drawn].exp().square().mean().item() - 1, rel=1e-10)


def test_chi_square_is_unbiased(world, exact):
    target, behaviour, log_weights = exact
    expected = (target.square() / behaviour).sum() - 1
    estimates = each_alone(importance.chi_square, log_weights)
    assert (behaviour * estimates).sum().item() == pytest.approx(expected.item(), rel=1e-11)


def test_on_policy_every_weight_is_exactly_1(world, rewards):
    logprobs = world.token_logprobs(world.policy)
    for level in ("token", "sequence", "per_decision"):
        log_weights = importance.log_weights(logprobs, logprobs, world.mask, level=level)
        assert not log_weights.any()
    none = torch.zeros_like(rewards)
    assert importance.effective_sample_size(none) == len(rewards)
    assert importance.self_normalised_estimate(rewards, none) == rewards.mean()
    assert importance.ordinary_estimate(rewards, none) == rewards.mean()
    assert importance.chi_square(none).abs() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_apart_policies_give_finite_values_and_gradients(dtype):
    log_weights = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype, requires_grad=True)
    values = torch.arange(5, dtype=dtype)
    for result in (
        importance.self_normalised_estimate(values, log_weights),
        importance.effective_sample_size(log_weights),
        importance.ordinary_estimate(values, importance.truncate_weights(log_weights, ceiling=2.0)),
        importance.chi_square(importance.truncate_weights(log_weights, ceiling=2.0)),
    ):
        (gradient,) = torch.autograd.grad(result, log_weights)
        assert result.isfinite()
        assert gradient.isfinite().all()


def test_gradcheck():
    log_weights = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([1.0, -4.0, 2.0], dtype=torch.float64, requires_grad=True)
    for estimate in (importance.ordinary_estimate, importance.self_normalised_estimate):
        assert torch.autograd.gradcheck(estimate, (values, log_weights))
    for measure in (importance.effective_sample_size, importance.chi_square):
        assert torch.autograd.gradcheck(measure, (log_weights,))
    assert torch.autograd.gradcheck(lambda x: importance.truncate_weights(x, ceiling=2.0), (log_weights,))


def test_what_has_no_answer_is_refused():
    empty, impossible = torch.zeros(0), torch.full((3,), -math.inf)
    for estimate in (importance.ordinary_estimate, importance.self_normalised_estimate):
        with pytest.raises(ValueError, match="at least one sample"):
            estimate(empty, empty)
    for measure in (importance.effective_sample_size, importance.chi_square):
        with pytest.raises(ValueError, match="at least one sample"):
            measure(empty)
    with pytest.raises(ValueError, match="all 3 weights are 0"):
        importance.effective_sample_size(impossible)
    with pytest.raises(ValueError, match="all 3 weights are 0"):
        importance.self_normalised_estimate(torch.ones(3), impossible)
    with pytest.raises(ValueError, match="ceiling is 0"):
        importance.truncate_weights(torch.zeros(3), ceiling=0.0)


def test_the_variance_keeps_its_bound(world, exact, rewards):
    """At most B²(1 + χ²) of one sample (Cortes, Mansour and Mohri), with |v| ≤ B."""
    target, behaviour, log_weights = exact
    estimates = each_alone(importance.ordinary_estimate, rewards, log_weights)
    variance = (behaviour * estimates.square()).sum() - (target * rewards).sum() ** 2
    divergence = (behaviour * each_alone(importance.chi_square, log_weights)).sum()
    assert variance <= rewards.abs().max() ** 2 * (1 + divergence)


def test_chi_square_hand_worked():
    """Weights 1 and 3: (1 + 9)/2 − 1 = 4. By the effective sample size, 2/1.6 − 1 = ¼: another estimate."""
    pair = torch.tensor([1.0, 3.0], dtype=torch.float64).log()
    assert importance.chi_square(pair).item() == pytest.approx(4, rel=1e-14)
    assert 2 / importance.effective_sample_size(pair).item() - 1 == pytest.approx(0.25, rel=1e-13)


def test_weights_beyond_the_number_format_are_infinite_not_wrong():
    far = torch.tensor([0.0, 800.0], dtype=torch.float64)
    assert importance.ordinary_estimate(torch.ones(2, dtype=torch.float64), far) == math.inf
    assert importance.chi_square(far / 2 + 1) == math.inf


def test_what_one_answer_has_behind_its_end_does_not_matter(world):
    """Padding may hold anything: the weights are the same to the bit."""
    target, behaviour = world.token_logprobs(world.policy), world.token_logprobs(world.other)
    rubbish = torch.where(world.mask, 0.0, torch.nan).double()
    for level in ("token", "sequence", "per_decision"):
        clean = importance.log_weights(target, behaviour, world.mask, level=level)
        dirty = importance.log_weights(target + rubbish, behaviour - rubbish, world.mask, level=level)
        assert torch.equal(clean, dirty)


def test_an_unknown_level_is_named():
    """Without the checks of the annotations, as in a program."""
    plain = inspect.unwrap(importance.log_weights)
    tokens, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="level is 'turn'; it must be 'token', 'sequence'"):
        plain(tokens, tokens, mask, level="turn")


def test_mixed_shapes_and_unknown_levels_are_refused():
    tokens, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(TypeCheckError):
        importance.log_weights(tokens, torch.zeros(2, 1), mask, level="token")
    with pytest.raises(TypeCheckError):
        importance.log_weights(tokens, tokens, mask[:, :1], level="token")
    with pytest.raises(TypeCheckError):
        importance.log_weights(tokens, tokens, mask, level="turn")
    with pytest.raises(TypeCheckError):
        importance.ordinary_estimate(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(TypeCheckError):
        importance.self_normalised_estimate(torch.zeros(3, 1), torch.zeros(3))
