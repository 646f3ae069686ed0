"""The checks of returns and advantages, and the lists that they are held against."""

import math

import pytest
import torch

from logratio.verify.checks import advantages, episodes
from logratio.verify.worlds import oracle
from logratio.verify.worlds.world import World


@pytest.mark.parametrize("check", advantages.CHECKS, ids=lambda check: check.name)
def test_every_row_holds(check):
    failed = [row for row in check.run(True) if not row.passed]
    assert failed == []


def test_the_definition_hand_worked():
    """γ = ½: k-step returns 1 + ½·4 = 3 and 1 + ½·3 = 2.5 from the first row, 3 from the last."""
    ended = episodes.Episode([1.0, 3.0], [2.0, 4.0, 9.0], True)
    assert ended.k_step_returns(0, 0.5) == [3, 2.5]
    assert ended.k_step_returns(1, 0.5) == [3]
    # ½·3 + ½·2.5 − 2 and 3 − 4.
    assert ended.advantages(0.5, 0.5) == [0.75, -1]
    cut = episodes.Episode([1.0, 3.0], [2.0, 4.0, 6.0], False)
    assert cut.advantages(0.5, 0.5) == [1.5, 2]


def test_random_episodes_have_both_ends_and_fit_their_rows():
    rows = episodes.random_episodes(seed=1)
    together = [episode for row in rows for episode in row]
    assert {episode.terminated for episode in together} == {True, False}
    assert all(sum(len(episode.rewards) for episode in row) <= 64 for row in rows)
    laid = episodes.pad_episodes(rows, lam=0.5)
    assert laid.mask.sum() == sum(len(episode.rewards) for episode in together)
    assert laid.rewards[~laid.mask].isnan().all()
    assert not laid.rewards[laid.mask].isnan().any()


def test_the_tree_agrees_with_sums_over_sequences():
    world = World(horizon=3, prompts=((1,),))
    logits, rewards = world.random_logits(seed=1), world.rewards(seed=2)
    tree = advantages.grow(world, logits[0], rewards[0])
    (chances,) = oracle.sequence_probabilities(world, logits)
    exact = math.fsum(p * r for p, r in zip(chances, rewards[0].tolist(), strict=True))
    assert tree.values[()] == pytest.approx(exact, abs=1e-14)
    slopes = oracle.central_differences(lambda table: oracle.expected(world, table, rewards.tolist()), logits)
    torch.testing.assert_close(
        advantages.exact_gradient(world, logits, rewards), slopes, rtol=1e-7, atol=1e-9
    )


def test_the_tree_discounts_by_token():
    """A score of 1 for everything is worth γ to the number of tokens still to come, less one."""
    world = World(horizon=2, prompts=((1,),))
    uniform = torch.zeros(len(world.prefixes), world.vocabulary, dtype=torch.float64)
    ones = torch.ones(len(world.sequences), dtype=torch.float64)
    tree = advantages.grow(world, uniform, ones, gamma=0.5)
    assert tree.values[(1,)] == 1
    assert tree.values[()] == pytest.approx(0.25 * 1 + 0.75 * 0.5)
