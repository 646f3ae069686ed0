"""Importance sampling, V-trace and Pareto k̂ against exact answers: every row of the checks passes."""

import math

import pytest
import torch

from logratio.verify.checks import importance_weights, traces
from logratio.verify.checks.importance_weights import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(True)
    assert rows
    assert [row for row in rows if not row.passed] == []


def test_the_same_rows_twice():
    assert importance_weights.check_truncated_weights(True) == importance_weights.check_truncated_weights(
        True
    )


def test_the_plain_chances_are_chances():
    for problem in importance_weights.problems():
        assert math.fsum(problem.pi) == pytest.approx(1, abs=1e-12)
        assert math.fsum(problem.mu) == pytest.approx(1, abs=1e-12)
        assert problem.chi_square > 0.1


def test_a_chance_hand_worked():
    """Logits 0 and ln 3 among four tokens: 1/6 to end at once, 3/6·1/4 for token 1 and then the end."""
    world = importance_weights.problems()[0].world
    logits = torch.zeros(len(world.prefixes), world.vocabulary, dtype=torch.float64)
    logits[world.prefixes.index(()), 1] = math.log(3)
    chances = dict(zip(world.sequences, importance_weights.chances(world, logits), strict=True))
    assert chances[(0,)] == pytest.approx(1 / 6, abs=1e-15)
    assert chances[(1, 0)] == pytest.approx(1 / 8, abs=1e-15)


def test_the_chains_trajectories_have_chance_1():
    """From every state; from the last one, some are over after a move."""
    for start in range(traces.STATES):
        paths = traces._trajectories(start)
        assert math.fsum(chance for chance, _ in paths) == pytest.approx(1, abs=1e-14)
    assert any(len(moves) == 1 for _, moves in traces._trajectories(traces.STATES - 1))


def test_the_value_of_always_going_right_hand_worked():
    """Of the last state: .9·1 + .1·(−.1 + .9·V(3)), and of the state before likewise."""
    values = traces._policy_values((1.0,) * traces.STATES)
    assert values[4] == pytest.approx(0.9 + 0.1 * (-0.1 + 0.9 * values[3]), abs=1e-14)
    assert values[3] == pytest.approx(
        0.9 * (-0.1 + 0.9 * values[4]) + 0.1 * (-0.1 + 0.9 * values[2]), abs=1e-14
    )
