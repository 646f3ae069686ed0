"""Environments with known answers, and trainers on them: every row holds, and a fault makes its row fail."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from logratio.control.categorical import CategoricalHead
from logratio.control.env import adapter as rollouts
from logratio.control.env.action_masks import ActionMasks
from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.spaces import action_layout
from logratio.control.networks import RecurrentLayer
from logratio.verify.checks import environments, gym_harness, processes
from logratio.verify.checks.rows import equal, reaches
from logratio.verify.run import run_check
from logratio.verify.worlds import mdp
from logratio.verify.worlds.environments import (
    Endless,
    Identity,
    Narrow,
    Process,
    Recall,
    make_vector_env,
    process_of_env,
)

CHECKS = (*environments.CHECKS, *processes.CHECKS)
ONE = torch.ones(1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(True)
    assert rows
    assert [row for row in rows if not row.passed] == []
    assert any(row.control for row in rows)


# --- a fault that is built in makes its row fail -------------------------------------------------------


@pytest.fixture
def misread(monkeypatch):
    """Let all environments misread their steps."""
    whole = VectorEnvAdapter.step

    def plant(misreading):
        def step(self, actions):
            return misreading(whole(self, actions), self.view)

        monkeypatch.setattr(VectorEnvAdapter, "step", step)

    return plant


@pytest.mark.parametrize("mode", environments.MODES)
def test_a_cut_that_is_taken_for_the_end_is_seen_in_every_mode(misread, mode):
    misread(gym_harness.truncation_as_termination)
    found = environments.critic(lambda: Endless(2), ONE, mode=mode)
    assert not equal("", found, environments.FOREVER, tolerance=1e-3).passed
    assert found < 0.7 * environments.FOREVER


def test_an_added_row_that_is_taken_for_a_step_is_seen(misread):
    misread(gym_harness.reset_rows_as_valid)
    assert environments.critic(lambda: Endless(1), ONE, mode="NextStep") < 0.7 * environments.FOREVER


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_next_episode_s_beginning_is_seen_where_states_differ_in_worth(misread, mode):
    misread(gym_harness.reset_observation_as_final)
    found = environments.critic(lambda: Process(mdp.endless_later(), 2), torch.eye(2), mode=mode)
    # V(0) = γ V(1) and V(1) = 1 + γ V(0).
    worth = 1 / (1 - environments.ENDLESS_GAMMA**2)
    assert found.tolist() == pytest.approx([environments.ENDLESS_GAMMA * worth, worth], abs=1e-2)


def test_an_action_space_that_does_not_begin_at_0_is_seen(monkeypatch):
    def from_nought(space):
        return replace(action_layout(space), to_env=lambda drawn: drawn[:, 0])

    monkeypatch.setattr(rollouts, "action_layout", from_nought)
    _, earned = environments.learn(lambda: Identity(spaces.Discrete(4, start=2)), steps=3_000)
    assert not reaches("", earned, 10.0, missed=environments.NEAR).passed


def test_a_forbidden_action_that_keeps_a_little_probability_is_seen(monkeypatch):
    whole = CategoricalHead.log_probabilities

    def lenient(self, features, action_mask=None):
        plain = whole(self, features)
        return plain if action_mask is None else (plain - 20.0 * ~action_mask).log_softmax(dim=-1)

    action_mask = torch.tensor([[True, True, False, False]])
    vector = make_vector_env(Narrow, 1, autoreset="Disabled")
    policy = gym_harness.new_policy(VectorEnvAdapter(vector, seed=0, name="Narrow"), environments.SMALL)
    exact = gym_harness.probabilities(policy, action_mask.float(), 4, action_mask=action_mask)
    assert exact[0, 2:].tolist() == [0.0, 0.0]
    assert float(exact.sum()) == pytest.approx(1.0)
    monkeypatch.setattr(CategoricalHead, "log_probabilities", lenient)
    leaked = gym_harness.probabilities(policy, action_mask.float(), 4, action_mask=action_mask)[0, 2:].max()
    assert not equal("", leaked, 0.0, tolerance=0.0).passed


def test_masks_of_the_step_before_are_seen(monkeypatch):
    whole, before = ActionMasks.update, {}

    def late(self, infos, **where):
        whole(self, infos, **where)
        now = self.action_mask
        self.action_mask, before[id(self)] = before.get(id(self), now), now

    monkeypatch.setattr(ActionMasks, "update", late)
    vector = make_vector_env(Narrow, 2, autoreset="Disabled")
    faulty = VectorEnvAdapter(vector, seed=0, name="Narrow")
    with pytest.raises(rollouts.EnvironmentFault, match="is not allowed"):
        environments._learn(gym_harness.new_policy(faulty, environments.SMALL), faulty, steps=500)


def test_a_memory_that_is_emptied_before_each_step_is_seen(monkeypatch):
    whole = RecurrentLayer.forward

    def forgetful(self, features, state, episode_start):
        return whole(self, features, state, torch.ones_like(episode_start))

    monkeypatch.setattr(RecurrentLayer, "forward", forgetful)
    earned = environments.recalled(environments.remember(recurrent_width=16, mode="Disabled"))
    assert earned == pytest.approx(0.5, abs=1e-6)


def test_credit_that_does_not_reach_the_step_before_is_seen(misread):
    misread(lambda step, view: replace(step, terminated=step.valid, truncated=~step.valid))
    best = float(mdp.optimal_values(mdp.two_step_bandit(), gamma=processes.GAMMA)[0])
    for trainer in processes.CONFIGS:
        earned = processes.solve(processes.BANDIT, trainer, seed=0)
        assert not reaches("", earned, best, missed=0.02).passed


def test_the_bandit_is_solved_without_the_fault():
    best = float(mdp.optimal_values(mdp.two_step_bandit(), gamma=processes.GAMMA)[0])
    for trainer in processes.CONFIGS:
        assert reaches("", processes.solve(processes.BANDIT, trainer, seed=0), best, missed=0.02).passed


@pytest.mark.parametrize(("earned", "passed"), [(9.9, True), (10.0, True), (9.0, False), (11.0, False)])
def test_more_than_the_best_is_as_wrong_as_less(earned, passed):
    assert reaches("", earned, 10.0, missed=0.02).passed is passed
    assert not reaches("", float("nan"), 10.0, missed=0.02).passed


# --- without Gymnasium ---------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_without_gymnasium_a_check_is_skipped_with_the_command(monkeypatch, check):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    outcome = run_check(check, quick=True)
    assert (outcome.passed, outcome.skipped, outcome.fault) == (False, True, "")
    assert [row.what for row in outcome.rows] == [
        "skipped: Gymnasium is not installed; pip install 'logratio[control]'"
    ]


def test_the_table_of_checks_is_there_without_gymnasium():
    program = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "from logratio.verify.checks.table import select\n"
        "from logratio.verify.run import gather, run_checks\n"
        "from logratio.verify.report.wording import sentence\n"
        "found = gather(list(run_checks(select(['C1', 'I4']), quick=True)), quick=True, finished='')\n"
        "print(sentence(found), found['passed'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "C1  What was cut off has not ended, in all three autoreset modes: skipped: Gymn" in done.stdout
    assert "in 1 check hold. C1 skipped: Gymnasium is not installed; pip install" in done.stdout
    assert done.stdout.endswith(" True\n")


# --- the environments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda: Endless(3),
        lambda: Process(mdp.chain(), 20),
        lambda: Identity(spaces.Discrete(4, start=2)),
        lambda: Identity(spaces.MultiDiscrete([3, 2])),
        lambda: Identity(spaces.MultiBinary(3)),
        lambda: Identity(spaces.Box(0.0, 1.0, (2,))),
        Recall,
        lambda: Narrow(strict=False),
    ],
)
def test_they_are_what_gymnasium_wants_of_an_environment(build):
    check_env(build(), skip_render_check=True)


def test_a_process_goes_where_its_transitions_say():
    chain = Process(mdp.chain(), 10_000)
    chain.reset(seed=0)
    went = []
    for _ in range(4_000):
        chain.state = 3
        went.append(chain.step(1)[0])
    assert set(went) == {2, 4}
    assert np.mean(np.array(went) == 4) == pytest.approx(0.9, abs=4.5 * (0.09 / 4_000) ** 0.5)


def test_a_process_pays_ends_and_is_cut_off():
    bandit = Process(mdp.two_step_bandit(), 1)
    assert bandit.reset(seed=0)[0] == 0
    assert bandit.step(0) == (1, 0.3, False, True, {})
    assert bandit.step(1) == (3, 0.2, True, True, {})
    assert bandit.reset()[0] == 0


def test_gymnasium_s_lake_is_the_one_that_is_solved_here():
    theirs, ours = process_of_env(gymnasium.make("FrozenLake-v1")), mdp.frozen_lake()
    torch.testing.assert_close(theirs.transitions, ours.transitions, rtol=0, atol=1e-15)
    torch.testing.assert_close(theirs.transitions * theirs.rewards, ours.transitions * ours.rewards)
    assert theirs.terminal.tolist() == ours.terminal.tolist()
    assert theirs.start == ours.start
    other = process_of_env(gymnasium.make("FrozenLake-v1", is_slippery=False))
    assert not torch.equal(other.transitions, ours.transitions)


def test_what_comes_later_is_worth_what_is_said():
    process, always = mdp.endless_later(), torch.ones(2, 1, dtype=torch.float64)
    assert mdp.policy_values(process, always, gamma=0.8).tolist() == pytest.approx([4.0, 5.0])


@pytest.mark.parametrize(
    ("space", "action", "shown", "paid"),
    [
        (spaces.Discrete(4, start=2), 3, 3, 1.0),
        (spaces.Discrete(4, start=2), 2, 3, 0.0),
        (spaces.MultiDiscrete([3, 2]), [2, 0], [2, 1], 0.5),
        (spaces.MultiBinary(3), [1, 0, 1], [1, 1, 1], 2 / 3),
        (spaces.Box(0.0, 1.0, (2,)), [0.5, 0.0], [0.25, 0.25], 0.75),
    ],
)
def test_what_is_shown_is_what_is_paid_for(space, action, shown, paid):
    one = Identity(space)
    one.reset(seed=0)
    one.shown = np.array(shown)
    assert one.step(np.array(action))[1] == pytest.approx(paid)


def test_environments_side_by_side_do_not_show_the_same():
    vector = make_vector_env(lambda: Identity(spaces.Discrete(50)), 2, autoreset="Disabled")
    vector.reset(seed=[1, 2])
    shown = np.stack([vector.step(np.zeros(2, np.int64))[0] for _ in range(8)], axis=1)
    assert not np.array_equal(*shown)
    alone = Identity(spaces.Discrete(50))
    alone.reset(seed=2)
    assert [alone.step(0)[0] for _ in range(8)] == shown[1].tolist()


def test_forbidden_actions_are_counted_where_they_do_not_raise():
    one = Narrow(strict=False)
    for _ in range(3):
        one.reset(seed=0)
        forbidden = int(np.argmin(one.mask))
        assert one.step(forbidden)[1] == 0.0
    assert one.num_forbidden == 3
    strict = Narrow()
    strict.reset(seed=0)
    with pytest.raises(ValueError, match="is not allowed"):
        strict.step(int(np.argmin(strict.mask)))
