"""PPO and REINFORCE on a small model: gradients against sums written out, invariants, and resuming."""

from __future__ import annotations

import dataclasses
import os
import signal
from functools import partial

import pytest
import torch

from logratio.algorithms import ppo, reinforce
from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.errors import BadConfig, Interrupted, InvariantViolated, NonFiniteLoss, PolicyRunaway
from logratio.models.loading import weights_fingerprint
from logratio.policies.actor_critic import LanguageActor, ValueHead
from logratio.policies.language import LanguagePolicy
from logratio.records import Prompt
from logratio.rollouts import collector as language
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.reward_shaping import WeightedReward
from logratio.run_directory import RunDirectory
from logratio.training import loop
from logratio.training.gradient_noise import GradientSNR
from logratio.training.on_policy import backpropagate
from tiny_models import exact_llama, tiny_llama, tiny_tokenizer

PROMPTS = [Prompt(text) for text in ("the cat", "a good day", "I like", "the dog ran", "on the mat", "this")]


def vowels(samples):
    """A reward with some spread: the share of vowels."""
    return [
        [sum(letter in "aeiou" for letter in answer.text) / 10 for answer in sample.completions]
        for sample in samples
    ]


def make(*, critic=True, reference=True, dtype=torch.float64, seed=0, **settings):
    tokenizer = tiny_tokenizer(chat=False)
    build = exact_llama if dtype == torch.float64 else tiny_llama
    model = build(len(tokenizer), seed=seed).eval()
    head = ValueHead(model.config.hidden_size, dtype=dtype) if critic else None
    actor = LanguageActor(LanguagePolicy(model, tokenizer), row_tokens=64, value_head=head)
    other = LanguagePolicy(build(len(tokenizer), seed=1).eval(), tokenizer)
    collector = LanguageCollector(
        actor,
        PROMPTS,
        [WeightedReward(name="vowels", reward=vowels)],
        reference=other if reference else None,
        config=CollectorConfig(num_samples=3, max_new_tokens=6, **settings),
    )
    return actor, collector


def run(train, config, path, *, resume=False, **settings):
    actor, collector = make(**settings)
    with RunDirectory.begin(path, {"identity": config.identity()}, resume=resume) as directory:
        train(actor, collector, config, directory)
        return weights_fingerprint(actor.module), directory.metrics


def push(trainer, actor, rollout, item_ids, targets, config, *, gradient_snr=None, **settings):
    """The gradients of a minibatch by a trainer's own losses."""
    losses = partial(trainer.row_losses, targets=targets, config=config, **settings)
    return backpropagate(
        actor, rollout, item_ids, losses, reduction=config.reduction, step=0, gradient_snr=gradient_snr
    )


def plain_logprobs(model, group):
    """Each answer's token log-probabilities by the model's own forward pass, one answer at a time."""
    rows = []
    for answer in group.answers:
        ids = torch.tensor([[*group.prompt, *answer]])
        every = model(input_ids=ids).logits[0, len(group.prompt) - 1 : -1].log_softmax(-1)
        rows.append(every.gather(-1, torch.tensor(answer)[:, None])[:, 0])
    return rows


def gradient(module):
    return torch.cat(
        [
            p.grad.flatten() if p.grad is not None else torch.zeros(p.numel(), dtype=p.dtype)
            for p in module.parameters()
        ]
    )


