"""The models that are run on the pretended device, and runs of every trainer, here and there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.algorithms.reward import Label, LabelledGroup, RewardConfig, train_reward
from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.models.lora import add_adapter
from logratio.models.reward_model import add_score_head
from logratio.packed_rows import AnswerGroup
from logratio.policies.actor_critic import LanguageActor, ValueHead
from logratio.policies.language import LanguagePolicy
from logratio.policies.reward_scorer import RewardModel
from logratio.records import Prompt
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.reward_shaping import WeightedReward
from logratio.run_directory import RunDirectory
from logratio.training.layout_check import select_layout
from tiny_models import SIZES, exact_of, random_groups, tiny_tokenizer

VOCABULARY = 290
PROMPTS = [Prompt(text) for text in ("the cat", "a good day", "I like", "the dog ran")]
MOVED = {"batch_size": 3, "learning_rate": 1e-3, "row_tokens": 60, "schedule": "constant", "warmup": 0.0}


def gpt2(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    ends = {"bos_token_id": None, "eos_token_id": 0, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **ends)).double().eval()


def gemma2(seed: int) -> Any:
    """Its norms compute in float32 whatever the rest does, and no layer of ours computes it."""
    torch.manual_seed(seed)
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=VOCABULARY, **SIZES, head_dim=8)).eval()


def known(kind: Any, config: Any, **settings: Any) -> Callable[[int], Any]:
    return lambda seed: exact_of(kind, config, VOCABULARY, seed=seed, **settings)


MODELS: dict[str, Callable[[int], Any]] = {
    "llama": known(LlamaForCausalLM, LlamaConfig, tie_word_embeddings=True),
    "mistral": known(MistralForCausalLM, MistralConfig, sliding_window=None),
    "qwen2": known(Qwen2ForCausalLM, Qwen2Config),
    "qwen3": known(Qwen3ForCausalLM, Qwen3Config, head_dim=12),
    "smollm3": known(SmolLM3ForCausalLM, SmolLM3Config, no_rope_layers=[1, 0]),
    "gpt2": gpt2,
    "gemma2": gemma2,
}
LAYOUTS = dict.fromkeys(MODELS, "packed") | {"gemma2": "unpacked"}
"""How each computes several answers to a prompt; the same on every device."""
TOLERANCE = dict.fromkeys(MODELS, 1e-9) | {"gemma2": 1e-5}
"""In nats and in weights, of models in float64."""


@cache
def words() -> Any:
    """The tokenizer of all of them."""
    return tiny_tokenizer(chat=False)


def model_of(name: str, device: str, *, seed: int = 0, dtype: torch.dtype | None = None) -> Any:
    """A model, the same on every device; in its own dtype or another."""
    return MODELS[name](seed).to(dtype).to(device)


def groups_of(num: int = 6, *, num_answers: int = 2) -> list[AnswerGroup]:
    """Prompts that all begin alike, with answers no two of which are one."""
    drawn = random_groups(2 * num, vocab_size=VOCABULARY, num_answers=num_answers)
    found = [group for group in drawn if len(set(group.answers)) == num_answers][:num]
    assert len(found) == num
    return [AnswerGroup((5, 6, 7, *group.prompt), group.answers) for group in found]


def labelled_groups() -> list[LabelledGroup]:
    """The same with labels, a tie and a margin among them."""
    labels = (Label(0, 1), Label(2, 1, preference=0.5), Label(2, 0, margin=0.5))
    return [LabelledGroup(group, labels[: 1 + n % 3]) for n, group in enumerate(groups_of(num_answers=3))]


def vowels(samples: Any) -> list[list[float]]:
    """A reward with some spread."""
    return [
        [sum(letter in "aeiou" for letter in one.text) / 10 for one in own.completions] for own in samples
    ]


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """One trainer with its options."""

    kind: str
    """Which."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of its configuration."""
    collecting: dict[str, Any] = field(default_factory=dict)
    """Of the collector's."""
    reference: bool = True
    """Whether answers are charged their distance to another model."""
    critic: str = ""
    """`head` on the policy's states, a `body` of its own, or none."""
    greedy: bool = False
    """Whether the greedy answers are collected as well."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    metrics: list[dict[str, Any]]
    """Of each update, but for times."""
    weights: dict[str, Tensor]
    """On the CPU, afterwards."""
    layout: str
    """`shared` or `apart`."""


def train(
    trainer: Trainer,
    name: str,
    device: str,
    *,
    path: Path | None = None,
    resume: bool = False,
    dtype: torch.dtype | None = None,
    lora: bool = False,
    computing: dict[str, Any] | None = None,
) -> Outcome:
    """Train a model for a few updates.

    Args:
        trainer: which trainer, with which options.
        name: of the model.
        device: where.
        path: the run's directory.
        resume: go on with what stands there.
        dtype: of the weights.
        lora: train an adapter.
        computing: `precision` and `recompute_activations`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = path or Path(temporary) / "run"
        model = model_of(name, device, dtype=dtype)
        if lora:
            add_adapter(model, rank=4, alpha=8, seed=0, base="made")
        train_on = {"sft": _sft, "dpo": _dpo, "reward": _reward}.get(trainer.kind, _policy_gradient)
        reader, module, configuration, begin = train_on(trainer, model, device)
        reader.set_compute(**computing or {})
        with RunDirectory.begin(directory, {"identity": configuration.identity()}, resume=resume) as run:
            begin(run)
            rows = [{key: value for key, value in row.items() if key != "seconds"} for row in run.metrics]
        weights = {key: value.detach().cpu() for key, value in module.named_parameters()}
        return Outcome(rows, weights, reader.layout)


