r"""Train a reward model: a score for every answer, from comparisons of answers.

    logratio train reward --data comparisons.jsonl --out runs/rm
    logratio label --completions completions.jsonl --reward runs/rm --out labelled.jsonl

The loss is Bradley and Terry's: the chance that one answer is preferred is the sigmoid of the difference of
the scores. A row with "tie": true is half a label for each side. A prompt with several pairs is one example,
and all its pairs are in one batch. At the end the model is judged on the prompts kept out of training: how
often it ranks a pair as labelled, whether its probabilities can be believed, and what "the longer answer
wins" would get.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from logratio.algorithms.reward import RewardConfig, group_pairs, train_reward
from logratio.cli.first_use import as_of_beginning, settle_tokens
from logratio.cli.train.compute import compute_as
from logratio.cli.train.lora import attach_lora
from logratio.cli.train.preference_options import (
    HELD_OUT,
    TrainingFlags,
    begin_run,
    finish_run,
    resolve_model,
    settle_report,
    split_pairs,
)
from logratio.data.encoding import EncodedPair
from logratio.data.label_metadata import REWARDS, Grade, read_grades
from logratio.data.preference_formats import COLUMNS, read_comparisons
from logratio.data.unusable_rows import refuse_rows
from logratio.data.validation import CheckReport, check_comparisons
from logratio.evaluation.reward_calibration import (
    JudgedPair,
    RewardModelReport,
    Share,
    evaluate_reward_model,
    label_agreement,
)
from logratio.evaluation.summary import align
from logratio.evaluation.verdict import as_percent
from logratio.models.tokenisation import stop_token_ids
from logratio.packed_rows import AnswerGroup
from logratio.policies.reward_scorer import RewardModel, drop_foreign_tokens, group_answers
from logratio.run_directory import RunDirectory, write_json, write_json_lines
from logratio.training.invariants import check_end_token_carries_loss

REWARD_MODEL = "reward_model.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments(TrainingFlags):
    """Flags of `logratio train reward`."""

    training: Annotated[RewardConfig, tyro.conf.arg(name="")] = field(default_factory=RewardConfig)
    """Training settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The comparisons of a file with what their rows say beside the preference."""

    report: CheckReport
    """What became of every row, ties among them."""
    grades: Mapping[str, Grade]
    """By a row's place."""
    agreement: Share | None
    """How often two labels of one pair agree, over all rows that were read."""


def run(arguments: Arguments) -> int:
    """Train, save the model, judge it, say where it is."""
    with as_of_beginning(arguments.out, resume=arguments.resume):
        return train(arguments)


def train(arguments: Arguments) -> int:
    """As `run`, with the dates that templates write settled."""
    config = arguments.training
    labels = read_labels(arguments)
    with begin_run(arguments, config, command="reward") as directory:
        scorer, summary, result = train_and_judge(arguments, labels, directory)
        hints = [
            f"report:  logratio report {arguments.out}",
            f"next:    logratio label --completions completions.jsonl --reward {arguments.out} --out FILE",
        ]
        finish_run(scorer, directory, summary, hints=hints)
        print("\n" + describe(result))
    return 0


def train_and_judge(
    flags: Arguments, labels: Labels, directory: RunDirectory
) -> tuple[RewardModel, dict[str, Any], RewardModelReport | None]:
    """Train on most prompts and judge on the others: the model, the run's summary, what was found."""
    config = flags.training
    train = split_pairs(flags, labels.report, directory, seed=config.seed)
    trained = {pair.comparison.source for pair in train}
    held_out = [pair for pair in labels.report.usable if pair.comparison.source not in trained]
    write_held_out(directory, held_out, labels.grades, margin=config.margin)
    scorer = open_scorer(flags, directory)
    check_ends(scorer, train)
    groups = group_pairs(train, labels.grades)
    settle_tokens(directory, [group.answers for group in groups])
    summary = train_reward(scorer, groups, config, directory)
    pairs = judge_pairs(scorer, held_out, labels.grades, max_tokens=config.row_tokens)
    result = evaluate_reward_model(pairs, agreement=labels.agreement)
    if result is not None:
        write_json(directory.path / REWARD_MODEL, result.to_json())
    return scorer, summary, result


def read_labels(flags: Arguments) -> Labels:
    """Read, check and tokenise the comparisons.

    Raises:
        DataFault: the file cannot be trained on, with the reasons.
    """
    from logratio.models.loading import load_tokenizer, read_limits

    grades, ungraded = read_grades(flags.data, margin=flags.training.margin, limit=flags.limit)
    form = flags.prompt_format.prompt_format
    read = read_comparisons(flags.data, limit=flags.limit, prompt_format=form)
    result = read.without(ungraded)
    if ungraded and not result.comparisons:
        raise refuse_rows(ungraded, result.num_rows)
    source = resolve_model(flags.model)
    tokenizer, limits = load_tokenizer(source), read_limits(source)
    flags.prompt_format.ensure_possible(tokenizer)
    readable = [
        replace(
            comparison,
            chosen=drop_foreign_tokens(tokenizer, comparison.chosen),
            rejected=drop_foreign_tokens(tokenizer, comparison.rejected),
        )
        for comparison in result.comparisons
    ]
    report = check_comparisons(
        replace(result, comparisons=readable),
        tokenizer,
        max_length=flags.max_length,
        max_unusable_share=flags.rows.max_unusable_share,
        limits=limits,
        used=(*COLUMNS, *REWARDS, flags.training.margin),
    )
    settle_report(report, flags)
    votes = [comparison for comparison in readable if not comparison.tie]
    return Labels(report=report, grades=grades, agreement=label_agreement(votes))