def written_out(actor, collector, rollout, *, lam):
    """−Σ A·∇ log π / sequences and the returns, from plain forward passes and the definition of the sums."""
    model, head = actor.policy.model, actor.value_head
    total = torch.zeros((), dtype=torch.float64)
    scores = iter(value for sample in answered(collector, rollout) for value in sample)
    for group in rollout.items:
        reference = plain_logprobs(collector.reference.model, group)
        for answer, logprobs, other in zip(
            group.answers, plain_logprobs(model, group), reference, strict=True
        ):
            ids = torch.tensor([[*group.prompt, *answer]])
            states = model.base_model(input_ids=ids).last_hidden_state[0, len(group.prompt) - 1 : -1]
            values = head(states).detach() if head is not None else torch.zeros(len(answer))
            rewards = -collector.kl_coefficient * (logprobs - other).detach()
            rewards[-1] += next(scores)
            ahead = torch.cat([values[1:], torch.zeros(1, dtype=values.dtype)])
            delta = rewards + ahead - values
            advantages = torch.stack(
                [sum(lam ** (u - t) * delta[u] for u in range(t, len(answer))) for t in range(len(answer))]
            )
            total = total - (advantages * logprobs).sum()
    return total / (len(rollout.items) * rollout.group_size)


def answered(collector, rollout):
    tokenizer = collector.actor.policy.tokenizer
    texts = [
        [tokenizer.decode(answer, skip_special_tokens=True) for answer in group.answers]
        for group in rollout.items
    ]
    return [[sum(letter in "aeiou" for letter in text) / 10 for text in own] for own in texts]


def test_ppo_at_ratio_one_has_the_gradient_of_the_sums_written_out():
    actor, collector = make(lam=0.9, kl_coefficient=0.3)
    torch.nn.init.normal_(actor.value_head.linear.weight, std=0.5)
    config = PPOConfig.of(whiten_advantages=False, reduction="sums", value_coefficient=0.0)
    rollout = collector.collect(0, [0, 2, 5])
    targets = ppo.estimate(rollout, config)
    tally = push(ppo, actor, rollout, [0, 1, 2], targets, config, beta=0.0)
    ours = gradient(actor.policy.model)
    actor.module.zero_grad()
    written_out(actor, collector, rollout, lam=0.9).backward()
    theirs = gradient(actor.policy.model)
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12)
    assert float(ours.norm()) > 1e-3
    assert tally.ratio_deviation < 1e-9
    assert tally.means()["clip_fraction"] == 0.0


@pytest.mark.parametrize("parts", [[[0, 1, 2]], [[0], [1, 2]]])
@pytest.mark.parametrize("row_tokens", [1, 1000])
def test_reinforce_with_a_critic_and_lambda_one_is_the_return_less_the_value(parts, row_tokens):
    actor, collector = make(lam=1.0, kl_coefficient=0.3)
    torch.nn.init.normal_(actor.value_head.linear.weight, std=0.5)
    actor.row_tokens = row_tokens
    config = ReinforceConfig.of(baseline="critic", value_coefficient=0.0)
    rollout = collector.collect(0, [0, 2, 5])
    targets = reinforce.estimate(rollout, config)
    ours = torch.zeros(())
    for item_ids in parts:
        actor.module.zero_grad()
        push(reinforce, actor, rollout, item_ids, targets, config, time=rollout.trajectories.mask.shape[1])
        ours = ours + gradient(actor.policy.model) * len(item_ids) / 3
    actor.module.zero_grad()
    written_out(actor, collector, rollout, lam=1.0).backward()
    assert torch.allclose(ours, gradient(actor.policy.model), rtol=1e-8, atol=1e-12)


def test_the_critic_moves_towards_the_returns_of_each_token():
    actor, collector = make(lam=1.0)
    config = PPOConfig.of(value_coefficient=2.0, reduction="sums")
    rollout = collector.collect(0, [1])
    targets = ppo.estimate(rollout, config)
    push(ppo, actor, rollout, [0], targets, config, beta=0.0)
    mask = rollout.trajectories.mask
    # V is 0 everywhere, so the bias' gradient of 2·½(V − G)² a token is −2·ΣG over the sequences.
    expected = -2.0 * float(targets.returns.reshape(mask.shape)[mask].sum()) / len(mask)
    assert float(actor.value_head.linear.bias.grad) == pytest.approx(expected, rel=1e-9)


