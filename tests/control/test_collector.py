"""Steps as rows: what follows a row is what truly followed, whatever the autoreset mode."""

import json

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.control.collector import ControlCollector, ControlConfig
from logratio.control.env.adapter import VectorEnvAdapter
from logratio.control.env.make_env import make_environments
from logratio.control.policy import ControlActor, ControlPolicy, NetworkConfig
from logratio.errors import BadConfig, EnvironmentFault
from logratio.objectives.advantages import gae
from logratio.run_directory import RunDirectory, read_json_lines
from logratio.verify.worlds.environments import Narrow, Recall
from scripted_environments import Counting

MODES = ("NextStep", "SameStep", "Disabled")
ALONE = {"batch_size": 1, "epochs": 1.0, "shuffle": False, "warmup": 0.0}


def make(*builds, mode="Disabled", recurrent_width=0, critic=True, **settings):
    vector = SyncVectorEnv(list(builds), autoreset_mode=AutoresetMode(mode))
    environments = VectorEnvAdapter(vector, seed=3, name="Made-v0")
    policy = ControlPolicy(
        shape=environments.observation.shape,
        sizes=environments.action.sizes,
        num_numbers=environments.action.num_numbers,
        config=NetworkConfig(hidden_sizes=(8,), recurrent_width=recurrent_width),
        critic=critic,
        seed=1,
    )
    config = ControlConfig(num_envs=len(builds), **{"num_steps": 24, "discount": 0.9, "lam": 0.8} | settings)
    return ControlCollector(ControlActor(policy), environments, config, seed=0)


