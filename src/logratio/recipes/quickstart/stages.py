"""The stages of the quickstart: each reads files of the run directory, writes others, returns a headline."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from logratio.algorithms.dpo import group_pairs, train_dpo
from logratio.algorithms.sft import train_sft
from logratio.data.jsonl import PromptRow, read_prompts, read_samples
from logratio.data.preference_formats import read_comparisons
from logratio.data.quickstart_prompts import quickstart_prompts
from logratio.data.splits import ensure_disjoint
from logratio.data.unusable_rows import ReadRows
from logratio.data.validation import CheckReport, check_comparisons
from logratio.errors import TooFewLabels
from logratio.evaluation.sample_rows import prompt_hash
from logratio.generation.config import SamplingConfig
from logratio.generation.resumable import PartialAnswers
from logratio.generation.sampler import sample
from logratio.legacy_names import INVARIANTS
from logratio.models.loading import load_tokenizer, read_limits, save, weights_fingerprint
from logratio.models.tokenisation import encode_prompt
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.policies.reward_scorer import RewardModel
from logratio.progress import Progress
from logratio.recipes.label import ensure_labels
from logratio.recipes.preference import DATA, ensure_trainable
from logratio.recipes.prompts import answerable, columns_of_judges, limits_of_all
from logratio.recipes.quickstart.context import (
    COMPARISONS,
    COMPLETIONS,
    COUNTS,
    DPO,
    HELD_OUT,
    PROMPTS,
    SFT,
    START,
    TRAINING_PROMPTS,
    QuickstartContext,
)
from logratio.recipes.rows import settle_rows
from logratio.records import Completion, Prompt, Sample
from logratio.rollouts.pair_labelling import label_pairs
from logratio.run_directory import (
    RunDirectory,
    describe_machine,
    read_json_lines,
    write_json,
    write_json_lines,
)
from logratio.stats.wilson import percent
from logratio.training.config import TrainingConfig
from logratio.training.layout_check import recompute_sampled
from logratio.version import __version__

NUM_RECOMPUTED = 8
"""Answers whose recorded log-probabilities are held against those that training computes."""


# --- prompts ----------------------------------------------------------------------------------------


def choose_prompts(context: QuickstartContext, key: str) -> str:
    """Divide prompts into those to train on and those held out; which is which is the prompt's own lot."""
    settings = context.settings
    read = read_all_prompts(context)
    rows = read.usable
    distinct = {row.prompt.key: row for row in reversed(rows)}
    drawn = sorted(distinct.values(), key=lambda row: prompt_hash(row.prompt, settings.seed))
    held_out, rest = drawn[: settings.num_held_out], drawn[settings.num_held_out :]
    train = rest[: settings.num_train]
    if len(held_out) < settings.num_held_out or not train:
        raise TooFewLabels(
            f"{len(distinct)} distinct prompts are too few to hold out {settings.num_held_out} of them",
            where=str(settings.prompts),
            action="bring more prompts, or lower --num-held-out",
        )
    ensure_disjoint([row.prompt for row in train], [row.prompt for row in held_out])
    try_reward(context, train[0])
    write_json_lines(settings.out / PROMPTS, map(prompt_json, train))
    write_json(settings.out / TRAINING_PROMPTS, sorted(row.prompt.key for row in train))
    write_json_lines(settings.out / HELD_OUT, map(prompt_json, held_out))
    data = read.to_json() if read.unusable else {}
    counts = data | {
        "num_prompts": len(train) + len(held_out),
        "train_prompts": len(train),
        "held_out_prompts": len(held_out),
        "duplicate_prompts": len(rows) - len(distinct),
        "prompts_not_used": len(drawn) - len(train) - len(held_out),
    }
    context.count("prompts", counts)
    return f"{len(train)} to train on, {len(held_out)} held out"