def test_collecting_is_a_function_of_step_and_weights():
    _, first = make()
    _, second = make()
    second.collect(3, [1, 2])
    ours, theirs = first.collect(7, [4, 0]), second.collect(7, [4, 0])
    assert [group.answers for group in ours.items] == [group.answers for group in theirs.items]
    assert torch.equal(ours.trajectories.rewards, theirs.trajectories.rewards)
    other = first.collect(8, [4, 0])
    assert [group.answers for group in ours.items] != [group.answers for group in other.items]


def test_what_a_trajectory_of_an_answer_is():
    _, collector = make(kl_coefficient=0.5, discount=0.9, lam=0.8, truncation_penalty=1.0)
    rollout = collector.collect(0, [0, 1])
    rows, scores = rollout.trajectories, [value for own in answered(collector, rollout) for value in own]
    answers = [(group, index) for group in rollout.items for index in range(3)]
    for row, (group, index) in enumerate(answers):
        answer = group.answers[index]
        length = len(answer)
        assert rows.mask[row].tolist() == [t < length for t in range(rows.mask.shape[1])]
        ours = plain_logprobs(collector.actor.policy.model, group)[index].detach()
        theirs = plain_logprobs(collector.reference.model, group)[index].detach()
        assert torch.allclose(rows.logprobs[row, :length], ours, atol=1e-9)
        rewards = -0.5 * (ours - theirs)
        rewards[-1] += scores[row] - (0.0 if answer[-1] == 0 else 1.0)
        assert torch.allclose(rows.rewards[row, :length], rewards, atol=1e-9)
        assert rows.discounts[row].tolist() == pytest.approx(
            [0.9 if t < length - 1 else 0.0 for t in range(rows.mask.shape[1])]
        )
        assert rows.traces[row].tolist() == pytest.approx(
            [0.8 if t < length - 1 else 0.0 for t in range(rows.mask.shape[1])]
        )


def test_every_metric_of_an_update_is_finite_and_the_laws_hold(tmp_path):
    config = PPOConfig.of(batch_size=3, learning_rate=1e-3, kl_penalty=0.5, entropy_coefficient=0.01)
    _, metrics = run(train_ppo, config, tmp_path / "run", target_kl=2.0)
    assert len(metrics) == 2
    for name in (
        "update_kl",
        "clip_fraction",
        "explained_variance",
        "reward/vowels",
        "reference_kl",
        "kl_penalty",
    ):
        assert all(torch.isfinite(torch.tensor(row[name])) for row in metrics)
    held = (tmp_path / "run" / "invariants.json").read_text()
    assert "ratio_is_one" in held
    assert "update_kl_is_zero" in held


@pytest.mark.parametrize(
    ("train", "config"),
    [
        (
            train_ppo,
            PPOConfig.of(batch_size=2, learning_rate=1e-3, kl_penalty=0.5, checkpoint_every=1, epochs=2),
        ),
        (
            train_reinforce,
            ReinforceConfig.of(batch_size=2, learning_rate=1e-3, minibatches=2, checkpoint_every=1, epochs=2),
        ),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch, train, config):
    settings = {"dtype": torch.float32, "target_kl": 2.0}
    expected, metrics = run(train, config, tmp_path / "whole", **settings)
    honest = loop.Session.log

    def stop_after(self, *arguments):
        honest(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Session, "log", stop_after)
    for _ in range(6):
        with pytest.raises(Interrupted):
            run(train, config, tmp_path / "stopped", resume=True, **settings)
    resumed, again = run(train, config, tmp_path / "stopped", resume=True, **settings)
    assert resumed == expected
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in rows] for rows in (metrics, again)
    ]
    assert timeless[0] == timeless[1]


def test_answers_of_another_policy_are_noticed(tmp_path, monkeypatch):
    honest = LanguageCollector.collect

    def stale(self, step, examples, partition):
        rollout = honest(self, step, examples, partition)
        rows = dataclasses.replace(rollout.trajectories, logprobs=rollout.trajectories.logprobs + 0.01)
        return dataclasses.replace(rollout, trajectories=rows)

    monkeypatch.setattr(LanguageCollector, "collect", stale)
    for train, config in ((train_ppo, PPOConfig()), (train_reinforce, ReinforceConfig())):
        with pytest.raises(InvariantViolated, match="ratio_is_one"):
            run(train, config, tmp_path / train.__name__)