def value_of(collector, time):
    seen = torch.tensor([[float(time)]])
    policy = collector.actor.policy
    with torch.no_grad():
        return float(
            policy.values(
                seen, hidden_state=policy.initial_state(1), episode_start=torch.zeros(1, dtype=torch.bool)
            )
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_rows_are_those_of_the_episodes_written_out(mode, length):
    """One environment whose episodes end, one whose episodes are cut off: each real row by hand."""
    collector = make(lambda: Counting(length), lambda: Counting(length, ends=False, cut=True), mode=mode)
    rows = collector.collect(0, [0]).trajectories
    for number, ends in ((0, True), (1, False)):
        time = 0
        for place in range(24):
            if not rows.mask[number, place]:
                assert mode == "NextStep"
                assert rows.rewards[number, place] == rows.discounts[number, place] == 0
                continue
            over = time + 1 == length
            bootstraps = not (over and ends)
            assert rows.rewards[number, place] == time + 1
            assert float(rows.values[number, place]) == pytest.approx(value_of(collector, time), abs=1e-6)
            assert float(rows.discounts[number, place]) == pytest.approx(0.9 * bootstraps)
            assert float(rows.traces[number, place]) == pytest.approx(0.8 * (not over))
            expected = value_of(collector, time + 1) if bootstraps else 0.0
            assert float(rows.next_values[number, place]) == pytest.approx(expected, abs=1e-6)
            time = 0 if over else time + 1


@pytest.mark.parametrize("length", [1, 2, 5])
def test_advantages_are_the_same_in_all_modes(length):
    found = []
    for mode in MODES:
        rows = make(lambda: Counting(length, ends=False, cut=True), mode=mode).collect(0, [0]).trajectories
        advantages = gae(rows.rewards, rows.values, rows.next_values, rows.discounts, rows.traces)
        whole = 24 // (length + 1) * length
        found.append(advantages[rows.mask][:whole])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_metrics_count_real_steps_and_whole_episodes():
    collector = make(lambda: Counting(2), mode="NextStep")
    metrics = collector.collect(0, [0]).metrics
    assert metrics["env_steps"] == metrics["tokens"] == 16
    assert metrics["episode_return"] == metrics["objective"] == 3.0
    assert metrics["episode_length"] == 2.0


@pytest.mark.parametrize("recurrent_width", [0, 6])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trainer", ["ppo", "reinforce"])
def test_the_trainers_take_steps_as_they_take_tokens(tmp_path, trainer, mode, recurrent_width):
    """Their own invariants hold: on the first minibatch every ratio is 1 and every row is counted once."""
    collector = make(Narrow, Narrow, Narrow, mode=mode, recurrent_width=recurrent_width, steps=3 * 24 * 6)
    with RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run:
        if trainer == "ppo":
            config = PPOConfig.of(update_epochs=2, minibatches=3, learning_rate=1e-2, **ALONE)
            train_ppo(collector.actor, collector, config, run)
        else:
            config = ReinforceConfig.of(baseline="critic", reduction="tokens", learning_rate=1e-2, **ALONE)
            train_reinforce(collector.actor, collector, config, run)
        rows = read_json_lines(run.path / "metrics.jsonl")
        invariants = {
            invariant["name"] for invariant in json.loads((run.path / "invariants.json").read_text())
        }
    assert len(rows) == 6
    assert {"ratio_is_one", "every_row_is_counted"} <= invariants
    expected = 3 * 24 if mode != "NextStep" else 3 * 24 * 10 / 11
    assert rows[-1]["rows"] == pytest.approx(expected, abs=3)


def test_rows_that_an_autoreset_adds_are_in_no_minibatch(tmp_path):
    """Every other row is one: minibatches of single rows would else be empty."""
    collector = make(lambda: Counting(1), mode="NextStep", num_steps=8, steps=16)
    with RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run:
        config = PPOConfig.of(update_epochs=2, minibatches=4, learning_rate=1e-2, **ALONE)
        train_ppo(collector.actor, collector, config, run)
        rows = read_json_lines(run.path / "metrics.jsonl")
    assert [(row["rows"], row["optimiser_steps"]) for row in rows] == [(4, 8)] * len(rows)
    rollout = make(lambda: Counting(1), mode="NextStep", num_steps=8).collect(0, [0])
    item_ids = np.arange(len(rollout.items))
    (said,) = collector.actor.evaluate(rollout.items_of(item_ids), item_ids, rollout)
    assert said.rows.tolist() == [0, 2, 4, 6]


def test_moments_stand_still_while_an_update_is_made():
    collector = make(lambda: Counting(5), normalise_observations=True, normalise_rewards=True)
    first = collector.collect(0, [0])
    assert first.observations.flatten().tolist() == first.observations.clamp(0, 5).flatten().tolist()
    collector.update_controllers(first)
    second = collector.collect(1, [1])
    raw = np.array([time % 5 for time in range(24)], dtype=np.float64)
    later = np.array([(24 + time) % 5 for time in range(24)])
    expected = (later - raw.mean()) / raw.std()
    np.testing.assert_allclose(second.observations[:, 0], expected, atol=1e-5)


def test_an_environment_s_fault_leaves_a_checkpoint_of_the_last_update(tmp_path):
    class Late(Counting):
        born = 0

        def step(self, action):
            Late.born += 1
            if Late.born == 60:
                raise RuntimeError("the cart fell off the table")
            return super().step(action)

    collector = make(lambda: Late(7), steps=24 * 5)
    config = PPOConfig.of(checkpoint_every=100, **ALONE)
    with (
        RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run,
        pytest.raises(EnvironmentFault, match="fell off the table"),
    ):
        train_ppo(collector.actor, collector, config, run)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    again = make(lambda: Late(7), steps=24 * 5)
    with RunDirectory.begin(tmp_path / "run", {"identity": {}}, resume=True) as run:
        train_ppo(again.actor, again, config, run)
    assert len(read_json_lines(tmp_path / "run" / "metrics.jsonl")) == 5


def test_a_memory_is_carried_from_rollout_to_rollout():
    collector = make(lambda: Recall(30), recurrent_width=6)
    collector.collect(0, [0])
    second = collector.collect(1, [1])
    assert second.hidden_state.abs().sum() > 0
    assert not second.episode_start[0]


def test_noise_lasts_and_each_action_is_scored_alone():
    """Standard normal in every step, correlated by ρ with the step before, by ρ² with the one before that."""
    environments = make_environments("Pendulum-v1", num_envs=40, seed=4)
    policy = ControlPolicy(
        shape=(3,), sizes=(), num_numbers=1, config=NetworkConfig(hidden_sizes=(8,)), critic=True, seed=0
    )
    rho = 0.8
    config = ControlConfig(num_envs=40, num_steps=500, noise_correlation=rho)
    rollout = ControlCollector(ControlActor(policy), environments, config, seed=0).collect(0, [0])
    with torch.no_grad():
        said, _, _ = policy.evaluate(
            rollout.observations,
            rollout.actions,
            hidden_state=rollout.hidden_state,
            episode_start=rollout.episode_start,
        )
        mean, log_std = policy.head.distribution(policy._policy_features(rollout.observations))
        noise = ((rollout.actions - mean) / log_std.exp()).reshape(40, 500)
    torch.testing.assert_close(rollout.trajectories.logprobs.flatten(), said)
    # 40 · 500 numbers of which about every ninth is new.
    spread = ((1 + rho) / (1 - rho) / noise.numel()) ** 0.5
    assert abs(float(noise.mean())) < 4.5 * spread
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=0.1)
    assert float((noise[:, 1:] * noise[:, :-1]).mean()) == pytest.approx(rho, abs=0.1)
    assert float((noise[:, 2:] * noise[:, :-2]).mean()) == pytest.approx(rho**2, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"num_steps": 0}, {"discount": 1.5}, {"lam": -0.1}, {"noise_correlation": 1.0}],
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(BadConfig, match=next(iter(settings))):
        ControlConfig(**settings)


