"""Answers into comparisons, by a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.data.given_rows import GivenRows, Row, as_source
from logratio.data.jsonl import JUDGE, read_samples
from logratio.data.unusable_rows import ReadRows
from logratio.errors import BadConfig, RewardDegenerate, TooFewLabels
from logratio.progress import say
from logratio.recipes.prompt_format import PromptFormatConfig, announce_rendering
from logratio.recipes.prompts import columns_of_judges
from logratio.recipes.rewards import RewardSpec, as_reward
from logratio.recipes.rows import LEFT_OUT, RowConfig, settle_rows, write_rows_left_out
from logratio.records import Sample
from logratio.rollouts.pair_labelling import LabelCounts, LabelledPair, Pairing, check_settings, label_pairs
from logratio.rollouts.reward_values import answer_location
from logratio.rollouts.rewards import MAX_NAMED, ModelReward, Reward, load_reward
from logratio.run_directory import write_json_lines
from logratio.stats.wilson import percent


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """All that `label` is told, as `logratio label` takes it."""

    completions: Path
    """The answers: a file written by `logratio sample`."""
    reward: str
    """What judges them: module:function, found in this directory or among the installed packages, the
    directory of a reward model, or implicit:POLICY,REFERENCE."""
    out: Path
    """The comparisons: JSON Lines with prompt, chosen, rejected, chosen_reward, rejected_reward."""
    prompt_format: Annotated[PromptFormatConfig, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatConfig
    )
    """How prompts given as text are rendered."""
    pairs: Pairing = "best-worst"
    """Which pairs of a prompt's answers are labelled: the best against the worst, all, the neighbours in
    order of reward (adjacent), or some drawn at random."""
    pairs_per_prompt: int = 2
    """How many pairs of a prompt's answers --pairs random draws."""
    temperature: float = 0.0
    """Noise of the labels, in units of the reward: a is preferred to b with probability
    sigmoid((reward of a - reward of b) / temperature). At 0 the higher reward wins and ties are left out."""
    finished_only: bool = False
    """Leave out answers that were cut off at the limit of tokens. Where the reward likes long answers, a
    model trained on pairs of cut-off answers learns not to end."""
    seed: int = 0
    """Seed of the noise; the same prompt and answers get the same label whatever else the file holds."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of rows that cannot be used."""
    device: str = "cpu"
    """Where a reward model computes: cpu, cuda, cuda:1, mps."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Comparisons as rows, and what became of every pair."""

    rows: list[dict[str, Any]]
    """`prompt`, `chosen`, `rejected`, `chosen_reward`, `rejected_reward`, `judge`."""
    counts: LabelCounts
    """They add up."""
    reward: str
    """The name of what judged."""


def label(
    samples: Path | str | GivenRows | Sequence[Row],
    reward: RewardSpec,
    *,
    pairs: Pairing = "best-worst",
    pairs_per_prompt: int = 2,
    temperature: float = 0.0,
    finished_only: bool = False,
    seed: int = 0,
    out: Path | str | None = None,
) -> list[dict[str, Any]]:
    """Draw which of two answers is preferred: `P(a over b) = σ((r_a − r_b) / temperature)`.

    The model is Bradley and Terry's (1952).

    Args:
        samples: what `sample` returned or wrote.
        reward: the judge, as for `train_ppo`.
        pairs: which pairs of a prompt's answers: the best against the worst, all, neighbours in order of
            reward (adjacent), or some drawn at random.
        pairs_per_prompt: how many `random` draws.
        temperature: noise of the labels in units of the reward; at 0 the higher reward wins.
        finished_only: leave out answers that were cut off.
        seed: of the noise; a label depends on nothing else but the prompt and the two answers.
        out: write the comparisons there as JSON Lines, as `logratio label` does.

    Returns:
        Rows with `prompt`, `chosen` and `rejected`, which the recipes that train on comparisons take.

    Raises:
        BadReward: the reward raises, or does not return a finite number or None per answer.
        RewardDegenerate: every answer has the same reward.
        TooFewLabels: no pair could be labelled.
    """
    source = as_source(samples, name="samples")
    settings = LabelSettings(
        completions=Path(str(source)),
        reward="",
        out=Path(out or "comparisons"),
        pairs=pairs,
        pairs_per_prompt=pairs_per_prompt,
        temperature=temperature,
        finished_only=finished_only,
        seed=seed,
    )
    check_settings(pairs, temperature, pairs_per_prompt)
    judge = as_reward(reward)
    read = read_judgeable(settings, judge, source)
    settle_rows(read, settings.rows, used=columns_used(judge, read))
    labelled = label_samples(settings, judge, read.usable)
    if out is not None:
        write_json_lines(settings.out, labelled.rows)
    return labelled.rows