def test_a_row_that_is_left_out_is_noticed(tmp_path, monkeypatch):
    honest = LanguageActor._evaluate_rows

    def shorter(self, row_indices, rows):
        part = honest(self, row_indices, rows)
        return dataclasses.replace(
            part,
            rows=part.rows[1:],
            logprobs=part.logprobs[1:],
            entropy=part.entropy[1:],
            values=part.values[1:],
        )

    monkeypatch.setattr(LanguageActor, "_evaluate_rows", shorter)
    with pytest.raises(InvariantViolated, match="every_row_is_counted"):
        run(train_ppo, PPOConfig(), tmp_path / "run")


def test_a_reward_that_is_not_finite_stops_before_the_weights_take_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "masked_whiten", lambda x, mask: x * float("nan"))
    with pytest.raises(NonFiniteLoss, match="nan"):
        run(train_ppo, PPOConfig(), tmp_path / "run")


def test_an_update_ends_where_the_divergence_passes_the_target(tmp_path):
    free = PPOConfig.of(batch_size=6, learning_rate=0.03, early_stop_factor=0.0, warmup=0.0)
    held = PPOConfig.of(batch_size=6, learning_rate=0.03, target_update_kl=1e-4, warmup=0.0)
    _, loose = run(train_ppo, free, tmp_path / "free")
    _, tight = run(train_ppo, held, tmp_path / "held")
    assert loose[0]["optimiser_steps"] == 16
    assert tight[0]["optimiser_steps"] < 4


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"clip_range": 0.0}, {"clip_range": 1.0}, {"dual_clip": 0.5}, {"minibatches": 0}):
        with pytest.raises(BadConfig):
            PPOConfig.of(**wrong)
    with pytest.raises(BadConfig):
        ReinforceConfig.of(baseline="critic", credit="return")


@pytest.mark.parametrize("baseline", ["leave-one-out", "group-centred"])
def test_siblings_are_needed_for_their_baseline(baseline):
    _, collector = make(critic=False)
    collector.config = dataclasses.replace(collector.config, num_samples=1)
    with pytest.raises(BadConfig, match="two answers"):
        reinforce.estimate(collector.collect(0, [0]), ReinforceConfig.of(baseline=baseline))


def test_a_sampler_at_another_temperature_is_noticed(tmp_path, monkeypatch):
    honest = language.sample

    def warmer(*arguments, **settings):
        samples = honest(*arguments, **settings)
        return [
            dataclasses.replace(
                own,
                completions=tuple(
                    dataclasses.replace(answer, model_logprobs=tuple(0.9 * x for x in answer.model_logprobs))
                    for answer in own.completions
                ),
            )
            for own in samples
        ]

    monkeypatch.setattr(language, "sample", warmer)
    for train, config in ((train_ppo, PPOConfig()), (train_reinforce, ReinforceConfig())):
        with pytest.raises(InvariantViolated, match="sampled_equals_recomputed"):
            run(train, config, tmp_path / train.__name__)


def test_a_reference_that_changes_is_noticed(tmp_path):
    for train, config in ((train_ppo, PPOConfig()), (train_reinforce, ReinforceConfig())):
        actor, collector = make()
        collector.reference.model.requires_grad_(False)
        honest = collector.update_controllers

        def drift(rollout, collector=collector, honest=honest):
            with torch.no_grad():
                next(iter(collector.reference.model.parameters())).add_(1e-3)
            return honest(rollout)

        collector.update_controllers = drift
        with (
            RunDirectory.begin(tmp_path / train.__name__, {"identity": config.identity()}) as directory,
            pytest.raises(InvariantViolated, match="reference_unchanged"),
        ):
            train(actor, collector, config, directory)


