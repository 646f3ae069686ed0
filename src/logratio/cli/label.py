"""Turn answers into comparisons, by a reward.

    logratio label --completions completions.jsonl --reward my_rewards:brevity --out comparisons.jsonl

reads the answers that `logratio sample` wrote, scores each with the function `brevity` of my_rewards.py in
this directory, and writes pairs of answers to the same prompt, the preferred one first. The function has
the signature of TRL's reward functions:

    def brevity(completions, **kwargs):
        return [-float(len(completion)) for completion in completions]

--reward takes a function, given as module:function, or the directory of a reward model, such as the --out of
`logratio train reward`. A function that comes with logratio is logratio.rollouts.sentiment:sentiment. And
implicit:POLICY,REFERENCE is what a trained policy has come to prefer: by how many nats an answer is more
probable under it than under the model that it was trained from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from logratio.cli.prompt_format import PromptFormatFlags, announce_rendering
from logratio.cli.prompts import columns_of_judges
from logratio.cli.rows import LEFT_OUT, RowFlags, settle_rows, write_rows_left_out
from logratio.data.jsonl import JUDGE, read_samples
from logratio.errors import BadConfig, RewardDegenerate, TooFewLabels
from logratio.records import Sample
from logratio.rollouts.pair_labelling import LabelCounts, LabelledPair, Pairing, check_settings, label_pairs
from logratio.rollouts.reward_values import answer_location
from logratio.rollouts.rewards import MAX_NAMED, ModelReward, Reward, load_reward
from logratio.run_directory import write_json_lines
from logratio.stats.wilson import percent


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Flags of `logratio label`."""

    completions: Path
    """The answers: a file written by `logratio sample`."""
    reward: str
    """What judges them: module:function, found in this directory or among the installed packages, the
    directory of a reward model, or implicit:POLICY,REFERENCE."""
    out: Path
    """The comparisons: JSON Lines with prompt, chosen, rejected, chosen_reward, rejected_reward."""
    prompt_format: Annotated[PromptFormatFlags, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatFlags
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
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = field(default_factory=RowFlags)
    """What becomes of rows that cannot be used."""
    device: str = "cpu"
    """Where a reward model computes: cpu, cuda, cuda:1, mps."""


def run(arguments: Arguments) -> int:
    """Label, write the comparisons and print what became of every pair."""
    check_settings(arguments.pairs, arguments.temperature, arguments.pairs_per_prompt)
    reward = load_reward(arguments.reward, device=arguments.device)
    if arguments.out.resolve() == arguments.completions.resolve():
        raise BadConfig(
            "--out is the file of completions itself", where=str(arguments.out), action="give another"
        )
    noted = arguments.out.with_name(arguments.out.name + LEFT_OUT)
    read = read_samples(arguments.completions, prompt_format=arguments.prompt_format.prompt_format)
    read = read.keep(lambda row: reward.ensure_prompt(row.prompt, max_new_tokens=0))
    used = {"completions"} | columns_of_judges([reward], read.columns)
    data = settle_rows(read, arguments.rows, used=used, noted=noted)
    samples = read.usable
    announce_to_model(reward, samples)
    rewards = reward(samples)
    warn_without_reward(reward.name, samples, rewards)
    pairs, counts = label_pairs(
        samples,
        rewards,
        pairing=arguments.pairs,
        temperature=arguments.temperature,
        seed=arguments.seed,
        pairs_per_prompt=arguments.pairs_per_prompt,
        finished_only=arguments.finished_only,
    )
    ensure_labels(pairs, counts, rewards, where=str(arguments.completions))
    # Who judged travels with the rows: an evaluation by the same judge says so.
    write_json_lines(arguments.out, [pair.to_json() | {JUDGE: reward.name} for pair in pairs])
    write_rows_left_out(noted, data)
    print(describe(counts))
    print(f"judged by {reward.name} at temperature {arguments.temperature:g}; written to {arguments.out}")
    return 0


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
        print(f"{name} has no reward for {place}, which is left out", file=sys.stderr)
    if len(places) > MAX_NAMED:
        print(f"and {len(places) - MAX_NAMED} more answers have none", file=sys.stderr)


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
