"""Policy gradient and PPO find the best value of small decision processes."""

import pytest

from logratio.verify.checks import control
from logratio.verify.worlds import mdp


@pytest.mark.slow
@pytest.mark.parametrize("check", control.CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(False)
    assert rows
    assert [row for row in rows if not row.passed] == []


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_time_limit_does_not_change_what_an_endless_reward_is_worth(limit):
    assert control.critic_of_endless(limit, cut_off_is_the_end=False) == pytest.approx(50, abs=1e-6)


def test_a_time_limit_taken_for_the_end_does():
    # λ < 1 does not matter at the fixed point: 1 + γ + … + γ⁴ at the first step, averaged over the five.
    assert control.critic_of_endless(5, cut_off_is_the_end=True) < 5


@pytest.mark.parametrize(("clip_range", "epochs"), [(None, 1), (0.2, 4)], ids=["policy gradient", "ppo"])
def test_the_bandit_that_misleads_is_solved(clip_range, epochs):
    bandit = mdp.two_step_bandit()
    config = mdp.TabularConfig(
        gamma=control.GAMMA,
        limit=2,
        clip_range=clip_range,
        epochs=epochs,
        updates=200,
        count=64,
    )
    policies = mdp.train_control(bandit, config, seeds=(0, 1))
    assert control.worst_gap(bandit, policies) < 0.02
