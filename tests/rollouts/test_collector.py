"""What the collector makes of answers: against plain forward passes, one answer at a time."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from logratio.errors import BadConfig
from logratio.models.reward_model import add_score_head
from logratio.policies.actor_critic import LanguageActor, ValueHead, value_head_of
from logratio.policies.language import LanguagePolicy
from logratio.records import Prompt
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig, kl_horizon_of_run
from logratio.rollouts.reward_shaping import WeightedReward
from tiny_models import exact_llama, tiny_tokenizer

STOPS = range(200, 240)
PROMPTS = [Prompt(text) for text in ("the cat", "a good day", "I like")]


def vowels(samples):
    return [
        [sum(letter in "aeiou" for letter in one.text) / 10 for one in own.completions] for own in samples
    ]


def length(samples):
    return [[-len(one.text) / 5 for one in own.completions] for own in samples]


def make(*, critic=None, monitored=(), reference=True, num_samples=4, **settings):
    tokenizer = tiny_tokenizer(chat=False)
    model = exact_llama(len(tokenizer)).eval()
    # Enough ways to end that some answers end and some are cut off.
    model.generation_config.eos_token_id = [0, *STOPS]
    head = ValueHead(model.config.hidden_size, dtype=torch.float64)
    torch.nn.init.normal_(head.linear.weight, std=0.5, generator=torch.Generator().manual_seed(4))
    torch.nn.init.constant_(head.linear.bias, 0.7)
    actor = LanguageActor(LanguagePolicy(model, tokenizer), row_tokens=64, value_head=head, critic=critic)
    other = LanguagePolicy(exact_llama(len(tokenizer), seed=1).eval(), tokenizer) if reference else None
    return LanguageCollector(
        actor,
        PROMPTS,
        [WeightedReward(name="vowels", reward=vowels)],
        reference=other,
        config=CollectorConfig(num_samples=num_samples, max_new_tokens=5, **settings),
        monitored=monitored,
    )


def logits_of(model, prompt, answer):
    """`[T + 1, V]` logits before each token of an answer and behind its last."""
    return model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :]


def states_of(model, prompt, answer):
    hidden = model.base_model(input_ids=torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
    return hidden[len(prompt) - 1 :]


def rows_of(rollout):
    return [(group.prompt, answer) for group in rollout.items for answer in group.answers]


@pytest.mark.parametrize("truncation", ["terminal", "bootstrap"])
def test_what_follows_an_answer_that_was_cut_off(truncation):
    collector = make(truncation=truncation, discount=0.9, lam=0.8, num_samples=40)
    rollout = collector.collect(0, [0, 1, 2])
    rows, width = rollout.trajectories, rollout.trajectories.mask.shape[1]
    seen = set()
    for number, (prompt, answer) in enumerate(rows_of(rollout)):
        values = collector.actor.value_head(states_of(collector.actor.policy.model, prompt, answer)).tolist()
        last, ended = len(answer) - 1, answer[-1] in (0, *STOPS)
        seen.add(ended)
        bootstraps = truncation == "bootstrap" and not ended
        after = [*values[1 : last + 1], values[last + 1] if bootstraps else 0.0]
        discounts = [0.9] * last + [0.9 if bootstraps else 0.0]
        padding = [0.0] * (width - len(answer))
        assert rows.values[number].tolist() == pytest.approx(values[: last + 1] + padding, abs=1e-9)
        assert rows.next_values[number].tolist() == pytest.approx(after + padding, abs=1e-9)
        assert rows.discounts[number].tolist() == pytest.approx(discounts + padding)
        assert rows.traces[number].tolist() == pytest.approx([0.8] * last + [0.0] + padding)
    assert seen == {True, False}


def test_the_reported_kl_is_that_of_the_answers():
    """Summed over the vocabulary at each token of an answer, then the mean over answers; also from tokens."""
    collector = make(target_kl=1.0, kl_horizon=50.0, kl_coefficient=0.4)
    rollout = collector.collect(0, [0, 1, 2])
    exact, drawn = [], []
    for prompt, answer in rows_of(rollout):
        p, q = (
            logits_of(model, prompt, answer)[:-1].log_softmax(-1).detach()
            for model in (collector.actor.policy.model, collector.reference.model)
        )
        exact.append(float((p.exp() * (p - q)).sum()))
        rows = torch.arange(len(answer))
        drawn.append(float((p - q)[rows, torch.tensor(answer)].sum()))
    metrics = rollout.metrics
    assert metrics["reference_kl"] == pytest.approx(sum(exact) / len(exact), abs=1e-9)
    assert metrics["reference_log_ratio"] == pytest.approx(sum(drawn) / len(drawn), abs=1e-9)
    assert metrics["objective"] == pytest.approx(metrics["reward"] - 0.4 * metrics["reference_kl"], abs=1e-12)
    collector.update_controllers(rollout)
    # Far above the target: the error is cut to a fifth, for 12 answers of a horizon of 50.
    assert metrics["reference_kl"] > 1.3
    assert collector.kl_coefficient == pytest.approx(0.4 * (1 + 0.2 * 12 / 50), rel=1e-12)


def test_without_a_reference_nothing_is_charged():
    rollout = make(reference=False).collect(0, [0])
    assert "reference_kl" not in rollout.metrics
    assert rollout.reference_logprobs is None
    earned = rollout.trajectories.rewards.sum(dim=1).mean()
    assert float(earned) == pytest.approx(rollout.metrics["reward"], abs=1e-12)


def test_a_watched_reward_changes_nothing():
    plain = make().collect(0, [0, 1])
    monitored = make(monitored=[WeightedReward(name="length", reward=length, weight=3.0)]).collect(0, [0, 1])
    assert torch.equal(plain.trajectories.rewards, monitored.trajectories.rewards)
    assert monitored.metrics["monitored/length"] < 0
    assert monitored.metrics["reward"] == plain.metrics["reward"]


def test_a_separate_critic_reads_its_own_states():
    tokenizer = tiny_tokenizer(chat=False)
    body = LanguagePolicy(exact_llama(len(tokenizer), seed=9).eval(), tokenizer)
    collector = make(critic=body)
    rollout = collector.collect(0, [0, 2])
    for number, (prompt, answer) in enumerate(rows_of(rollout)):
        expected = collector.actor.value_head(states_of(body.model, prompt, answer))[:-1]
        found = rollout.trajectories.values[number, : len(answer)]
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-9)
    trained = {id(weight) for weight in collector.actor.module.parameters()}
    assert {id(weight) for weight in body.model.parameters()} <= trained
    assert len(collector.actor.critic_parameters) == 2 + len(list(body.model.parameters()))


def test_the_head_of_a_reward_model_says_its_score():
    tokenizer = tiny_tokenizer(chat=False)
    model = exact_llama(len(tokenizer))
    states = states_of(model, (5, 6), (7, 8)).detach()
    scorer = add_score_head(model, source="here", seed=3)
    torch.testing.assert_close(value_head_of(scorer)(states), scorer.score(states)[:, 0])


def test_cut_off_answers_want_a_critic_to_go_on():
    with pytest.raises(BadConfig, match="no critic"):
        collector = make()
        LanguageCollector(
            LanguageActor(collector.actor.policy, row_tokens=64),
            PROMPTS,
            collector.rewards,
            reference=None,
            config=CollectorConfig(truncation="bootstrap"),
        )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target_kl": 0.0}, "only the reference itself"),
        ({"target_kl": 2.0, "kl_coefficient": 0.0}, "steers it"),
        ({"kl_horizon": 0.0}, "kl_horizon"),
        ({"num_samples": 0}, "num_samples"),
        ({"discount": 1.1}, "discount"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_the_reason(settings, named):
    with pytest.raises(BadConfig, match=named):
        CollectorConfig(**settings)


def test_a_reward_is_given_the_columns_and_the_place_of_each_prompt():
    seen = []

    def note(samples):
        seen.extend((own.prompt, own.columns, own.source) for own in samples)
        return [[float(number) for number in range(4)] for _ in samples]

    collector = make()
    collector.rewards = [WeightedReward(name="note", reward=note)]
    collector.rows = [
        replace(row, columns={"number": number}, source=f"prompts.jsonl:{number}")
        for number, row in enumerate(collector.rows)
    ]
    collector.collect(0, [1, 0])
    assert seen == [(PROMPTS[number], {"number": number}, f"prompts.jsonl:{number}") for number in (1, 0)]


def test_a_reward_that_is_the_same_for_all_is_told_once(capsys):
    collector = make()
    constant = WeightedReward(name="one", reward=lambda samples: [[1.0] * 4 for _ in samples])
    collector.rewards = [constant]
    for step in range(2):
        assert collector.collect(step, [0, 1]).metrics["reward_std"] == 0
    assert capsys.readouterr().err.count("nothing is learned from it") == 1


def test_a_cut_off_answer_earns_what_the_worst_that_ended_does():
    """With a reward that likes short answers: those that were cut off have the least of it."""
    earned = []
    for truncated_reward in ("own", "worst"):
        collector = make(num_samples=40, truncation_penalty=0.25, truncated_reward=truncated_reward)
        collector.rewards = [WeightedReward(name="length", reward=length)]
        rollout = collector.collect(0, [0, 1, 2])
        earned.append(rollout.trajectories.rewards.sum(dim=1))
    answers = [answer for group in rollout.items for answer in group.answers]
    texts = [collector.actor.policy.tokenizer.decode(one, skip_special_tokens=True) for one in answers]
    ended = torch.tensor([answer[-1] in (0, *STOPS) for answer in answers])
    plain = torch.tensor([-len(text) / 5 for text in texts], dtype=torch.float64)
    lowest = float(plain[ended].min())
    assert lowest > float(plain.min())
    assert torch.equal(earned[0][ended], earned[1][ended])
    gained = (earned[1] - earned[0])[~ended]
    torch.testing.assert_close(gained, lowest - plain[~ended], rtol=0, atol=1e-6)


def test_where_no_answer_ended_each_earns_its_own():
    collector = make(truncated_reward="worst")
    collector.actor.policy.model.generation_config.eos_token_id = [0]
    other = make()
    other.actor.policy.model.generation_config.eos_token_id = [0]
    found, expected = (one.collect(0, [0]).trajectories.rewards for one in (collector, other))
    assert torch.equal(found, expected)


def test_prompts_whose_answers_all_earn_the_same_are_counted():
    collector = make()
    table = WeightedReward(
        name="table", reward=lambda samples: [[1.0] * 4, [0.0, 0.0, 0.0, 1.0], [2.0] * 4][: len(samples)]
    )
    collector.rewards = [table]
    assert collector.collect(0, [0, 1, 2]).metrics["constant_groups"] == pytest.approx(2 / 3)
    assert "constant_groups" not in make(num_samples=1).collect(0, [0, 1]).metrics


def test_the_horizon_follows_the_length_of_the_run():
    assert kl_horizon_of_run(CollectorConfig(), num_answers=2000, answers_per_update=64) == 100
    assert kl_horizon_of_run(CollectorConfig(), num_answers=128, answers_per_update=64) == 64
    given = CollectorConfig(kl_horizon=10_000.0)
    assert kl_horizon_of_run(given, num_answers=128, answers_per_update=64) == 10_000


def test_equal_policies_are_at_a_kl_of_exactly_0():
    collector = make()
    collector.reference = LanguagePolicy(
        exact_llama(len(collector.actor.policy.tokenizer)).eval(), collector.actor.policy.tokenizer
    )
    rollout = collector.collect(0, [0, 1, 2])
    assert rollout.metrics["reference_kl"] == 0
    assert torch.equal(rollout.reference_logprobs, rollout.trajectories.logprobs)


def test_what_is_frozen_is_the_reference_and_not_what_is_trained():
    collector = make()
    collector.reference.model.requires_grad_(False)
    before = collector.reference_fingerprint()
    with torch.no_grad():
        next(iter(collector.actor.policy.model.parameters())).add_(1.0)
    assert collector.reference_fingerprint() == before
    with torch.no_grad():
        next(iter(collector.reference.model.parameters())).add_(1.0)
    assert collector.reference_fingerprint() != before
    assert dataclasses.is_dataclass(collector.config)


def test_an_answer_may_earn_what_it_has_more_than_its_siblings():
    """Written out: the score less the mean of the three other scores; the metrics stay as they were."""
    bare, less = make(kl_coefficient=0.0), make(kl_coefficient=0.0, reward_baseline="group")
    plain, found = bare.collect(0, [0, 1]), less.collect(0, [0, 1])
    scores = plain.trajectories.rewards.sum(dim=1)
    expected = [
        float(score) - (float(group.sum()) - float(score)) / 3
        for group in scores.reshape(2, 4)
        for score in group
    ]
    torch.testing.assert_close(found.trajectories.rewards.sum(dim=1), torch.tensor(expected).to(scores))
    assert found.metrics["reward"] == plain.metrics["reward"]
    with pytest.raises(BadConfig, match="group"):
        make(num_samples=1, reward_baseline="group")