def test_the_effective_share_is_that_of_all_weights_together():
    actor, collector = make()
    config = PPOConfig.of(whiten_advantages=False)
    rollout = collector.collect(0, [0, 2, 5])
    with torch.no_grad():
        for weight in actor.policy.model.parameters():
            weight.mul_(1.02)
    targets = ppo.estimate(rollout, config)
    tally = push(ppo, actor, rollout, [0, 1, 2], targets, config, beta=0.0)
    ratios = []
    for group, first in zip(rollout.items, range(0, 9, 3), strict=True):
        for offset, logprobs in enumerate(plain_logprobs(actor.policy.model, group)):
            old = rollout.trajectories.logprobs[first + offset, : len(logprobs)]
            ratios.append((logprobs.detach() - old).exp())
    weights = torch.cat(ratios)
    expected = float(weights.sum() ** 2 / (len(weights) * weights.square().sum()))
    assert expected < 0.999
    assert tally.metrics()["effective_share"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("row_tokens", [1, 1000])
def test_the_signal_is_shown_every_part(row_tokens):
    actor, collector = make()
    actor.row_tokens = row_tokens
    config = PPOConfig.of(reduction="tokens")
    rollout = collector.collect(0, [0, 2, 5])
    targets = ppo.estimate(rollout, config)
    gradient_snr = GradientSNR(actor.module)
    push(ppo, actor, rollout, [0, 1, 2], targets, config, beta=0.0, gradient_snr=gradient_snr)
    assert len(gradient_snr.micro_batches) == (3 if row_tokens == 1 else 1)
    assert sum(share for _, share in gradient_snr.micro_batches) == pytest.approx(1.0)
    total = sum(gradient for gradient, _ in gradient_snr.micro_batches)
    assert torch.allclose(total, gradient(actor.module), atol=1e-12)


def test_a_separate_critic_has_gradients_and_the_policy_has_none_of_its():
    actor, collector = make()
    body = LanguagePolicy(exact_llama(len(actor.policy.tokenizer), seed=5), actor.policy.tokenizer)
    head = ValueHead(body.model.config.hidden_size, dtype=torch.float64)
    torch.nn.init.constant_(head.linear.weight, 0.1)
    apart = LanguageActor(actor.policy, row_tokens=64, value_head=head, critic=body)
    rollout = collector.collect(0, [0, 1])
    flat = dataclasses.replace(rollout.trajectories, rewards=torch.ones_like(rollout.trajectories.rewards))
    rollout = dataclasses.replace(rollout, trajectories=flat)
    config = PPOConfig.of(whiten_advantages=False)
    targets = ppo.estimate(rollout, config)
    still = dataclasses.replace(targets, advantages=torch.zeros_like(targets.advantages))
    push(ppo, apart, rollout, [0, 1], still, config, beta=0.0)
    assert float(gradient(apart.policy.model).norm()) == 0
    assert float(gradient(body.model).norm()) > 1e-3
    assert float(gradient(head).norm()) > 1e-3


def test_a_policy_that_runs_away_ends_the_run_by_name(tmp_path):
    settings = {"batch_size": 1, "learning_rate": 0.05, "warmup": 0.0, "checkpoint_every": 1}
    limits = {"max_reference_kl": 1e-6, "max_length_change": 0.0, "max_repetition": 0.0}
    for train, config in (
        (train_ppo, PPOConfig.of(**settings, **limits)),
        (train_reinforce, ReinforceConfig.of(**settings, **limits)),
    ):
        with pytest.raises(PolicyRunaway, match="KL to the reference") as caught:
            run(train, config, tmp_path / train.__name__)
        assert "update 3 of 6" in caught.value.where
        assert "best checkpoint" in caught.value.action


def test_a_local_kl_wants_a_reference(tmp_path):
    with pytest.raises(BadConfig, match="no reference"):
        run(train_ppo, PPOConfig.of(local_kl=0.1), tmp_path / "run", reference=False)
