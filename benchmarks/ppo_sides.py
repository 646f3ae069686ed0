"""One run of one side of `ppo_vs_trl.py`: a job on standard input, its result in a file.

`seconds` is the call that trains: answers are drawn, rewarded and learned from, and the trained policy is
on disk at the end. `update_seconds` is the same without that checkpoint, and
`whole_seconds` has loading the models and building the trainer as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from working import Clock, Job, do_job, forward_flops

from logratio.data.jsonl import read_prompts
from logratio.models import loading
from logratio.models import reward_model as scoring
from logratio.models.gguf.loading import embedded_model_path
from logratio.models.tokenisation import render_prompt
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.policies.reward_scorer import RewardModel

CLIP_RANGE, VALUE_COEFFICIENT, KL_COEFFICIENT = 0.2, 0.1, 0.05
DISCOUNT, LAM = 1.0, 0.95
REWARD_SEED = 0
NO_CLIP = 1e9
"""A range that nothing leaves."""


def prepare(job: Job) -> dict[str, Any]:
    """Write the model, and a reward model made of it with a head drawn from a seed, as safetensors."""
    source = job["model"] or str(embedded_model_path())
    loaded = loading.load(source)
    loading.save(loaded.model, loaded.tokenizer, Path(job["out"]) / "policy")
    scorer = scoring.load_for_training(source, seed=REWARD_SEED)
    loading.save(scorer.model, scorer.tokenizer, Path(job["out"]) / "reward")
    return {}


# --- here -------------------------------------------------------------------------------------------


def run_logratio(job: Job) -> dict[str, Any]:
    """The run of this library, prepared as `logratio train ppo` prepares it."""
    from logratio.algorithms.ppo import train_ppo
    from logratio.recipes import on_policy as recipe

    settings, groups = our_settings(job), list[AnswerGroup]()
    config = settings.training
    whole = Clock()
    task = recipe.OnPolicyJob.of_command("ppo", settings, config)
    rows = recipe.read_rows(task)
    with recipe.begin_run(task) as run, endless(job):
        ready = recipe.prepare(task, rows, run, critic=True)
        collect = ready.collector.collect
        ready.collector.collect = lambda *update: kept(collect(*update), groups)
        training = Clock()
        train_ppo(ready.actor, ready.collector, config, run)
        seconds = clocked(training, whole)
        updates = run.metrics
    passes = 3 + 3 * job["epochs"]
    model = ready.actor.policy.model
    return {
        **seconds,
        "update_seconds": sum(row["seconds"] for row in updates),
        "optimiser_steps": int(sum(row["optimiser_steps"] for row in updates)),
        "prompts": [group.prompt for group in groups for _ in group.answers],
        "answers": [answer for group in groups for answer in group.answers],
        "tokens_a_pass": sum(group.num_tokens for group in groups),
        # Drawing, the reference and the reward once, and learning three times a pass.
        "useful_flops": passes * sum(forward_flops(model, group) for group in groups),
        "work": sum(len(group.answers) for group in groups),
        "versions": {"logratio": version("logratio")},
    }


def our_settings(job: Job) -> Any:
    """The settings of `logratio train ppo` for this job."""
    from logratio.algorithms.ppo import PPOConfig
    from logratio.recipes.compute import ComputeConfig
    from logratio.recipes.dataset import PromptDataConfig
    from logratio.recipes.on_policy import OnPolicyOptions
    from logratio.recipes.ppo import PPOSettings
    from logratio.rollouts.collector import CollectorConfig

    config = PPOConfig.of(
        learning_rate=job["learning_rate"],
        batch_size=job["batch_size"] // job["num_samples"],
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        # TRL's PPO does not clip gradients, and no KL ends its updates.
        max_gradient_norm=0.0,
        early_stop_factor=0.0,
        update_epochs=job["epochs"],
        minibatches=job["minibatches"],
        clip_range=CLIP_RANGE,
        value_coefficient=VALUE_COEFFICIENT,
    )
    collect = CollectorConfig(
        num_samples=job["num_samples"],
        max_new_tokens=job["answer_tokens"],
        decode_batch_size=job["batch_size"],
        discount=DISCOUNT,
        lam=LAM,
        kl_coefficient=KL_COEFFICIENT,
    )
    return PPOSettings(
        prompts=Path(job["prompts"]),
        reward=(job["reward"],),
        out=Path(job["out"]) / "run",
        model=job["model"],
        collect=collect,
        compute=ComputeConfig(precision=job.get("precision", "fp32")),
        options=OnPolicyOptions(critic=job.get("critic", "shared"), dataset=PromptDataConfig(held_out=0.0)),
        training=config,
    )


def endless(job: Job) -> Any:
    """No token ends an answer where all answers shall have the same length."""
    if job["answers"] == "ended":
        return nullcontext()
    return mock.patch("logratio.generation.sampler.stop_tokens", return_value=frozenset())


def kept(rollout: Any, groups: list[AnswerGroup]) -> Any:
    """The rollout, whose prompts and answers are put into `groups`."""
    groups.extend(rollout.items)
    return rollout


# --- TRL --------------------------------------------------------------------------------------------


def run_trl(job: Job) -> dict[str, Any]:
    """The run of TRL, with the four models that it has in memory, in float32 and without dropout."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOTrainer

    whole = Clock()
    tokenizer = AutoTokenizer.from_pretrained(job["reward"], padding_side="left")
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32) for _ in range(2)
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(job["reward"], num_labels=1, dtype=torch.float32)
        for _ in range(2)
    )
    trainer = PPOTrainer(
        args=trl_settings(job),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in prompt_ids(job, tokenizer)]),
    )
    seen = Seen(pad_id=tokenizer.pad_token_id, reward_model=reward, ended=job["answers"] == "ended")
    with seen.watching(trainer):
        training = Clock()
        trainer.train()
        seconds = clocked(training, whole)
    return {
        **seconds,
        "update_seconds": seconds["seconds"] - seen.checkpoint_seconds,
        "optimiser_steps": int(trainer.optimizer.state[next(policy.parameters())]["step"]),
        "prompts": seen.prompts,
        "answers": seen.answers,
        "tokens_a_pass": seen.tokens_a_pass,
        "rewards": seen.rewards,
        "logprobs": seen.logprobs,
        "work": len(seen.answers),
        "versions": {"trl": version("trl")},
        "versions_of_peer": f"trl {version('trl')}",
    }


