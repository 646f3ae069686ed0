"""A language model answers and is rewarded: trajectories of tokens, each charged its KL to the reference."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logratio.batches import AnswerGroup, Evaluation, Rollout, Trajectories
from logratio.errors import BadConfig
from logratio.models.tokenisation import encode_prompt
from logratio.objectives.kl import k1
from logratio.objectives.ppo import ReferenceKLController
from logratio.policies.decoding import SamplingConfig
from logratio.policies.language import LanguagePolicy
from logratio.policies.language_actor import LanguageActor
from logratio.records import Prompt, Sample
from logratio.rollouts.sampling import SEED_BITS, sample

Rewarder = Callable[[Sequence[Sample]], list[list[float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedReward:
    """One of the rewards whose weighted sum is learned from."""

    name: str
    """What the metrics call it."""
    reward: Rewarder
    """Gives a number for every answer of every sample."""
    weight: float = 1.0
    """What it counts in the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig:
    """How answers are collected and what is charged."""

    num_samples: int = 4
    """Answers to each prompt."""
    max_new_tokens: int = 64
    """An answer that has not ended after so many tokens is cut off; it is over then."""
    decode_batch: int = 64
    """How many answers are decoded at a time."""
    discount: float = 1.0
    """γ; below 1 early tokens count less for the reward at the end."""
    lam: float = 0.95
    """λ of the generalised advantages."""
    kl_coefficient: float = 0.05
    """β: what a nat of KL divergence to the reference costs, in units of the reward; 0 charges nothing."""
    target_kl: float = 0.0
    """KL divergence to the reference wanted, in nats an answer: β is steered to it; 0 leaves β as it is."""
    kl_horizon: float = 10_000.0
    """Answers over which a lasting error of the KL changes β by its share, at most a fifth."""
    missing_end_penalty: float = 0.0
    """Taken off the reward of an answer that was cut off."""
    sampling_seed: int = 0
    """Seed of the answers."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_new_tokens", "decode_batch"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("kl_coefficient", "target_kl", "missing_end_penalty", "sampling_seed"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("discount", "lam"):
            self._require(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        self._require("kl_horizon", 0 < self.kl_horizon < math.inf, "above 0")
        steered = "above 0 where --target-kl steers it"
        self._require("kl_coefficient", self.kl_coefficient > 0 or not self.target_kl, steered)

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            flag = "--" + name.replace("_", "-")
            what = f"{name} is {getattr(self, name)}, it must be {wanted}"
            raise BadConfig(what, where=flag, action=f"change {flag}")


class LanguageCollector:
    """Answers to prompts as trajectories; see `Collector`.

    A token's reward is minus the KL divergence it is charged, `β·(log π − log π_ref)`: with no discount and
    with reward-to-go its gradient is that of the sequence's divergence, exactly. The reward of the answer
    comes with its last token.

    Args:
        actor: who answers; its policy samples at temperature 1 from the whole vocabulary, as it is trained.
        prompts: what is answered.
        rewards: what is learned from.
        reference: what the divergence is to; needed where it costs something.
        config: how.
        columns: further columns of each prompt's row, for the rewards.
        greedy: also answer each prompt with the most probable tokens, for the greedy baseline.
    """

    unit = "prompts"

    def __init__(
        self,
        actor: LanguageActor,
        prompts: Sequence[Prompt],
        rewards: Sequence[WeightedReward],
        *,
        reference: LanguagePolicy | None,
        config: CollectorConfig,
        columns: Sequence[Mapping[str, Any]] | None = None,
        greedy: bool = False,
    ) -> None:
        self.actor, self.prompts, self.rewards = actor, prompts, rewards
        self.reference, self.config, self.greedy = reference, config, greedy
        self.columns = columns if columns is not None else [{}] * len(prompts)
        self.kl_controller = (
            ReferenceKLController(
                coefficient=config.kl_coefficient, target=config.target_kl, horizon=config.kl_horizon
            )
            if config.target_kl
            else None
        )

    @property
    def num_examples(self) -> int:
        """How many prompts a pass has."""
        return len(self.prompts)

    @property
    def controllers(self) -> dict[str, Any]:
        """The controller of β, if there is one."""
        return {} if self.kl_controller is None else {"reference_kl": self.kl_controller}

    @property
    def kl_coefficient(self) -> float:
        """β as it stands."""
        return self.config.kl_coefficient if self.kl_controller is None else self.kl_controller.coefficient

    @torch.no_grad()
    def collect(self, step: int, examples: Sequence[int]) -> Rollout:
        """Answer the prompts `examples` and be rewarded; the same again for the same weights and step.

        Raises:
            BadConfig: an update has so many answers that the controller of β could turn it negative.
            BadReward: a reward raised, or did not give a finite number for each answer.
        """
        num_sequences = len(examples) * self.config.num_samples
        if self.kl_controller is not None and num_sequences >= 5 * self.config.kl_horizon:
            raise BadConfig(
                f"an update has {num_sequences} answers and kl_horizon is {self.config.kl_horizon:g}",
                where="--kl-horizon",
                action=f"give more than {num_sequences / 5:g}, or fewer answers an update",
            )
        samples = self._answer(step, examples, num_samples=self.config.num_samples, temperature=1.0)
        scores, metrics = self._score(samples)
        groups = [self._group(own) for own in samples]
        rollout = self._empty(groups, metrics)
        now = self._read(self.actor, groups, rollout)
        log_ratio = torch.zeros_like(now["logprobs"])
        if self.reference is not None:
            # Frozen, and computed by the same rows as the policy: equal models give equal numbers.
            other = LanguageActor(self.reference, row_tokens=self.actor.row_tokens)
            log_ratio = now["logprobs"] - self._read(other, groups, rollout)["logprobs"]
        mask = rollout.trajectories.mask
        trajectories = self._trajectories(now, log_ratio, scores.to(log_ratio), mask)
        divergence = torch.where(mask, k1(log_ratio), 0.0).sum(dim=1)
        metrics |= {
            "sampled_deviation": sampled_deviation(samples, now["logprobs"]),
            "reference_kl": float(divergence.mean()),
            "kl_coefficient": self.kl_coefficient,
            "entropy": float(now["entropy"][mask].mean()),
            "tokens": float(mask.sum()),
        }
        return Rollout(
            trajectories=trajectories,
            items=groups,
            item_of_row=rollout.item_of_row,
            metrics=metrics,
            group_size=self.config.num_samples,
            greedy_returns=self._greedy_returns(step, examples) if self.greedy else None,
        )

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Steer β by the divergence of the answers that were learned from."""
        if self.kl_controller is not None:
            self.kl_controller.update(
                rollout.metrics["reference_kl"], num_sequences=len(rollout.trajectories.mask)
            )
        return {}

    def _answer(
        self, step: int, examples: Sequence[int], *, num_samples: int, temperature: float
    ) -> list[Sample]:
        digest = hashlib.sha256(f"{self.config.sampling_seed}:{step}".encode()).digest()
        return sample(
            self.actor.policy.model,
            self.actor.policy.tokenizer,
            [self.prompts[example] for example in examples],
            num_samples=num_samples,
            seed=int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS),
            config=SamplingConfig(
                max_new_tokens=self.config.max_new_tokens,
                temperature=temperature,
                batch_size=self.config.decode_batch,
            ),
            columns=[self.columns[example] for example in examples],
        )

    def _score(self, samples: Sequence[Sample]) -> tuple[Tensor, dict[str, float]]:
        """`[sequences]` the weighted sum of the rewards less the penalty, and each reward's mean."""
        answers = [answer for own in samples for answer in own.completions]
        cut_off = torch.tensor([float(answer.finish_reason == "length") for answer in answers])
        total = -self.config.missing_end_penalty * cut_off.double()
        metrics = {}
        for part in self.rewards:
            values = torch.tensor(
                [value for own in part.reward(samples) for value in own], dtype=torch.float64
            )
            total = total + part.weight * values
            metrics[f"reward/{part.name}"] = float(values.mean())
        metrics |= {
            "reward": float(total.mean()),
            "reward_std": float(total.std(correction=0)),
            "answer_tokens": sum(len(answer.token_ids or ()) for answer in answers) / len(answers),
            "ended": 1.0 - float(cut_off.mean()),
        }
        return total, metrics

    def _greedy_returns(self, step: int, examples: Sequence[int]) -> Tensor:
        """`[sequences]` reward of the greedy answer to each answer's prompt."""
        greedy, _ = self._score(self._answer(step, examples, num_samples=1, temperature=0.0))
        return greedy.repeat_interleave(self.config.num_samples)

    def _group(self, own: Sample) -> AnswerGroup:
        return AnswerGroup(
            prompt=tuple(encode_prompt(self.actor.policy.tokenizer, own.prompt)),
            answers=tuple(answer.token_ids or () for answer in own.completions),
        )

    def _empty(self, groups: Sequence[AnswerGroup], metrics: dict[str, float]) -> Rollout:
        """A rollout of nothing but its shape, for the first reading of its rows."""
        lengths = torch.tensor([len(answer) for group in groups for answer in group.answers])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        zeros = torch.zeros(mask.shape)
        item = torch.arange(len(groups)).repeat_interleave(self.config.num_samples)
        return Rollout(
            trajectories=Trajectories(
                mask=mask,
                logprobs=zeros,
                rewards=zeros,
                values=zeros,
                next_values=zeros,
                discounts=zeros,
                traces=zeros,
            ),
            items=groups,
            item_of_row=item[:, None].expand(mask.shape),
            metrics=metrics,
            group_size=self.config.num_samples,
        )

    def _read(
        self, actor: LanguageActor, groups: Sequence[AnswerGroup], rollout: Rollout
    ) -> dict[str, Tensor]:
        """`[sequences, time]` log-probabilities, entropies and values; 0 where there is no token."""
        parts: list[Evaluation] = list(actor.evaluate(groups, range(len(groups)), rollout))
        shape = rollout.trajectories.mask.shape
        columns = {}
        for name in ("logprobs", "entropy", "values"):
            found = [getattr(part, name) for part in parts]
            known = found[0] is not None
            values = torch.cat(found) if known else torch.zeros_like(torch.cat([p.logprobs for p in parts]))
            flat = values.new_zeros(shape.numel())
            flat[torch.cat([part.rows for part in parts])] = values
            columns[name] = flat.reshape(shape).cpu()
        return columns

    def _trajectories(
        self, now: Mapping[str, Tensor], log_ratio: Tensor, scores: Tensor, mask: Tensor
    ) -> Trajectories:
        zero = torch.zeros_like(log_ratio)
        goes_on = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        values = now["values"].to(log_ratio)
        rewards = torch.where(mask, -self.kl_coefficient * k1(log_ratio), zero)
        rewards = rewards + torch.where(mask & ~goes_on, scores[:, None], zero)
        return Trajectories(
            mask=mask,
            logprobs=now["logprobs"],
            rewards=rewards,
            values=values,
            next_values=torch.cat([values[:, 1:], zero[:, :1]], dim=1),
            # An answer that was cut off is over as well: what it would have said later is not paid for.
            discounts=self.config.discount * goes_on.to(log_ratio),
            traces=self.config.lam * goes_on.to(log_ratio),
        )


def sampled_deviation(samples: Sequence[Sample], logprobs: Tensor) -> float:
    """The largest difference, in nats, of `[sequences, time]` log-probabilities to the recorded ones."""
    answers = [answer for own in samples for answer in own.completions]
    deviations = [
        (row[: len(recorded)] - torch.tensor(recorded, dtype=row.dtype)).abs().max()
        for row, recorded in zip(logprobs, (answer.model_logprobs or () for answer in answers), strict=True)
        if recorded
    ]
    return float(torch.stack(deviations).max())
