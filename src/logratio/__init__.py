"""Preference optimisation and reinforcement learning for language models, in runs that check themselves.

Everything in `__all__` is documented in docs/api.md. Importing this package loads neither PyTorch nor
transformers: a name is imported when it is first used.

    import logratio as lr

    policy = lr.load_policy("embedded")
    run = lr.train_dpo(policy, "comparisons.jsonl", lr.DPOConfig(beta=0.1), out="runs/dpo")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from logratio.version import __version__ as __version__

if TYPE_CHECKING:
    from logratio import algorithms, errors, objectives
    from logratio.algorithms.dpo import DPOConfig
    from logratio.algorithms.ppo import PPOConfig
    from logratio.algorithms.reinforce import ReinforceConfig
    from logratio.algorithms.reward import RewardConfig
    from logratio.algorithms.sft import SFTConfig
    from logratio.data.reading import read_comparisons, read_prompts
    from logratio.generation.config import SamplingConfig
    from logratio.progress import set_verbosity
    from logratio.recipes.check import check
    from logratio.recipes.compute import ComputeConfig
    from logratio.recipes.dataset import PreferenceDataConfig, PromptDataConfig
    from logratio.recipes.dpo import train_dpo
    from logratio.recipes.evaluate import evaluate
    from logratio.recipes.evaluation_config import EvaluationOptions
    from logratio.recipes.label import label
    from logratio.recipes.lora import LoRA
    from logratio.recipes.on_policy import OnPolicyOptions
    from logratio.recipes.policy import Policy, load_policy
    from logratio.recipes.ppo import train_ppo
    from logratio.recipes.rate import rate
    from logratio.recipes.reinforce import train_reinforce
    from logratio.recipes.reward_model import train_reward_model
    from logratio.recipes.run import Run
    from logratio.recipes.sample import sample
    from logratio.recipes.sft import train_sft
    from logratio.records import Comparison, Completion, Message, Prompt, Sample
    from logratio.rollouts.collector_config import CollectorConfig
    from logratio.rollouts.rewards import load_reward
    from logratio.training.config import GuardConfig, LoopConfig, OptimizerConfig, OutputConfig

_HOMES = {
    "algorithms.dpo": ["DPOConfig"],
    "algorithms.ppo": ["PPOConfig"],
    "algorithms.reinforce": ["ReinforceConfig"],
    "algorithms.reward": ["RewardConfig"],
    "algorithms.sft": ["SFTConfig"],
    "data.reading": ["read_comparisons", "read_prompts"],
    "generation.config": ["SamplingConfig"],
    "progress": ["set_verbosity"],
    "recipes.check": ["check"],
    "recipes.compute": ["ComputeConfig"],
    "recipes.dataset": ["PreferenceDataConfig", "PromptDataConfig"],
    "recipes.dpo": ["train_dpo"],
    "recipes.evaluate": ["evaluate"],
    "recipes.evaluation_config": ["EvaluationOptions"],
    "recipes.label": ["label"],
    "recipes.lora": ["LoRA"],
    "recipes.on_policy": ["OnPolicyOptions"],
    "recipes.policy": ["Policy", "load_policy"],
    "recipes.ppo": ["train_ppo"],
    "recipes.rate": ["rate"],
    "recipes.reinforce": ["train_reinforce"],
    "recipes.reward_model": ["train_reward_model"],
    "recipes.run": ["Run"],
    "recipes.sample": ["sample"],
    "recipes.sft": ["train_sft"],
    "records": ["Comparison", "Completion", "Message", "Prompt", "Sample"],
    "rollouts.collector_config": ["CollectorConfig"],
    "rollouts.rewards": ["load_reward"],
    "training.config": ["GuardConfig", "LoopConfig", "OptimizerConfig", "OutputConfig"],
}
"""The module of every public name, imported when the name is first used."""
_MODULES = ("algorithms", "control", "errors", "objectives")
"""Public modules below the recipes: the pure trainers, environments, faults, the mathematics."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CollectorConfig",
    "Comparison",
    "Completion",
    "ComputeConfig",
    "DPOConfig",
    "EvaluationOptions",
    "GuardConfig",
    "LoRA",
    "LoopConfig",
    "Message",
    "OnPolicyOptions",
    "OptimizerConfig",
    "OutputConfig",
    "PPOConfig",
    "Policy",
    "PreferenceDataConfig",
    "Prompt",
    "PromptDataConfig",
    "ReinforceConfig",
    "RewardConfig",
    "Run",
    "SFTConfig",
    "Sample",
    "SamplingConfig",
    "algorithms",
    "check",
    "control",
    "errors",
    "evaluate",
    "label",
    "load_policy",
    "load_reward",
    "objectives",
    "rate",
    "read_comparisons",
    "read_prompts",
    "sample",
    "set_verbosity",
    "train_dpo",
    "train_ppo",
    "train_reinforce",
    "train_reward_model",
    "train_sft",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"logratio.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"logratio.{name}")
    else:
        raise AttributeError(f"module 'logratio' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