def trl_settings(job: Job) -> Any:
    """TRL's settings: what says which job it is, and, unless it is taken as it comes, ours for the rest."""
    from trl.experimental.ppo import PPOConfig

    ours = {
        "num_mini_batches": job["minibatches"],
        "temperature": 1.0,
        "vf_coef": VALUE_COEFFICIENT,
        "cliprange": CLIP_RANGE,
        "cliprange_value": NO_CLIP,
        "kl_coef": KL_COEFFICIENT,
        "gamma": DISCOUNT,
        "lam": LAM,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
    }
    return PPOConfig(
        output_dir=job["out"],
        total_episodes=job["updates"] * job["batch_size"],
        per_device_train_batch_size=job["batch_size"],
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=job["batch_size"],
        num_ppo_epochs=job["epochs"],
        response_length=job["answer_tokens"],
        stop_token="eos" if job["answers"] == "ended" else None,
        learning_rate=job["learning_rate"],
        num_sample_generations=0,
        logging_steps=1,
        report_to="none",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        **({} if job["as_it_comes"] else ours),
    )


def prompt_ids(job: Job, tokenizer: Any) -> list[list[int]]:
    """The tokens of every prompt, as many times as it is answered: TRL's PPO takes them ready."""
    rendered = [render_prompt(tokenizer, row.prompt) for row in read_prompts(job["prompts"]).usable]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]
    return [ids for ids in encoded for _ in range(job["num_samples"])]


