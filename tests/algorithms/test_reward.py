"""The reward model's trainer: what it computes, against pairs computed one by one."""

import math
import signal

import pytest
import torch
from torch.nn import functional as F

from logratio.algorithms.reward import (
    Label,
    LabelledGroup,
    PairScores,
    RewardConfig,
    group_pairs,
    pair_losses,
    summarise,
    train_reward,
)
from logratio.data.encoding import EncodedPair
from logratio.data.label_metadata import Grade
from logratio.errors import BadConfig, Interrupted, NonFiniteLoss
from logratio.models.reward_model import add_score_head
from logratio.packed_rows import AnswerGroup
from logratio.policies.reward_scorer import RewardModel
from logratio.records import Comparison, Completion, Prompt
from logratio.run_directory import RunDirectory
from logratio.training.loop import Session
from tiny_models import exact_llama, random_groups

VOCABULARY = 50


def labelled(num, *, seed=0):
    """Groups of three answers with one to three labels each, ties and margins among them."""
    answers = random_groups(num, vocab_size=VOCABULARY, num_answers=3, seed=seed)
    labels = [Label(0, 1), Label(2, 1, preference=0.5), Label(2, 0, margin=0.5)]
    return [LabelledGroup(group, tuple(labels[: 1 + number % 3])) for number, group in enumerate(answers)]


def scorer_of(layout="packed"):
    return RewardModel(add_score_head(exact_llama(VOCABULARY), source="exact", seed=0), None, layout=layout)


def train(path, groups, *, layout="packed", **settings):
    scorer = scorer_of(layout)
    config = RewardConfig.of(adam_epsilon=1e-3, **settings)
    with RunDirectory.begin(path, {"identity": config.identity()}, resume=path.exists()) as run:
        train_reward(scorer, groups, config, run)
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in scorer.model.parameters()])
    return weights, run.metrics


def losses_by_hand(model, groups, *, centring=0.0):
    """Every pair's loss, each answer a plain forward pass and the formula written out."""

    def score(group, number):
        tokens = torch.tensor([[*group.answers.prompt, *group.answers.answers[number]]])
        return model.score(model.model(input_ids=tokens).last_hidden_state[0, -1])[0]

    losses = []
    for group in groups:
        for label in group.labels:
            chosen, rejected = score(group, label.chosen), score(group, label.rejected)
            agree = -F.logsigmoid(chosen - rejected - label.margin)
            disagree = -F.logsigmoid(rejected - chosen - label.margin)
            loss = label.preference * agree + (1 - label.preference) * disagree
            losses.append(loss + centring * (chosen + rejected) ** 2)
    return torch.stack(losses)


@pytest.mark.parametrize("centring", [0.0, 0.03])
def test_the_first_update_has_the_loss_and_gradient_of_pairs_computed_one_by_one(tmp_path, centring):
    """Every vote weighs the same: the prompts have one, two and three."""
    groups = labelled(7)
    model = scorer_of().model
    losses = losses_by_hand(model, groups, centring=centring)
    gradient = torch.autograd.grad(losses.mean(), list(model.parameters()))
    losses = losses.detach()
    norm = math.sqrt(sum(float(part.square().sum()) for part in gradient))
    _, metrics = train(tmp_path / "run", groups, batch_size=7, centring=centring)
    assert metrics[0]["loss"] == pytest.approx(float(losses.mean()), abs=1e-10)
    assert metrics[0]["gradient_norm"] == pytest.approx(norm, rel=1e-8)
    assert metrics[0]["pairs"] == len(losses) == 13
    expected = sum(len(group.answers.prompt) + sum(map(len, group.answers.answers)) for group in groups)
    assert metrics[0]["tokens"] == expected


def test_a_batch_equals_its_parts_equals_each_answer_apart(tmp_path):
    """Three ways to compute the same two updates end in the same weights."""
    groups = labelled(16)
    settings = {"batch_size": 8, "learning_rate": 1e-3}
    whole, metrics = train(tmp_path / "whole", groups, row_tokens=10_000, **settings)
    parts, _ = train(tmp_path / "parts", groups, row_tokens=1, **settings)
    apart, _ = train(tmp_path / "unpacked", groups, layout="unpacked", **settings)
    start = torch.cat([parameter.detach().reshape(-1) for parameter in scorer_of().model.parameters()])
    assert (whole - start).abs().max() > 1e-4
    assert (whole - parts).abs().max() < 1e-10
    assert (whole - apart).abs().max() < 1e-10
    assert len(metrics) == 2


def test_it_learns_who_was_preferred_and_leaves_ties_level(tmp_path):
    groups = random_groups(12, vocab_size=VOCABULARY, num_answers=2)
    decided = [LabelledGroup(group, (Label(0, 1),)) for group in groups[:8]]
    ties = [LabelledGroup(group, (Label(0, 1, preference=0.5),)) for group in groups[8:]]
    scorer = scorer_of()
    config = RewardConfig.of(learning_rate=3e-3, epochs=12, batch_size=4)
    with RunDirectory.begin(tmp_path / "run", {"identity": config.identity()}) as run:
        train_reward(scorer, [*decided, *ties], config, run)
    scores = scorer.score_groups(groups, max_tokens=1000)
    assert all(chosen - rejected > 1.0 for chosen, rejected in scores[:8])
    assert all(abs(one - other) < 0.5 for one, other in scores[8:])