def read_all_prompts(context: QuickstartContext) -> ReadRows[PromptRow]:
    """The prompts of --prompts that can be answered and judged, or as many of our own as are wanted.

    What cannot be is found now, before any weights are read.
    """
    settings = context.settings
    if settings.prompts is None:
        own = quickstart_prompts(settings.num_train + settings.num_held_out, settings.seed)
        rows = [
            PromptRow(prompt=prompt, columns={}, source="logratio.data.quickstart_prompts") for prompt in own
        ]
        return ReadRows(usable=rows, unusable=[])
    check = answerable(
        load_tokenizer(context.source),
        limits_of_all([context.source]),
        max_new_tokens=settings.max_new_tokens,
        judges=[context.reward],
    )
    read = read_prompts(settings.prompts).keep(check)
    used = columns_of_judges([context.reward], read.columns)
    settle_rows(read, settings.rows, used=used, noted=settings.out / COUNTS)
    return read


def prompt_json(row: PromptRow) -> dict[str, Any]:
    """A prompt's row: the prompt and its columns, without old answers."""
    return row.prompt.columns() | row.judge_columns


def try_reward(context: QuickstartContext, row: PromptRow) -> None:
    """Judge a made-up answer, so that a reward that cannot work is found before minutes of sampling."""
    answer = Completion(text="That is a good answer.", token_ids=(0,))
    context.reward.require_all([Sample(prompt=row.prompt, completions=(answer,), columns=row.judge_columns)])


# --- answers and labels -----------------------------------------------------------------------------


def draw_answers(context: QuickstartContext, key: str) -> str:
    """Let the model that training starts from answer the training prompts."""
    settings = context.settings
    rows = read_prompts(settings.out / PROMPTS).usable
    samples = draw(
        context,
        COMPLETIONS,
        rows,
        key=key,
        num_samples=settings.num_samples,
        seed=settings.seed,
        temperature=settings.temperature,
        decode_batch_size=settings.decode_batch_size,
    )
    check_recorded(context, context.policy(START), samples[:NUM_RECOMPUTED])
    answers = [completion for drawn in samples for completion in drawn.completions]
    ended = percent(sum(completion.finish_reason == "stop" for completion in answers) / len(answers), 0)
    return f"{len(answers)} answers to {len(samples)} prompts, {ended} ended by themselves"


def draw(
    context: QuickstartContext,
    name: str,
    rows: Sequence[PromptRow],
    *,
    key: str,
    num_samples: int,
    seed: int,
    temperature: float = 1.0,
    decode_batch_size: int,
) -> list[Sample]:
    """Let the model that training starts from answer `rows`, into the file `name`.

    What an earlier attempt at this very stage has drawn is not drawn again.
    """
    settings = context.settings
    if (settings.out / name).exists():
        return read_drawn(context, name)
    partial_path = settings.out / f"{name}.{key[:8]}.partial.jsonl"
    for stale in settings.out.glob(f"{name}.*.partial.jsonl"):
        if stale != partial_path:
            stale.unlink()
    total = len(rows) * num_samples
    policy = context.policy(START)
    with PartialAnswers(partial_path, {"key": key}, [row.prompt for row in rows]) as partial:
        with Progress("sampling", total, unit="answers", done=len(partial.known)) as progress:
            samples = sample(
                policy.model,
                policy.tokenizer,
                [row.prompt for row in rows],
                num_samples=num_samples,
                seed=seed,
                config=SamplingConfig(
                    max_new_tokens=settings.max_new_tokens,
                    temperature=temperature,
                    decode_batch_size=decode_batch_size,
                ),
                progress=progress,
                store=partial,
            )
        samples = [replace(own, columns=row.judge_columns) for own, row in zip(samples, rows, strict=True)]
        write_json_lines(settings.out / name, [drawn.to_json() for drawn in samples])
        partial.discard()
    return samples


def read_drawn(context: QuickstartContext, name: str) -> list[Sample]:
    """What `draw` wrote, whatever characters a model wrote into it."""
    return [
        Sample(
            prompt=Prompt.from_json(row.pop("prompt")),
            completions=tuple(map(Completion.from_json, row.pop("completions"))),
            columns=row,
        )
        for row in read_json_lines(context.settings.out / name)
    ]


def check_recorded(context: QuickstartContext, policy: LanguagePolicy, samples: Sequence[Sample]) -> None:
    """Log-probabilities recorded while sampling equal those that training would compute."""
    groups, recorded = [], []
    for drawn in samples:
        answer = drawn.completions[0]
        prompt_ids = encode_prompt(policy.tokenizer, drawn.prompt)
        groups.append(AnswerGroup(tuple(prompt_ids), (answer.token_ids or (),)))
        recorded.append(answer.model_logprobs or ())
    invariant = recompute_sampled(policy, groups, recorded)
    write_json(context.settings.out / INVARIANTS, [invariant.to_json()])


