"""The policy gradient and its baselines, against sums over every answer of an enumerated model."""

import pytest
import torch
from jaxtyping import TypeCheckError

from logratio.objectives import importance, policy_gradient
from logratio.objectives.advantages import discounted_returns


@pytest.fixture
def rewards(world):
    """One number an answer, about −1 to 1."""
    return torch.sin(torch.arange(len(world.answers), dtype=torch.float64))


def true_gradient(world, rewards):
    """∇J: the derivative of Σ_y π(y) R(y) itself, with no score function in it."""
    logits = world.policy.clone().requires_grad_()
    return torch.autograd.grad((world.answer_logprobs(logits).exp() * rewards).sum(), logits)[0]


def ours(world, psi, *, chances=None, log_weights=None):
    """−∇ of the loss summed over tokens, in expectation over answers with these chances."""
    logits = world.policy.clone().requires_grad_()
    logprobs = world.token_logprobs(logits)
    losses = policy_gradient.reinforce_loss(logprobs, psi.expand_as(logprobs), log_weights=log_weights)
    if chances is None:
        chances = logprobs.detach().sum(1).exp()
    total = (chances * torch.where(world.mask, losses, 0.0).sum(1)).sum()
    return -torch.autograd.grad(total, logits)[0]


def test_hand_worked():
    """−w·Ψ·log π = −e⁰·2·(−½) = 1 and −½·(−3)·(−1) = −1.5; the slope is −wΨ."""
    logprobs = torch.tensor([-0.5, -1.0], requires_grad=True)
    psi = torch.tensor([2.0, -3.0], requires_grad=True)
    log_weights = torch.tensor([1.0, 0.5]).log().requires_grad_()
    losses = policy_gradient.reinforce_loss(logprobs, psi, log_weights=log_weights)
    assert losses.tolist() == pytest.approx([1, -1.5])
    losses.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-2, 1.5])
    assert psi.grad is None
    assert log_weights.grad is None
    assert policy_gradient.reinforce_loss(logprobs, psi).tolist() == [1, -3]


def test_the_numbers_of_rlax():
    """The mean over three states of −w·A·log π, as rlax (Apache-2.0) prints it."""
    logits = torch.tensor([[1.0, 1, 1], [2, 0, 0], [-1, -2, -3]], dtype=torch.float64).log_softmax(1)
    psi = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    weights = torch.tensor([-2.0, 2.0, 0.0], dtype=torch.float64)
    first = policy_gradient.reinforce_loss(logits.diagonal(), weights * psi)
    assert first.mean().item() == pytest.approx(0.0788835088, abs=1e-7)
    second = policy_gradient.reinforce_loss(logits[:, 0], (weights - 1) * -psi)
    assert second.mean().item() == pytest.approx(0.327200909, abs=1e-7)


def test_return_baseline_and_reward_to_go_give_the_gradient(world, rewards):
    exact = true_gradient(world, rewards)
    close = {"rtol": 1e-10, "atol": 1e-14}
    torch.testing.assert_close(ours(world, rewards[:, None]), exact, **close)
    torch.testing.assert_close(ours(world, rewards[:, None] - 7.3), exact, **close)
    of_state = torch.cos(world.state.double())
    torch.testing.assert_close(ours(world, rewards[:, None] - of_state), exact, **close)
    steps = torch.where(world.mask, world.step_rewards[world.state, world.action], 0.0)
    to_go = discounted_returns(steps, torch.ones_like(steps))
    exact = true_gradient(world, steps.sum(1))
    torch.testing.assert_close(ours(world, to_go), exact, **close)
    torch.testing.assert_close(ours(world, steps.sum(1, keepdim=True)), exact, **close)


def test_a_baseline_that_knows_the_action_is_biased(world, rewards):
    exact = true_gradient(world, rewards)
    wrong = ours(world, rewards[:, None] - torch.cos(world.action.double()))
    assert (wrong - exact).norm() > 0.1 * exact.norm()