def compare(here: Outcome, there: Outcome, tolerance: float) -> None:
    """Hold a run on the device against the same on the CPU: every metric of every update, every weight."""
    assert len(here.metrics) == len(there.metrics) > 0
    assert here.layout == there.layout
    for ours, theirs in zip(here.metrics, there.metrics, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if isinstance(value, str | None):
                assert theirs[name] == value, name
            elif not name.endswith("_per_second"):
                assert theirs[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    assert here.weights.keys() == there.weights.keys()
    for name, weight in here.weights.items():
        torch.testing.assert_close(there.weights[name], weight, rtol=tolerance, atol=tolerance, msg=name)


Prepared = tuple[Any, Any, Any, Callable[[RunDirectory], Any]]
"""What reads rows, what is trained, the configuration, and the training."""


def _sft(trainer: Trainer, model: Any, device: str) -> Prepared:
    policy, config = LanguagePolicy(model, words()), SFTConfig.of(**MOVED | trainer.settings)
    return policy, model, config, lambda run: train_sft(policy, groups_of(num_answers=1), config, run)


def _dpo(trainer: Trainer, model: Any, device: str) -> Prepared:
    policy, config = LanguagePolicy(model, words()), DPOConfig.of(**MOVED | trainer.settings)
    return policy, model, config, lambda run: train_dpo(policy, groups_of(), config, run)


def _reward(trainer: Trainer, model: Any, device: str) -> Prepared:
    scorer = RewardModel(add_score_head(model, source="made", seed=0), words())
    config = RewardConfig.of(**MOVED | trainer.settings)
    return scorer, scorer.model, config, lambda run: train_reward(scorer, labelled_groups(), config, run)


def _policy_gradient(trainer: Trainer, model: Any, device: str) -> Prepared:
    name, weight = model.config.model_type, next(model.parameters())
    policy = LanguagePolicy(model, words())
    select_layout(policy, groups_of())

    def other(seed: int) -> LanguagePolicy:
        beside = model_of(name, device, seed=seed, dtype=weight.dtype)
        return LanguagePolicy(beside, words(), layout=policy.layout)

    head = ValueHead(model.config.hidden_size, dtype=weight.dtype).to(device) if trainer.critic else None
    critic = other(2) if trainer.critic == "body" else None
    actor = LanguageActor(policy, row_tokens=60, value_head=head, critic=critic)
    collector = LanguageCollector(
        actor,
        PROMPTS,
        [WeightedReward(name="vowels", reward=vowels)],
        reference=other(1) if trainer.reference else None,
        config=CollectorConfig(num_samples=3, max_new_tokens=4, **trainer.collecting),
        greedy=trainer.greedy,
    )
    kind, run_it = {"ppo": (PPOConfig, train_ppo), "reinforce": (ReinforceConfig, train_reinforce)}[
        trainer.kind
    ]
    passes = {"update_epochs": 2, "minibatches": 2} if trainer.kind == "ppo" else {}
    config = kind.of(**MOVED | {"batch_size": 2} | passes | trainer.settings)
    return policy, actor.module, config, lambda run: run_it(actor, collector, config, run)
