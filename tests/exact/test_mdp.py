"""Small decision processes: the values are the known ones, and the episodes are of the process."""

import pytest
import torch

from logratio.verify.worlds import mdp

PROCESSES = [mdp.chain(), mdp.frozen_lake(), mdp.two_step_bandit()]


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def even(process, runs=1):
    shape = (runs, *process.transitions.shape[:2])
    return torch.full(shape, 1 / shape[-1], dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES)
def test_probabilities_add_up_and_nothing_is_earned_after_the_end(process):
    total = process.transitions.sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-15)
    assert process.rewards[process.terminal].abs().max() == 0
    assert not process.terminal[process.start]


def test_frozen_lake_known_values():
    lake = mdp.frozen_lake()
    assert mdp.optimal_values(lake, gamma=1.0)[0].item() == pytest.approx(14 / 17, abs=1e-9)
    assert mdp.optimal_values(lake, gamma=1.0, steps=100)[0].item() == pytest.approx(0.744190, abs=5e-7)
    assert mdp.optimal_values(lake, gamma=0.99)[0].item() == pytest.approx(0.542026, abs=5e-7)


def test_two_step_bandit_by_hand():
    bandit = mdp.two_step_bandit()
    assert mdp.optimal_values(bandit, gamma=0.9).tolist() == pytest.approx([0.9, 0.4, 1.0, 0.0])
    # Even choices: 0.3/2 + γ (0.3 + 0.5)/2.
    assert mdp.policy_values(bandit, even(bandit), gamma=0.9)[0, 0].item() == pytest.approx(0.51)


def test_the_chain_always_goes_right_unless_the_left_end_is_beside():
    """Going right at once: the gambler's ruin with 0.9 against 0.1, undiscounted."""
    chain = mdp.chain()
    policy = torch.zeros(1, 7, 2, dtype=torch.float64)
    policy[..., 1] = 1.0
    win = (1 - (1 / 9) ** 3) / (1 - (1 / 9) ** 6)
    value = mdp.policy_values(chain, policy, gamma=1.0)[0, 3].item()
    assert value == pytest.approx(win + 0.2 * (1 - win), rel=1e-12)
    assert mdp.optimal_values(chain, gamma=1.0)[3].item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_best_policy_earns_the_best_value(process):
    best = mdp.optimal_values(process, gamma=0.9)
    earned = (process.transitions * (process.rewards + 0.9 * best)).sum(-1)
    greedy = torch.nn.functional.one_hot(earned.argmax(-1), earned.shape[-1]).to(earned)
    torch.testing.assert_close(
        mdp.policy_values(process, greedy[None], gamma=0.9)[0], best, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("process", PROCESSES)
def test_episodes_follow_the_process(process):
    episodes = mdp.play(process, even(process, 2), count=200, limit=30, generators=generators(0, 1))
    s, a, t, mask = episodes.states, episodes.actions, episodes.next_states, episodes.mask
    assert (process.transitions[s, a, t][mask] > 0).all()
    assert (process.rewards[s, a, t][mask] == episodes.rewards[mask]).all()
    assert (s[..., 0] == process.start).all()
    continues = episodes.continued()
    assert (s[..., 1:][continues[..., :-1]] == t[..., :-1][continues[..., :-1]]).all()
    assert (episodes.terminated == (mask & process.terminal[t])).all()
    assert not (continues & episodes.terminated).any()
    cut_off = mask & ~continues & ~episodes.terminated
    assert (cut_off.nonzero()[:, 2] == 29).all()


def test_episodes_earn_the_value_of_the_policy():
    lake = mdp.frozen_lake()
    episodes = mdp.play(lake, even(lake), count=20_000, limit=100, generators=generators(0))
    value = mdp.policy_values(lake, even(lake), gamma=1.0)[0, 0].item()
    earned = (episodes.rewards * episodes.mask).sum(-1)[0]
    error = (value * (1 - value) / 20_000) ** 0.5
    assert abs(earned.mean().item() - value) < 4.5 * error


def test_a_step_cut_off_counts_the_next_state_and_a_terminated_one_does_not():
    lake = mdp.frozen_lake()
    episodes = mdp.play(lake, even(lake), count=300, limit=4, generators=generators(0))
    values = torch.linspace(1, 16, 16, dtype=torch.float64)[None]
    advantages, targets = mdp.advantages_and_targets(episodes, values, gamma=0.5, trace=0.0)
    assert episodes.terminated.any()
    for n, t in episodes.mask[0].nonzero().tolist():
        here, there = episodes.states[0, n, t].item() + 1, episodes.next_states[0, n, t].item() + 1
        bootstrap = 0.0 if episodes.terminated[0, n, t] else 0.5 * there
        assert targets[0, n, t].item() == pytest.approx(episodes.rewards[0, n, t].item() + bootstrap)
        assert advantages[0, n, t].item() == pytest.approx(targets[0, n, t].item() - here)


@pytest.mark.parametrize(("clip_range", "epochs"), [(None, 1), (0.2, 4)], ids=["policy gradient", "ppo"])
def test_a_run_does_not_depend_on_the_runs_beside_it(clip_range, epochs):
    def policies(seeds):
        config = mdp.TabularConfig(
            gamma=0.9,
            limit=20,
            clip_range=clip_range,
            epochs=epochs,
            updates=3,
            count=8,
        )
        return mdp.train_control(mdp.chain(), config, seeds=seeds)

    torch.testing.assert_close(policies((1, 2))[1], policies((2,))[0], rtol=1e-12, atol=1e-12)