def test_weights_of_sequences_and_per_decision_make_another_policys_answers_right(world, rewards):
    logprobs, behaviour = world.token_logprobs(world.policy), world.token_logprobs(world.other)
    chances = behaviour.sum(1).exp()
    weights = {
        level: importance.log_weights(logprobs, behaviour, world.mask, level=level)
        for level in ("token", "sequence", "per_decision")
    }
    exact = true_gradient(world, rewards)
    close = {"rtol": 1e-10, "atol": 1e-14}
    whole = weights["sequence"][:, None].expand_as(logprobs)
    right = ours(world, rewards[:, None], chances=chances, log_weights=whole)
    torch.testing.assert_close(right, exact, **close)
    surrogate = ours(world, rewards[:, None], chances=chances, log_weights=weights["token"])
    assert (surrogate - exact).norm() > 0.05 * exact.norm()
    unweighted = ours(world, rewards[:, None], chances=chances)
    assert (unweighted - exact).norm() > 0.05 * exact.norm()
    steps = torch.where(world.mask, world.step_rewards[world.state, world.action], 0.0)
    to_go = discounted_returns(weights["per_decision"].exp() * steps, torch.ones_like(steps))
    per_decision = ours(world, to_go, chances=chances)
    torch.testing.assert_close(per_decision, true_gradient(world, steps.sum(1)), **close)


def test_greedy_baseline():
    ours = policy_gradient.greedy_baseline(torch.tensor([1.0, 0.5, -2.0]), torch.tensor([0.5, 0.5, 1.0]))
    assert ours.tolist() == [0.5, 0, -3]


def test_the_optimal_baseline_has_the_least_variance(world, rewards):
    """Of the gradient estimate g(R − b): its trace E‖g‖²(R − b)² over all answers is least at b*."""
    logits = world.policy.clone().requires_grad_()
    logprobs = world.answer_logprobs(logits)
    norms = torch.stack(
        [torch.autograd.grad(one, logits, retain_graph=True)[0].square().sum() for one in logprobs]
    )
    chances = logprobs.detach().exp()
    best = policy_gradient.optimal_baseline(rewards, chances * norms)
    expected = (chances * norms * rewards).sum() / (chances * norms).sum()
    assert best.item() == pytest.approx(expected.item(), rel=1e-12)

    def spread(baseline):
        return (chances * norms * (rewards - baseline).square()).sum().item()

    for other in (best - 0.01, best + 0.01, (chances * rewards).sum(), torch.zeros_like(best)):
        assert spread(other) > spread(best)
    with pytest.raises(ValueError, match="all score norms are 0"):
        policy_gradient.optimal_baseline(torch.ones(3), torch.zeros(3))


def test_gradcheck():
    logprobs, psi, log_weights = (
        torch.tensor(row, dtype=torch.float64, requires_grad=True)
        for row in ((-0.3, -2.0, -1.1), (1.0, -4.0, 2.0), (0.1, -0.5, 0.4))
    )

    def loss(x):
        return policy_gradient.reinforce_loss(x, psi.detach(), log_weights=log_weights.detach())

    assert torch.autograd.gradcheck(loss, (logprobs,))


def test_mixed_shapes_are_refused():
    logprobs = torch.zeros(4, 3)
    for wrong in (torch.zeros(4, 1), torch.zeros(1, 3), torch.zeros(4), torch.zeros(3)):
        with pytest.raises(TypeCheckError):
            policy_gradient.reinforce_loss(logprobs, wrong)
        with pytest.raises(TypeCheckError):
            policy_gradient.reinforce_loss(logprobs, logprobs, log_weights=wrong)
    with pytest.raises(TypeCheckError):
        policy_gradient.greedy_baseline(torch.zeros(4), torch.zeros(4, 1))
    with pytest.raises(TypeCheckError):
        policy_gradient.optimal_baseline(torch.zeros(4), torch.zeros(1))