def run_label(settings: LabelSettings) -> Labelled:
    """What `logratio label` does."""
    check_settings(settings.pairs, settings.temperature, settings.pairs_per_prompt)
    reward = load_reward(settings.reward, device=settings.device)
    if settings.out.resolve() == settings.completions.resolve():
        raise BadConfig(
            "--out is the file of completions itself", where=str(settings.out), action="give another"
        )
    noted = settings.out.with_name(settings.out.name + LEFT_OUT)
    read = read_judgeable(settings, reward, settings.completions)
    data = settle_rows(read, settings.rows, used=columns_used(reward, read), noted=noted)
    labelled = label_samples(settings, reward, read.usable)
    write_json_lines(settings.out, labelled.rows)
    write_rows_left_out(noted, data)
    return labelled


def read_judgeable(settings: LabelSettings, reward: Reward, source: Path | GivenRows) -> ReadRows[Sample]:
    """The answers whose prompts the reward can read."""
    read = read_samples(source, prompt_format=settings.prompt_format.prompt_format)
    return read.keep(lambda row: reward.ensure_prompt(row.prompt, max_new_tokens=0))


def columns_used(reward: Reward, read: ReadRows[Sample]) -> set[str]:
    """The columns that something reads."""
    return {"completions"} | columns_of_judges([reward], read.columns)


def label_samples(settings: LabelSettings, reward: Reward, samples: list[Sample]) -> Labelled:
    """Judge the answers and draw the labels."""
    announce_to_model(reward, samples)
    rewards = reward(samples)
    warn_without_reward(reward.name, samples, rewards)
    pairs, counts = label_pairs(
        samples,
        rewards,
        pairing=settings.pairs,
        temperature=settings.temperature,
        seed=settings.seed,
        pairs_per_prompt=settings.pairs_per_prompt,
        finished_only=settings.finished_only,
    )
    ensure_labels(pairs, counts, rewards, where=str(settings.completions))
    # Who judged travels with the rows: an evaluation by the same judge says so.
    rows = [pair.to_json() | {JUDGE: reward.name} for pair in pairs]
    return Labelled(rows=rows, counts=counts, reward=reward.name)


def announce_to_model(reward: Reward, samples: list[Sample]) -> None:
    """Say how a reward model reads the prompts; a function reads them as they are."""
    if isinstance(reward, ModelReward):
        answers = [sample.completions for sample in samples]
        announce_rendering(reward.scorer.tokenizer, [sample.prompt for sample in samples], answers)


def warn_without_reward(
    name: str, samples: Sequence[Sample], rewards: Sequence[Sequence[float | None]]
) -> None:
    """Name the answers that the reward has nothing to say of, the first of them with their places."""
    places = [
        answer_location(samples, number, index)
        for number, values in enumerate(rewards)
        for index, value in enumerate(values)
        if value is None
    ]
    for place in places[:MAX_NAMED]:
        say(f"{name} has no reward for {place}, which is left out")
    if len(places) > MAX_NAMED:
        say(f"and {len(places) - MAX_NAMED} more answers have none")


def ensure_labels(
    pairs: list[LabelledPair],
    counts: LabelCounts,
    rewards: Sequence[Sequence[float | None]],
    *,
    where: str,
) -> None:
    """Refuse to write a file that nothing could be learned from.

    Raises:
        RewardDegenerate: every answer has the same reward.
        TooFewLabels: no pair could be labelled.
    """
    distinct = {value for values in rewards for value in values if value is not None}
    if len(distinct) == 1 and counts.pairs_considered:
        num_judged = counts.num_answers - counts.without_reward
        raise RewardDegenerate(
            f"all {num_judged} answers have the reward {distinct.pop():g}",
            where=where,
            action="look at the reward function: it must tell some answers from others",
        )
    if not pairs:
        raise TooFewLabels(
            f"no pair could be labelled. {describe(counts)}",
            where=where,
            action="sample with a higher --max-new-tokens, or give --no-finished-only"
            if counts.unfinished
            else "sample more answers for each prompt, or raise the sampling temperature",
        )


def describe(counts: LabelCounts) -> str:
    """What became of every pair, in lines whose numbers add up."""
    lines = [
        f"{counts.num_prompts} prompts, {counts.num_answers} answers, {counts.pairs_considered} pairs",
        f"{counts.labelled} labelled + {counts.identical} of identical answers + {counts.ties} ties"
        f" + {counts.empty} with an empty answer = {counts.pairs_considered}",
    ]
    if counts.without_reward:
        lines.append(f"{counts.without_reward} answers have no reward and were left out")
    if counts.unfinished:
        lines.append(f"{counts.unfinished} answers were cut off at the limit of tokens and left out")
    if counts.prompts_without_pair:
        lines.append(f"{counts.prompts_without_pair} prompts have fewer than two answers and gave no pair")
    if counts.labelled:
        lines.append(
            f"labels against the reward: {counts.against_reward} ({percent(counts.label_noise)});"
            f" expected {counts.expected_against_reward:.1f} ({percent(counts.expected_label_noise)})"
        )
    return "\n".join(lines)
