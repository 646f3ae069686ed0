"""Every row of the checks of reward against KL, and what is exact about them by hand."""

import math

import pytest
import torch

from logratio.verify.checks.frontier import CHECKS
from logratio.verify.worlds import frontier, oracle
from logratio.verify.worlds.optimum import optimal_probabilities
from logratio.verify.worlds.world import World

SMALL = World(vocabulary=4, horizon=2, prompts=((1,), (2, 1)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(True)
    assert rows
    assert [row for row in rows if not row.passed] == []


def test_best_of_2_hand_worked():
    """Probabilities 1/2, 1/3, 1/6, rising: 1/4, then (5/6)² − 1/4 = 16/36, then 1 − (5/6)² = 11/36."""
    chosen = frontier.best_of_n([1 / 2, 1 / 3, 1 / 6], [1.0, 2.0, 3.0], n=2)
    assert chosen == pytest.approx([9 / 36, 16 / 36, 11 / 36])
    # The last two alike: 3/4 between them, as 2 to 1.
    assert frontier.best_of_n([1 / 2, 1 / 3, 1 / 6], [1.0, 2.0, 2.0], n=2) == pytest.approx(
        [1 / 4, 1 / 2, 1 / 4]
    )


def test_subsets_hand_worked():
    """Pairs (1, 2), (1, 3), (2, 3) of answers worth 10, 20, 30; the proxy likes the first best."""
    assert frontier.mean_over_subsets([10, 20, 30], [3, 1, 2], n=2) == pytest.approx((10 + 10 + 30) / 3)
    assert frontier.mean_over_subsets([10, 20, 30], [1, 1, 0], n=2) == pytest.approx((15 + 10 + 20) / 3)


def test_every_sequence_is_written_out_as_often_as_it_is_probable():
    logits = frontier.dyadic_logits(SMALL, seed=2)
    assert logits.exp().sum(dim=-1).allclose(torch.ones(2, len(SMALL.prefixes), dtype=torch.float64))
    names = torch.arange(len(SMALL.sequences), dtype=torch.float64).expand(2, -1)
    columns = oracle.sequence_probabilities(SMALL, logits)
    for column, listed in zip(columns, frontier.written_out(SMALL, logits, names), strict=True):
        assert len(listed) == 64
        assert [listed.count(name) / 64 for name in range(len(column))] == pytest.approx(column)


def test_the_edge_s_objective_is_beta_log_z():
    logits, rewards = SMALL.random_logits(seed=1), SMALL.rewards(seed=2)
    for beta in (0.2, 1.0):
        reward, kl = frontier.edge(SMALL, logits, rewards, beta=beta)
        _, log_z = optimal_probabilities(SMALL, logits, rewards, beta=beta)
        assert reward - beta * kl == pytest.approx(beta * math.fsum(log_z) / 2, rel=1e-12)
