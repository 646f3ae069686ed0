"""What a part of a batch leaves behind when its gradient has been taken: nothing that takes memory."""

import weakref
from typing import ClassVar

import pytest
import torch

from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.algorithms.reward import Label, LabelledGroup, RewardConfig, train_reward
from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.kernels import fused_decoder
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.fused_layers import Workspace
from logratio.models.reward_model import add_score_head
from logratio.policies.actor_critic import LanguageActor, ValueHead
from logratio.policies.language import LanguagePolicy
from logratio.policies.reward_scorer import RewardModel
from logratio.records import Prompt
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.reward_shaping import WeightedReward
from logratio.run_directory import RunDirectory
from tiny_models import random_groups, tiny_llama, tiny_tokenizer

VOCABULARY = 50
SMALL = {"batch_size": 4, "row_tokens": 16}


class Counted(Workspace):
    """Memory of a row, which says how many others stood when it was taken, and had gradients to come."""

    alive: ClassVar["weakref.WeakSet[Counted]"] = weakref.WeakSet()
    stood: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        if torch.is_grad_enabled():
            Counted.stood.append(len(Counted.alive))
            Counted.alive.add(self)


def sft(run):
    policy = LanguagePolicy(tiny_llama(VOCABULARY), None)
    train_sft(policy, random_groups(8, vocab_size=VOCABULARY, num_answers=1), SFTConfig.of(**SMALL), run)


def dpo(run):
    policy = LanguagePolicy(tiny_llama(VOCABULARY), None)
    train_dpo(policy, random_groups(8, vocab_size=VOCABULARY), DPOConfig.of(**SMALL), run)


def reward(run):
    scorer = RewardModel(add_score_head(tiny_llama(VOCABULARY), source="tiny", seed=0), None)
    groups = [
        LabelledGroup(group, (Label(0, 1),))
        for group in random_groups(8, vocab_size=VOCABULARY, num_answers=2)
    ]
    train_reward(scorer, groups, RewardConfig.of(**SMALL), run)


def lengths(samples):
    return [[len(answer.text) for answer in sample.completions] for sample in samples]


def from_a_reward(train, config, run):
    tokenizer = tiny_tokenizer(chat=False)
    model = tiny_llama(len(tokenizer))
    head = ValueHead(model.config.hidden_size, dtype=torch.float32)
    actor = LanguageActor(LanguagePolicy(model, tokenizer), row_tokens=16, value_head=head)
    collector = LanguageCollector(
        actor,
        [Prompt("the cat"), Prompt("a good day"), Prompt("this")],
        [WeightedReward(name="length", reward=lengths)],
        reference=None,
        config=CollectorConfig(num_samples=2, max_new_tokens=4, kl_coefficient=0.0),
    )
    train(actor, collector, config, run)


def ppo(run):
    from_a_reward(train_ppo, PPOConfig.of(batch_size=3, minibatches=1, update_epochs=2), run)


def reinforce(run):
    from_a_reward(train_reinforce, ReinforceConfig.of(batch_size=3), run)


@pytest.mark.parametrize("train", [sft, dpo, reward, ppo, reinforce])
def test_no_graph_stands_when_the_next_part_is_computed(tmp_path, monkeypatch, train):
    """A graph holds what its layers computed with: two that stand at once are a row's memory more."""
    monkeypatch.setattr(fused_decoder, "Workspace", Counted)
    monkeypatch.setattr(Counted, "stood", [])
    with RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run:
        train(run)
    assert len(Counted.stood) > 2
    assert set(Counted.stood) == {0}


@pytest.mark.parametrize("train", [sft, dpo, reward, ppo, reinforce])
def test_trainers_add_gradients_where_they_stand(tmp_path, monkeypatch, train):
    """Rather than make each beside what stands, and without gradient as they like."""
    in_place, honest = [], Decoder.hidden_states

    def watched(decoder, row, indices):
        if torch.is_grad_enabled():
            in_place.append(decoder.accumulate_in_place)
        return honest(decoder, row, indices)

    monkeypatch.setattr(Decoder, "hidden_states", watched)
    with RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run:
        train(run)
    assert len(in_place) > 2
    assert all(in_place)