class Seen:
    """What TRL's trainer drew, and what it was paid, looked at as it goes by.

    Args:
        pad_id: the token that pads.
        reward_model: the model whose scores are rewards; the critic's go through the same function.
        ended: whether padding follows an answer's end; otherwise every token of an answer was drawn.
    """

    def __init__(self, *, pad_id: int, reward_model: Any, ended: bool) -> None:
        self.pad_id, self.reward_model, self.ended = pad_id, reward_model, ended
        self.prompts: list[list[int]] = []
        self.answers: list[list[int]] = []
        self.rewards: list[float] = []
        self.logprobs: list[list[float]] = []
        self.tokens_a_pass = 0
        self.checkpoint_seconds = 0.0

    def watching(self, trainer: Any) -> Any:
        """Look at what `trainer` does, in a `with` statement."""
        from trl.experimental.ppo import ppo_trainer

        trainer._save_checkpoint = self._timed(trainer._save_checkpoint)
        return mock.patch.multiple(
            ppo_trainer,
            get_reward=self._paid(ppo_trainer.get_reward),
            selective_log_softmax=self._drawn(ppo_trainer.selective_log_softmax),
        )

    def _paid(self, get_reward: Callable[..., Any]) -> Callable[..., Any]:
        def called(model: Any, sequences: Any, pad_id: int, context: int) -> Any:
            found = get_reward(model, sequences, pad_id, context)
            if model is self.reward_model:
                self.tokens_a_pass += sequences.numel()
                self.rewards += found[1].tolist()
                self.prompts += [self._bare(row) for row in sequences[:, :context].tolist()]
                answers = sequences[:, context:].tolist()
                self.answers += map(self._answer, answers) if self.ended else answers
            return found

        return called

    def _drawn(self, log_softmax: Callable[..., Any]) -> Callable[..., Any]:
        def called(logits: Any, tokens: Any) -> Any:
            found = log_softmax(logits, tokens)
            # The first time in a run: the policy that every answer of the first batch was drawn from.
            if not self.logprobs:
                self.logprobs = found.tolist()
            return found

        return called

    def _timed(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **settings: Any) -> Any:
            clock = Clock()
            save(*arguments, **settings)
            self.checkpoint_seconds += clock.seconds

        return called

    def _bare(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token != self.pad_id]

    def _answer(self, tokens: Sequence[int]) -> list[int]:
        return list(takewhile(lambda token: token != self.pad_id, tokens))


# --- both -------------------------------------------------------------------------------------------


def clocked(training: Clock, whole: Clock) -> dict[str, float]:
    """The times of a run at its end."""
    return {
        "seconds": training.seconds,
        "processor_seconds": training.processor_seconds,
        "whole_seconds": whole.seconds,
    }


@torch.no_grad()
def compare(job: Job) -> dict[str, Any]:
    """How far TRL's log-probabilities and rewards of its first batch are from ours of the same tokens."""
    seen = json.loads(Path(job["seen"]).read_text())
    policy, judge = loading.load(job["model"]), scoring.load_reward_model(job["reward"])
    language = LanguagePolicy(policy.model, policy.tokenizer)
    scorer = RewardModel(judge.model, judge.tokenizer)
    differences: dict[str, list[float]] = {"logprob": [], "reward": []}
    rewards = []
    for prompt, answer, logprobs, reward in zip(*seen.values(), strict=True):
        # TRL takes a padding token that was drawn for the end of the answer.
        if judge.tokenizer.pad_token_id in answer:
            continue
        group = [AnswerGroup(tuple(prompt), (tuple(answer),))]
        rewards.append(float(scorer.evaluate(scorer.pack(group)[0])))
        differences["reward"].append(abs(rewards[-1] - reward))
        ours = language.evaluate(language.pack(group)[0]).tolist()
        # TRL's go on behind an answer's end.
        pairs = zip(ours, logprobs, strict=False)
        differences["logprob"].append(max(abs(left - right) for left, right in pairs))
    deviation = float(torch.tensor(rewards).std(correction=0))
    largest = {name: max(found) for name, found in differences.items()}
    return largest | {"answers": len(rewards), "reward_deviation": deviation}


if __name__ == "__main__":
    sides = {"prepare": prepare, "logratio": run_logratio, "trl": run_trl, "compare": compare}
    sys.exit(do_job(sys.stdin.read(), sides))