def label(context: QuickstartContext, key: str) -> str:
    """Draw which of two answers is preferred, by Bradley-Terry on the reward."""
    settings = context.settings
    samples = read_samples(settings.out / COMPLETIONS).usable
    rewards = context.reward.require_all(samples)
    pairs, counts = label_pairs(
        samples,
        rewards,
        pairing=settings.pairs,
        temperature=settings.label_temperature,
        seed=settings.seed,
        pairs_per_prompt=settings.pairs_per_prompt,
        finished_only=settings.finished_only,
    )
    ensure_labels(pairs, counts, rewards, where=str(settings.out / COMPLETIONS))
    write_json_lines(settings.out / COMPARISONS, [pair.to_json() for pair in pairs])
    values = [value for own in rewards for value in own]
    mean = sum(values) / len(values)
    context.count("labelling", counts.to_json() | {"mean_reward": mean})
    return (
        f"{counts.labelled} pairs of {counts.pairs_considered}, mean reward {mean:.3f}, "
        f"{percent(counts.label_noise)} of the labels against the reward"
        f" ({percent(counts.expected_label_noise)} expected)"
    )


# --- training ---------------------------------------------------------------------------------------


def fine_tune(context: QuickstartContext, key: str) -> str:
    """SFT on the preferred answers, from the starting model."""
    data = read_pairs(context)
    groups = [
        AnswerGroup(pair.prompt_ids, (pair.chosen_ids,)) for pair in data.usable if not pair.comparison.tie
    ]
    policy = context.policy(START)
    with begin(context, SFT, context.settings.sft, policy, data, key) as run:
        summary = train_sft(policy, groups, context.settings.sft, run)
        return finish(context, SFT, policy, run, summary)


def optimise(context: QuickstartContext, key: str) -> str:
    """DPO on the pairs, from the fine-tuned model, which is its reference."""
    data = read_pairs(context)
    groups, preferences = group_pairs(data.usable)
    policy = context.policy(SFT)
    with begin(context, DPO, context.settings.dpo, policy, data, key) as run:
        summary = train_dpo(policy, groups, context.settings.dpo, run, preferences=preferences)
        return finish(context, DPO, policy, run, summary)


def read_pairs(context: QuickstartContext) -> CheckReport:
    """The comparisons as tokens, checked as `logratio check` does.

    Raises:
        TooFewLabels: they cannot be trained on.
    """
    path = context.settings.out / COMPARISONS
    report = check_comparisons(
        read_comparisons(path), load_tokenizer(context.source), limits=read_limits(context.source)
    )
    ensure_trainable(report, path)
    return report


def begin(
    context: QuickstartContext,
    name: str,
    config: TrainingConfig,
    policy: LanguagePolicy,
    data: CheckReport,
    key: str,
) -> RunDirectory:
    """The run directory of a training stage: new, or left by a run that was stopped."""
    settings = {
        "command": name,
        "logratio": __version__,
        "model": context.sources[SFT if name == DPO else START],
        "reward": context.reward.name,
        "machine": describe_machine(),
        "settings": config.to_json(),
        "identity": config.identity()
        | {"stage": name, "key": key, "model_fingerprint": weights_fingerprint(policy.model)},
    }
    run = RunDirectory.begin(context.settings.out / name, settings, resume=True)
    write_json(run.path / DATA, data.to_json() | {"train": data.num_usable, "held_out": 0})
    return run


def finish(
    context: QuickstartContext, name: str, policy: LanguagePolicy, run: RunDirectory, summary: dict[str, Any]
) -> str:
    """Save the model and say what was done."""
    context.becomes(name)
    keep(policy, run)
    losses = [row["loss"] for row in run.metrics]
    return (
        f"{summary['updates']} updates on {summary['examples']} examples, "
        f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last"
    )


def keep(model: LanguagePolicy | RewardModel, run: RunDirectory) -> None:
    """Save a model and let go of the checkpoints that it makes needless."""
    save(model.model, model.tokenizer, run.model_path)
    shutil.rmtree(run.checkpoints_path, ignore_errors=True)