def test_centring_brings_the_scores_to_zero(tmp_path):
    groups = [
        LabelledGroup(group, (Label(0, 1),)) for group in random_groups(8, vocab_size=VOCABULARY, seed=3)
    ]
    settings = {"batch_size": 8, "epochs": 40, "learning_rate": 3e-3, "warmup": 0.0}
    _, free = train(tmp_path / "free", groups, **settings)
    _, centred = train(tmp_path / "centred", groups, centring=0.1, **settings)

    def middle(row):
        return abs(row["chosen_reward"] + row["rejected_reward"])

    assert middle(free[0]) == pytest.approx(middle(centred[0]), abs=1e-12)
    assert middle(centred[-1]) < 0.05 < middle(free[-1])


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    groups = labelled(12)
    settings = {"batch_size": 4, "epochs": 2.0, "learning_rate": 1e-3}
    whole, metrics = train(tmp_path / "whole", groups, **settings)
    update = Session.update

    def stopping(self, step, *rest):
        update(self, step, *rest)
        if step == 2:
            self._on_signal(signal.SIGTERM, None)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Session, "update", stopping)
        train(tmp_path / "stopped", groups, **settings)
    resumed, again = train(tmp_path / "stopped", groups, **settings)
    assert torch.equal(resumed, whole)
    assert [row["loss"] for row in again] == [row["loss"] for row in metrics]


def test_a_loss_that_is_no_number_names_the_prompt_it_belongs_to(tmp_path, monkeypatch):
    """The prompts have one, two, three, one, … pairs: the fourth pair is the third prompt's."""

    def broken(pair, config):
        losses = pair_losses(pair, config)
        return torch.where(torch.arange(len(losses)) == 3, torch.nan, losses)

    monkeypatch.setattr("logratio.algorithms.reward.pair_losses", broken)
    with pytest.raises(NonFiniteLoss) as fault:
        train(tmp_path / "run", labelled(7), batch_size=7, shuffle=False, row_tokens=10_000)
    assert fault.value.where == "step 0, example 2"


# --- labels ------------------------------------------------------------------------------------------


def pair(prompt, chosen, rejected, source):
    comparison = Comparison(
        prompt=Prompt("p"), chosen=Completion(text="a"), rejected=Completion(text="b"), source=source
    )
    return EncodedPair(comparison=comparison, prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)


def test_pairs_of_a_prompt_come_together_and_answers_once():
    a, b, c = (5, 0), (6, 7, 0), (8, 0)
    pairs = [
        pair((1,), a, b, "f:1"),
        pair((2,), a, c, "f:2"),
        pair((1,), c, b, "f:3"),
        pair((1,), a, c, "f:4"),
    ]
    grades = {"f:3": Grade(tie=True, margin=2.0), "f:4": Grade(margin=0.5)}
    assert group_pairs(pairs, grades) == [
        LabelledGroup(
            AnswerGroup((1,), (a, b, c)),
            (Label(0, 1), Label(2, 1, preference=0.5), Label(0, 2, margin=0.5)),
        ),
        LabelledGroup(AnswerGroup((2,), (a, c)), (Label(0, 1),)),
    ]


def scores(chosen, rejected, preference=1.0, margin=0.0):
    values = zip(chosen, rejected, strict=True)
    table = [[float(c), float(r), preference, margin] for c, r in values]
    return PairScores(*torch.tensor(table, dtype=torch.float64).T)


def test_the_loss_is_the_golden_one_with_each_setting():
    plain = pair_losses(scores([1, 0], [0, 2]), RewardConfig())
    assert plain.tolist() == pytest.approx([0.3132616875, 2.1269280110], abs=1e-9)
    assert pair_losses(scores([3], [3]), RewardConfig()).tolist() == pytest.approx([math.log(2)], abs=1e-9)
    margin = pair_losses(scores([1], [0], margin=1.0), RewardConfig())
    assert margin.tolist() == pytest.approx([math.log(2)], abs=1e-9)
    centred = pair_losses(scores([1], [0]), RewardConfig.of(centring=0.01))
    assert centred.tolist() == pytest.approx([0.3232616875], abs=1e-9)
    tie = pair_losses(scores([1], [0], preference=0.5), RewardConfig())
    assert tie.tolist() == pytest.approx([(0.3132616875 + 1.3132616875) / 2], abs=1e-9)


def test_metrics_count_ties_neither_right_nor_wrong():
    one, two = scores([2, 0, 1], [1, 1, 1]), scores([5], [0], preference=0.5)
    both = PairScores(*(torch.cat(parts) for parts in zip(one, two, strict=True)))
    metrics = summarise(torch.tensor([1.0, 2.0, 3.0, 4.0]), both)
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["margin"] == pytest.approx(0.0)
    assert metrics["loss"] == pytest.approx(2.5)
    assert (metrics["chosen_reward"], metrics["rejected_reward"]) == (2.0, 0.75)
    assert "accuracy" not in summarise(torch.tensor([1.0]), two)


@pytest.mark.parametrize(
    ("settings", "flag"), [({"centring": -0.1}, "--centring"), ({"margin": ""}, "--margin")]
)
def test_contradictory_settings_are_refused(settings, flag):
    with pytest.raises(BadConfig) as caught:
        RewardConfig.of(**settings)
    assert caught.value.where == flag