def write_held_out(
    directory: RunDirectory, pairs: Sequence[EncodedPair], grades: Mapping[str, Grade], *, margin: str
) -> None:
    """Write the rows kept out of training once more, with the columns that only a reward model reads."""
    rows = (pair.comparison.to_json() | grades[pair.comparison.source].to_json(margin) for pair in pairs)
    write_json_lines(directory.path / HELD_OUT, rows)


def open_scorer(flags: Arguments, directory: RunDirectory) -> RewardModel:
    """Load what training starts from and make its hash part of the run's identity."""
    import torch

    from logratio.models.reward_model import load_for_training

    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    source, seed = resolve_model(flags.model), flags.training.seed
    loaded = load_for_training(source, seed=seed, device=flags.device)
    for note in loaded.notes:
        print(note, file=sys.stderr)
    directory.add_identity(model_fingerprint=loaded.fingerprint)
    attach_lora(loaded.model, flags.lora, source=source, seed=seed)
    # The head is new: it is trained whole.
    loaded.model.score.requires_grad_(True)
    scorer = RewardModel(loaded.model, loaded.tokenizer)
    compute_as(scorer, flags.computing)
    return scorer


def check_ends(scorer: RewardModel, pairs: Sequence[EncodedPair]) -> None:
    """Hold the data to the invariant that every finished answer ends in one end token, where it is scored."""
    groups = [AnswerGroup(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in pairs]
    finished = [
        (
            pair.comparison.chosen.finish_reason == "stop" and not pair.chosen_cut,
            pair.comparison.rejected.finish_reason == "stop" and not pair.rejected_cut,
        )
        for pair in pairs
    ]
    check_end_token_carries_loss(
        groups, finished, stop_token_ids(scorer.tokenizer, scorer.model.generation_config)
    )


def judge_pairs(
    scorer: RewardModel, pairs: Sequence[EncodedPair], grades: Mapping[str, Grade], *, max_tokens: int
) -> list[JudgedPair]:
    """The comparisons with their scores."""
    sequences = [
        (pair.prompt_ids, answer) for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)
    ]
    groups, places = group_answers(sequences)
    scores = scorer.score_groups(groups, max_tokens=max_tokens)
    values = [scores[group][answer] for group, answer in places]
    return [
        JudgedPair(
            prompt=pair.comparison.prompt.key,
            chosen=chosen,
            rejected=rejected,
            chosen_length=len(pair.chosen_ids),
            rejected_length=len(pair.rejected_ids),
            tie=grades[pair.comparison.source].tie,
            rewards=grades[pair.comparison.source].rewards,
        )
        for pair, chosen, rejected in zip(pairs, values[::2], values[1::2], strict=True)
    ]


def describe(report: RewardModelReport | None) -> str:
    """The reward model on held-out comparisons, in lines for a terminal."""
    if report is None:
        return "no comparison was held out, so that nothing is known of other prompts: raise --held-out"
    n = report.accuracy.n
    rows = [
        (f"held out: {n} pairs of {report.num_prompts} prompts", "ranked right", "95 % interval"),
        ("reward model", *_cells(report.accuracy)),
        length_rule(report.longer_wins),
    ]
    if report.judge_accuracy is not None:
        rows.append(("the reward that the labels were drawn from", *_cells(report.judge_accuracy)))
    if report.agreement is not None:
        rows.append((f"two labels of one pair agree ({report.agreement.n} pairs)", *_cells(report.agreement)))
    lines = [align(rows)]
    if report.ceiling is not None:
        lines.append(f"ceiling: labels that noisy allow {as_percent(report.ceiling)}")
    lines.append(
        f"calibration error {report.calibration_error:.3f} (a perfectly calibrated model would show about "
        f"{report.calibration_error_by_chance:.3f} on so few pairs); loss {report.loss:.3f}"
    )
    by_length = [
        f"{one.low:+.0f} to {one.high:+.0f} tokens {as_percent(one.accuracy.value)}"
        for one in report.by_length
    ]
    lines.append("ranked right, by how much longer the preferred answer is: " + ", ".join(by_length))
    lines.append(f"correlation of score and length, from answer to answer: {report.length_correlation:+.2f}")
    return "\n".join(lines)


def length_rule(longer: Share) -> tuple[str, str, str]:
    """The rule of length that does better: where people like short answers, that is the one to beat."""
    if longer.value >= 0.5:
        return "the longer answer wins", *_cells(longer)
    mirrored = replace(longer, value=1 - longer.value, low=1 - longer.high, high=1 - longer.low)
    return "the shorter answer wins", *_cells(mirrored)


def _cells(share: Share) -> tuple[str, str]:
    return as_percent(share.value), f"{as_percent(share.low)} to {as_percent(share.high)}"
