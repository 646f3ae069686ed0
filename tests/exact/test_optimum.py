"""Training ends at the exact optimum, and what the runs are judged by is right itself."""

import math
from dataclasses import replace

import pytest
import torch

from logratio.objectives.kl import k3
from logratio.verify.checks import optimum
from logratio.verify.worlds import training as runs
from logratio.verify.worlds.world import World, sequence_logprobs, token_logprobs

SMALL = World(vocabulary=3, horizon=2, prompts=((1,), (2, 1)))


@pytest.fixture(scope="module")
def problem():
    return runs.standard_problem(beta=0.5, world=SMALL)


@pytest.fixture(scope="module")
def even_pairs(problem):
    return runs.labelled_pairs(problem, torch.ones_like(problem.rewards))


@pytest.mark.slow
@pytest.mark.parametrize("check", optimum.CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(False)
    assert rows
    assert [row for row in rows if not row.passed] == []


# --- what runs are judged by ---------------------------------------------------------------------------


def test_no_policy_has_a_better_objective_than_the_optimum(problem):
    best = problem.objective(optimum.optimal_logits(problem))
    torch.testing.assert_close(best, problem.best_objective, rtol=1e-13, atol=1e-13)
    for seed in range(20):
        near = optimum.optimal_logits(problem) + SMALL.random_logits(seed=seed, scale=0.1)
        assert (problem.objective(near) < best).all()


def test_the_objective_missed_is_beta_times_the_divergence(problem):
    logits = SMALL.random_logits(seed=3)
    gap = (problem.best_objective - problem.objective(logits)).mean()
    assert gap.item() == pytest.approx(problem.beta * problem.divergence(logits).item(), rel=1e-12)


def test_the_table_of_the_optimum_is_the_optimum(problem):
    logprobs = sequence_logprobs(SMALL, optimum.optimal_logits(problem))
    torch.testing.assert_close(logprobs.exp(), problem.optimum, rtol=1e-13, atol=1e-15)
    assert problem.distance(optimum.optimal_logits(problem)).item() < 1e-14


def test_total_variation_hand_worked():
    p, q = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    assert runs.total_variation(p, q).item() == 0.5


def test_exact_values_are_written_out_sums(problem):
    logits = SMALL.random_logits(seed=4)
    logprobs = token_logprobs(SMALL, logits)
    rewards = torch.where(SMALL.mask, logprobs + 1, 0.0)
    values = runs.exact_values(SMALL, logprobs, rewards)
    table = logits.log_softmax(-1)
    for p in range(2):
        # After one token a sequence has one more, whatever it is.
        for state, prefix in enumerate(SMALL.prefixes):
            if prefix:
                expected = sum(math.exp(x) * (x + 1) for x in table[p, state].tolist())
                assert values[p, state].item() == pytest.approx(expected, abs=1e-14)
        start = table[p, 0].tolist()
        then = [0.0, *(values[p, SMALL.prefixes.index((token,))].item() for token in (1, 2))]
        expected = sum(math.exp(x) * (x + 1 + v) for x, v in zip(start, then, strict=True))
        assert values[p, 0].item() == pytest.approx(expected, abs=1e-14)


def test_exact_advantages_have_mean_0_and_vanish_at_the_optimum(problem):
    logits = SMALL.random_logits(seed=5)
    advantages, logprobs = runs.exact_advantages(problem, logits), token_logprobs(SMALL, logits)
    weights = logprobs.sum(-1).exp()
    for state in range(len(SMALL.prefixes)):
        here = SMALL.mask & (SMALL.states == state)
        assert (weights[..., None] * advantages * here).sum((1, 2)).abs().max() < 1e-15
    at_optimum = runs.exact_advantages(problem, optimum.optimal_logits(problem))
    assert (at_optimum * SMALL.mask).abs().max() < 1e-13


def test_labelled_pairs_are_a_distribution_that_bradley_and_terry_label(problem, even_pairs):
    torch.testing.assert_close(even_pairs.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    assert even_pairs.diagonal(dim1=1, dim2=2).abs().max() == 0
    odds = (even_pairs[1, 2, 5] / even_pairs[1, 5, 2]).log()
    assert odds.item() == pytest.approx((problem.rewards[1, 2] - problem.rewards[1, 5]).item(), rel=1e-12)


def test_sampled_pairs_are_shares_of_a_whole_number_of_pairs(even_pairs):
    shares = runs.sampled_pairs(even_pairs, 1000, seed=0)
    counts = 1000 * shares
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    assert counts.sum((1, 2)).tolist() == pytest.approx([1000, 1000])


def test_minimise_finds_a_minimum_in_a_bent_valley():
    def rosenbrock(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    seen = []
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    end = runs.minimise(rosenbrock, start, iterations=200, note=lambda x: seen.append(rosenbrock(x).item()))
    assert end.tolist() == pytest.approx([1, 1], abs=1e-6)
    assert (seen[0], seen[-1] < 1e-12) == (pytest.approx(24.2), True)


# --- training ------------------------------------------------------------------------------------------


def test_dpo_ends_at_the_optimum(problem, even_pairs):
    training = runs.fit_dpo(problem, even_pairs)
    assert training.distances[0][0] > 0.1
    assert training.distances[-1][0] < 1e-6


def test_the_gradient_of_dpo_vanishes_at_the_optimum(problem, even_pairs):
    logits = optimum.optimal_logits(problem).requires_grad_()
    (gradient,) = torch.autograd.grad(runs.dpo_objective(problem, even_pairs, logits), logits)
    assert gradient.norm() < 1e-14


def test_fitted_rewards_are_the_rewards_up_to_a_constant(problem, even_pairs):
    centred = problem.rewards - problem.rewards.mean(1, keepdim=True)
    torch.testing.assert_close(runs.fit_rewards(problem, even_pairs), centred, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("clip_range", "epochs"), [(None, 1), (0.2, 4)], ids=["reinforce", "ppo"])
def test_sampled_training_ends_at_the_optimum(problem, clip_range, epochs):
    training = runs.train_sampled(
        problem, seeds=(0, 1), clip_range=clip_range, epochs=epochs, updates=250, num_sequences=256
    )
    assert min(training.distances[0]) > 0.1
    assert max(training.distances[-1]) < 0.005


def test_exact_advantages_train_to_the_optimum(problem):
    training = runs.train_by_expectation(problem, updates=100)
    assert training.distances[-1][0] < 1e-3


@pytest.mark.parametrize(("clip_range", "epochs"), [(None, 1), (0.2, 4)], ids=["reinforce", "ppo"])
def test_a_reward_that_all_answers_to_a_prompt_have_moves_nothing(problem, clip_range, epochs):
    same = replace(problem, rewards=torch.tensor([[3.0], [-1.0]], dtype=torch.float64).expand(2, 7))
    training = runs.train_sampled(
        same, seeds=(0,), clip_range=clip_range, epochs=epochs, updates=1, num_sequences=64
    )
    assert torch.equal(training.logits[0], problem.reference)


def test_a_run_does_not_depend_on_the_runs_beside_it(problem):
    def distances(seeds):
        training = runs.train_sampled(
            problem, seeds=seeds, clip_range=0.2, epochs=2, updates=5, num_sequences=32
        )
        return torch.tensor(training.distances)

    torch.testing.assert_close(distances((3, 4))[:, 1], distances((4,))[:, 0], rtol=1e-12, atol=1e-12)


def test_k3_in_the_reward_ends_elsewhere(problem):
    training = runs.train_sampled(
        problem, seeds=(0,), clip_range=None, epochs=1, updates=150, num_sequences=256, estimator=k3
    )
    assert training.distances[-1][0] > 0.05


def test_dpo_on_pairs_of_some_sequences_leaves_the_others_wrong(problem):
    covered = torch.tensor([1.0, 0, 1, 0, 1, 0, 1], dtype=torch.float64).expand(2, -1)
    training = runs.fit_dpo(problem, runs.labelled_pairs(problem, covered))
    policy = runs.probabilities(SMALL, training.logits) * covered
    part, truth = (table / table.sum(1, keepdim=True) for table in (policy, problem.optimum * covered))
    assert runs.total_variation(part, truth) < 1e-6
    assert training.distances[-1][0] > 0.02


def test_the_expected_constant_is_that_of_two_sequences():
    """Two sequences: log-odds fitted with variance 1/(p q) over β², and π*(1 − π*) of it moves over."""
    world = World(vocabulary=2, horizon=1, prompts=((1,),))
    problem = runs.standard_problem(beta=0.7, world=world)
    weights = runs.labelled_pairs(problem, torch.ones_like(problem.rewards))
    p, best = weights[0, 0, 1].item(), problem.optimum[0, 0].item()
    expected = best * (1 - best) / 0.7 / math.sqrt(p * (1 - p)) * math.sqrt(2 / math.pi)
    assert optimum.expected_constant(problem, weights) == pytest.approx(expected, rel=1e-9)
