"""A language model answers and is rewarded: trajectories of tokens, each charged its KL to the reference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from logratio.errors import BadConfig
from logratio.generation.config import SamplingConfig
from logratio.generation.sampler import SEED_BITS, sample
from logratio.kernels.rounding_error import TOKEN_NOISE, LogprobDifference
from logratio.models.loading import weights_fingerprint
from logratio.models.tokenisation import encode_prompt
from logratio.objectives.advantages import leave_one_out
from logratio.objectives.kl import k1
from logratio.objectives.ppo import ReferenceKLController
from logratio.packed_rows import AnswerGroup
from logratio.policies.actor_critic import LanguageActor, TokenStatistics
from logratio.policies.language import LanguagePolicy
from logratio.policies.protocols import Controller, Partition
from logratio.progress import say
from logratio.records import Prompt, Sample
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.reward_shaping import (
    WeightedReward,
    describe_answers,
    monitor,
    penalise_truncated,
    rewarded_prompts,
    weighted_sum,
)
from logratio.rollouts.reward_values import answer_location
from logratio.rollouts.trajectories import answer_trajectories, token_mask, token_rewards
from logratio.runtime.malloc import release_freed_memory
from logratio.runtime.mapped_weights import release_pages
from logratio.trajectories import ItemIds, Rollout

MAX_NAMED = 3
"""Prompts without a reward that are named in an update."""
DEFAULT_HORIZON = 10_000.0
"""Ziegler et al., 2019, arXiv:1909.08593."""


class LanguageCollector:
    """Answers to prompts as trajectories; see `Collector`.

    Policy, critic and reference read each answer once. The KL divergence that is reported, and that β is
    steered by, is summed over the whole vocabulary at each token; what a token is charged is `k1`.

    Args:
        actor: who answers; its policy samples at temperature 1 from the whole vocabulary, as it is trained.
        prompts: what is answered; of a `Sample` without answers the rewards have the further columns, and
            faults the place.
        rewards: what is learned from.
        reference: what the divergence is to; `None`: nothing is charged and no divergence is known.
        config: how.
        monitored: rewards that are written down and not learned from.
        greedy: also answer each prompt with the most probable tokens, for the greedy baseline.
        at_reference: the policy starts with the reference's very weights, so that their divergence is 0 then.

    Raises:
        BadConfig: answers that were cut off are to be bootstrapped from a critic that is not there.
    """

    unit = "prompts"

    def __init__(
        self,
        actor: LanguageActor,
        prompts: Sequence[Prompt | Sample],
        rewards: Sequence[WeightedReward],
        *,
        reference: LanguagePolicy | None,
        config: CollectorConfig,
        monitored: Sequence[WeightedReward] = (),
        greedy: bool = False,
        at_reference: bool = False,
    ) -> None:
        if config.truncation == "bootstrap" and actor.value_head is None:
            raise BadConfig(
                "there is no critic that could say what follows an answer that was cut off",
                where="--truncation",
                action="take --truncation terminal, or a trainer with a critic",
            )
        self.actor, self.rewards, self.monitored = actor, rewards, monitored
        self.rows = [
            row if isinstance(row, Sample) else Sample(prompt=row, completions=(), columns={})
            for row in prompts
        ]
        self.reference, self.config, self.greedy = reference, config, greedy
        self.at_reference = at_reference
        self.kl_controller = new_controller(config)
        self._warned_constant = False
        self._warned_prompts: set[str] = set()

    @property
    def num_examples(self) -> int:
        """How many prompts a pass has."""
        return len(self.rows)

    @property
    def controllers(self) -> dict[str, Controller]:
        """The controller of β, if there is one."""
        return {} if self.kl_controller is None else {"reference_kl": self.kl_controller}

    @property
    def kl_coefficient(self) -> float:
        """β as it stands."""
        return self.config.kl_coefficient if self.kl_controller is None else self.kl_controller.coefficient

    def reference_fingerprint(self) -> str:
        """Hash of the reference's weights, of those that training does not move."""
        if self.reference is None:
            return ""
        # Read whole, as the answers' reading does: in the place of what an update took.
        release_freed_memory()
        return weights_fingerprint(self.reference.model, trainable=False)

    @torch.no_grad()
    def collect(self, step: int, examples: Sequence[int], partition: Partition | None = None) -> Rollout:
        """Answer the prompts `examples` and be rewarded; the same again for the same weights and step.

        Log-probabilities are computed in the rows of the minibatches that `partition` makes of the prompts.

        Raises:
            BadConfig: an update has so many answers that the controller of β could turn it negative.
            BadReward: a reward raised, or gave something else than a finite number or None for an answer; or
                no prompt has a reward for all of its answers. Prompts without one are left out otherwise.
        """
        k, num_sequences = self.config.num_samples, len(examples) * self.config.num_samples
        self._check_horizon(num_sequences)
        # What gradients and activations took is needed elsewhere now: by models that lie in files.
        release_freed_memory()
        samples = self._answer(step, examples, num_samples=k, temperature=1.0)
        greedy = self._answer(step, examples, num_samples=1, temperature=0.0) if self.greedy else []
        samples, scores, greedy_rewards, metrics = self._reward_samples(samples, greedy)
        groups = [self._group(own) for own in samples]
        mask = token_mask(groups)
        statistics = self._compute_statistics(
            groups,
            mask,
            bootstraps := self._bootstraps(samples),
            partition(len(groups)) if partition else None,
        )
        now = {name: values[:, :-1] for name, values in statistics.items()}
        shaped = self._subtract_group_mean(scores)
        rewards = token_rewards(
            mask, now["logprobs"], now["reference_logprobs"], shaped, kl_coefficient=self.kl_coefficient
        )
        trajectories = answer_trajectories(
            mask=mask,
            logprobs=now["logprobs"],
            rewards=rewards,
            values=statistics["values"],
            bootstraps=bootstraps,
            discount=self.config.discount,
            lam=self.config.lam,
        )
        metrics |= monitor(samples, self.monitored) | self._kl_metrics(now, mask)
        metrics["objective"] = metrics["reward"] - self.kl_coefficient * metrics.get("reference_kl", 0.0)
        if self.at_reference and step == 0:
            metrics["kl_at_reference"] = float(now["kl"][mask].abs().max())
        differences = sampled_differences(samples, now["logprobs"])
        difference = LogprobDifference.of(torch.cat(differences))
        metrics |= {
            "sampled_deviation": difference.largest,
            "sampled_deviation_rms": difference.root_mean_square,
        }
        return Rollout(
            trajectories=trajectories,
            items=groups,
            item_of_row=torch.arange(len(groups)).repeat_interleave(k)[:, None].expand(mask.shape),
            metrics=metrics,
            group_size=k,
            sampling_noise=self._sampling_noise(step, groups, differences),
            reference_logprobs=None if self.reference is None else now["reference_logprobs"],
            greedy_returns=greedy_rewards.repeat_interleave(k) if self.greedy else None,
        )

    def update_controllers(self, rollout: Rollout) -> dict[str, float]:
        """Steer β by the divergence of the answers that were learned from."""
        if self.kl_controller is not None:
            self.kl_controller.update(
                rollout.metrics["reference_kl"], num_sequences=len(rollout.trajectories.mask)
            )
        return {}

    def _check_horizon(self, num_sequences: int) -> None:
        controller = self.kl_controller
        if controller is not None and num_sequences >= 5 * controller.horizon:
            raise BadConfig(
                f"an update has {num_sequences} answers and kl_horizon is {controller.horizon:g}",
                where="--kl-horizon",
                action=f"give more than {num_sequences / 5:g}, or fewer answers per update",
            )

    def _answer(
        self, step: int, examples: Sequence[int], *, num_samples: int, temperature: float
    ) -> list[Sample]:
        digest = hashlib.sha256(f"{self.config.sampling_seed}:{step}".encode()).digest()
        with self.actor.policy.use_adapter():
            samples = sample(
                self.actor.policy.model,
                self.actor.policy.tokenizer,
                [self.rows[example].prompt for example in examples],
                num_samples=num_samples,
                seed=int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS),
                config=SamplingConfig(
                    max_new_tokens=self.config.max_new_tokens,
                    temperature=temperature,
                    decode_batch_size=self.config.decode_batch_size,
                    precision=self.actor.policy.precision,
                ),
            )
        rows = [self.rows[example] for example in examples]
        return [
            replace(row, prompt=drawn.prompt, completions=drawn.completions)
            for drawn, row in zip(samples, rows, strict=True)
        ]

    def _reward_samples(
        self, samples: list[Sample], greedy: list[Sample]
    ) -> tuple[list[Sample], Tensor, Tensor, dict[str, float]]:
        """The samples of the prompts that are learned from, their scores and those of their greedy answers.

        Every estimator takes prompts with all their answers, so a prompt with an answer that no reward
        judges is left out whole.
        """
        earned, metrics = weighted_sum(samples, self.rewards)
        greedy_rewards = weighted_sum(greedy, self.rewards)[0] if greedy else earned.new_empty(0)
        rewarded = rewarded_prompts(samples, earned, greedy_rewards)
        if len(rewarded) < len(samples):
            metrics["prompts_without_reward"] = float(len(samples) - len(rewarded))
            self._warn_unrewarded(sorted({*range(len(samples))} - {*rewarded}), samples)
            earned, greedy_rewards = (
                values.reshape(len(samples), -1)[rewarded].flatten() for values in (earned, greedy_rewards)
            )
            samples, greedy = (
                [own[number] for number in rewarded] if own else [] for own in (samples, greedy)
            )
        scores, described = self._score(samples, earned)
        return samples, scores, self._penalise_truncated(greedy, greedy_rewards), metrics | described

    def _warn_unrewarded(self, numbers: Sequence[int], samples: Sequence[Sample]) -> None:
        """Name prompts without a reward, each once in a run, at most a few an update."""
        new = [number for number in numbers if samples[number].prompt.key not in self._warned_prompts]
        self._warned_prompts |= {samples[number].prompt.key for number in new}
        for number in new[:MAX_NAMED]:
            say(f"no reward for {answer_location(samples, number, 0)}: the prompt is left out of its update")
        if len(new) > MAX_NAMED:
            say(f"and {len(new) - MAX_NAMED} more prompts of this update have no reward")

    def _penalise_truncated(self, samples: Sequence[Sample], earned: Tensor) -> Tensor:
        """`[sequences]` what answers earned, less what those that were cut off are charged."""
        answers = [answer for own in samples for answer in own.completions]
        truncated = torch.tensor([answer.finish_reason == "length" for answer in answers], dtype=torch.bool)
        return penalise_truncated(
            earned,
            truncated,
            worst=self.config.truncated_reward == "worst",
            truncation_penalty=self.config.truncation_penalty,
        )

    def _score(self, samples: Sequence[Sample], earned: Tensor) -> tuple[Tensor, dict[str, float]]:
        """`[sequences]` what is learned from, with what there is to say of it."""
        answers = [answer for own in samples for answer in own.completions]
        total = self._penalise_truncated(samples, earned)
        spread = float(total.std(correction=0))
        if spread == 0 and not self._warned_constant:
            self._warned_constant = True
            say(f"every answer of this update has the reward {float(total[0]):g}: nothing is learned from it")
        metrics = {"reward": float(total.mean()), "reward_std": spread} | describe_answers(answers)
        if len(total) > len(samples):
            groups = total.reshape(len(samples), -1)
            alike = groups.max(dim=1).values == groups.min(dim=1).values
            metrics["constant_groups"] = float(alike.double().mean())
        return total, metrics

    def _sampling_noise(
        self, step: int, groups: Sequence[AnswerGroup], differences: Sequence[Tensor]
    ) -> float:
        """σ of a sampled token's rounding, in nats: of float32, or of this very model in fewer bits.

        The wider a model's logits are, the more it is rounded by. Before the first update that is measured,
        so that a fault of a few hundredths of a nat shows; later only where the usual does not explain what
        was found, and then on the answer that is off the most.
        """
        policy, usual = self.actor.policy, TOKEN_NOISE[self.actor.policy.precision]
        explained = LogprobDifference.of(torch.cat(list(differences))).explained_by
        if policy.precision == "fp32" or (step > 0 and explained(usual)):
            return usual
        # Where bfloat16 changes nothing, as under an autocast without rules, float32 rounds all the same.
        noise = max(TOKEN_NOISE["fp32"], policy.rounding_noise(groups[:1]))
        if explained(noise):
            return noise
        worst = max(range(len(differences)), key=lambda answer: float(differences[answer].abs().max()))
        return max(noise, policy.rounding_noise([groups[worst // self.config.num_samples]]))

    def _subtract_group_mean(self, scores: Tensor) -> Tensor:
        """`[sequences]` what an answer's last token earns: its score, less its siblings' if so wanted."""
        if self.config.reward_baseline == "none":
            return scores
        return leave_one_out(scores, group_size=self.config.num_samples)

    def _group(self, own: Sample) -> AnswerGroup:
        return AnswerGroup(
            prompt=tuple(encode_prompt(self.actor.policy.tokenizer, own.prompt)),
            answers=tuple(answer.token_ids or () for answer in own.completions),
        )

    def _bootstraps(self, samples: Sequence[Sample]) -> Tensor:
        """`[sequences]` true for answers whose future counts though they were cut off."""
        wanted = self.config.truncation == "bootstrap"
        reasons = [answer.finish_reason for own in samples for answer in own.completions]
        return torch.tensor([wanted and reason == "length" for reason in reasons])

    def _compute_statistics(
        self,
        groups: Sequence[AnswerGroup],
        mask: Tensor,
        bootstraps: Tensor,
        minibatches: Sequence[ItemIds] | None,
    ) -> dict[str, Tensor]:
        """`[sequences, time + 1]` what policy, critic and reference say; 0 where there is no token.

        The column behind an answer that is bootstrapped holds the critic's value at its last token. It is
        read by itself: a further token would change the rows, and with them the rounding, of all others.
        """
        k, time = self.config.num_samples, mask.shape[1] + 1
        parts = list(
            self.actor.compare(groups, self.reference, time=time, group_size=k, minibatches=minibatches)
        )
        columns = {}
        rows = torch.cat([part.rows for part in parts])
        for name, values in concatenate_statistics(parts).items():
            columns[name] = torch.zeros(len(mask) * time, dtype=values.dtype)
            columns[name][rows] = values.cpu()
        item_ids = bootstraps.reshape(len(groups), k).any(dim=1).nonzero()[:, 0].tolist()
        selected = [groups[item] for item in item_ids]
        final_positions = ~torch.nn.functional.pad(mask, (0, 1)).flatten()
        for places, values in self.actor.final_values(selected, item_ids, time=time, group_size=k):
            last = final_positions[places]
            columns["values"][places[last]] = values.cpu()[last].to(columns["values"])
        if self.reference is not None and self.reference.model is not self.actor.policy.model:
            release_pages(self.reference.model)
        return {name: flat.reshape(-1, time) for name, flat in columns.items()}

    def _kl_metrics(self, now: Mapping[str, Tensor], mask: Tensor) -> dict[str, float]:
        """The KL to the reference in nats per answer, by the whole vocabulary and by the tokens drawn."""
        known = {"entropy": float(now["entropy"][mask].mean()), "tokens": float(mask.sum())}
        if self.reference is None:
            return known
        exact = torch.where(mask, now["kl"], 0.0).double().sum(dim=1)
        drawn = torch.where(mask, k1(now["logprobs"] - now["reference_logprobs"]), 0.0).double().sum(dim=1)
        return known | {
            "reference_kl": float(exact.mean()),
            "reference_log_ratio": float(drawn.mean()),
            "kl_coefficient": self.kl_coefficient,
        }


def new_controller(config: CollectorConfig) -> ReferenceKLController | None:
    """β's controller at the start of a run, where a KL is wanted."""
    if config.target_kl is None:
        return None
    return ReferenceKLController(
        coefficient=config.kl_coefficient,
        target=config.target_kl,
        horizon=config.kl_horizon or DEFAULT_HORIZON,
    )


def concatenate_statistics(parts: Sequence[TokenStatistics]) -> dict[str, Tensor]:
    """The columns of several readings one after another, `[R]` each; values are 0 without a critic."""
    columns = {
        name: torch.cat([getattr(part.tokens, name) for part in parts])
        for name in ("logprobs", "reference_logprobs", "entropy", "kl")
    }
    values = [torch.zeros_like(part.tokens.kl) if part.values is None else part.values for part in parts]
    return columns | {"values": torch.cat(values).to(columns["logprobs"])}


def sampled_differences(samples: Sequence[Sample], logprobs: Tensor) -> list[Tensor]:
    """`[sequences, time]` log-probabilities less the recorded ones: `[tokens]` for each answer."""
    answers = [answer for own in samples for answer in own.completions]
    return [
        row[: len(answer.model_logprobs or ())] - torch.tensor(answer.model_logprobs or (), dtype=row.dtype)
        for row, answer in zip(logprobs, answers, strict=True)
    ]