@pytest.mark.parametrize(
    ("name", "recurrent_width", "noise"),
    [("CartPole-v1", 0, 0.0), ("CartPole-v1", 4, 0.0), ("Pendulum-v1", 0, 0.9)],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, name, recurrent_width, noise):
    """Weights, environments, both scales, memory and noise: the metrics of every update are the same."""
    config = PPOConfig.of(checkpoint_every=1, update_epochs=2, minibatches=2, learning_rate=1e-2, **ALONE)

    def begin(directory, stop_at=None):
        environments = make_environments(name, num_envs=3, seed=4)
        policy = ControlPolicy(
            shape=environments.observation.shape,
            sizes=environments.action.sizes,
            num_numbers=environments.action.num_numbers,
            config=NetworkConfig(hidden_sizes=(8,), recurrent_width=recurrent_width),
            critic=True,
            seed=0,
        )
        settings = ControlConfig(
            **{"steps": 3 * 17 * 6, "num_envs": 3, "num_steps": 17, "noise_correlation": noise},
            **{"normalise_observations": True, "normalise_rewards": True},
        )
        collector = ControlCollector(ControlActor(policy), environments, settings, seed=0)
        collect = collector.collect

        def stopping(step, examples, partition):
            if step == stop_at:
                raise KeyboardInterrupt
            return collect(step, examples, partition)

        collector.collect = stopping
        with RunDirectory.begin(tmp_path / directory, {"identity": {}}, resume=True) as run:
            if stop_at is None:
                train_ppo(collector.actor, collector, config, run)
            else:
                with pytest.raises(KeyboardInterrupt):
                    train_ppo(collector.actor, collector, config, run)
        return collector

    whole = begin("whole")
    begin("stopped", stop_at=3)
    again = begin("stopped")
    for one, other in zip(whole.actor.module.parameters(), again.actor.module.parameters(), strict=True):
        assert torch.equal(one, other)
    untimed = ("seconds", "rollouts_per_second", "tokens_per_second")
    rows = [read_json_lines(tmp_path / one / "metrics.jsonl") for one in ("whole", "stopped")]
    kept = [[{k: v for k, v in row.items() if k not in untimed} for row in one] for one in rows]
    assert kept[0] == kept[1]
    assert again.observation_scale.save() == whole.observation_scale.save()
    assert again.reward_scale.save() == whole.reward_scale.save()
