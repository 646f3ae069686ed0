"""A reward model: a score for every answer, such that differences of scores explain who preferred what.

Bradley and Terry (1952) with the strengths computed by a model: `P(a over b) = σ(r(x, a) − r(x, b))`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logratio.data.encoding import EncodedPair
from logratio.data.label_metadata import NO_GRADE, Grade
from logratio.objectives.bradley_terry import comparison_loss
from logratio.packed_rows import AnswerGroup, PackedRow
from logratio.policies.reward_scorer import SCORE_TOLERANCE, RewardModel, group_answers, num_tokens_read
from logratio.run_directory import RunDirectory
from logratio.training import invariants
from logratio.training.config import TrainingConfig, bad_setting, check_not_negative
from logratio.training.loop import Session, memory_fault

TIE = 0.5
"""The preference of a tie: half a label for each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig(TrainingConfig):
    """Settings of a reward model's training; an example is a prompt with all its pairs."""

    margin: str = "0"
    """How much larger than the other the preferred score must be: one number, or the name of a column of the
    data that holds it, larger where people were surer."""
    centring: float = 0.0
    """Weight of (chosen + rejected)², which fixes the zero of the scores; 0.01 is usual, 0 leaves it open."""

    def __post_init__(self) -> None:
        check_not_negative(self, "centring")
        if not self.margin:
            raise bad_setting("margin", repr(self.margin), "a number or the name of a column")


@dataclass(frozen=True, slots=True)
class Label:
    """What was said of two answers of a group."""

    chosen: int
    """Number of the preferred answer."""
    rejected: int
    """Number of the other."""
    preference: float = 1.0
    """Probability that the first is preferred: ½ for a tie."""
    margin: float = 0.0
    """How much larger its score must be."""


@dataclass(frozen=True, slots=True)
class LabelledGroup:
    """A prompt with its different answers and all that was said of pairs of them."""

    answers: AnswerGroup
    """The prompt and the answers, each once."""
    labels: tuple[Label, ...]
    """At least one."""


class PairScores(NamedTuple):
    """Scores and labels of a batch's pairs, `[pairs]` each."""

    chosen: Tensor
    rejected: Tensor
    preference: Tensor
    margin: Tensor


def train_reward(
    scorer: RewardModel, groups: Sequence[LabelledGroup], config: RewardConfig, run: RunDirectory
) -> dict[str, Any]:
    """Raise the scores of chosen answers over those of rejected ones, head and body together.

    `L = −(1/N) Σ_pairs log σ(r(x, y_w) − r(x, y_l) − m)` with ties, margins and centring as in
    `comparison_loss`, and N the pairs of the whole batch: a vote weighs as a vote, however many its prompt
    has. All pairs of a prompt are in one batch, and each of its answers is computed once (Ouyang et al.,
    2022, arXiv:2203.02155, section 3.5, which divides by the pairs of each prompt instead).

    Args:
        scorer: changed in place.
        groups: prompts with their answers and labels.
        config: settings.
        run: the run directory, which holds checkpoints to go on from where there are any.

    Returns:
        The run's summary.

    Raises:
        InvariantViolated: the parts of a batch do not add up.
        NonFiniteLoss, NonFiniteGradient: before the weights would have taken it.
        Interrupted: on a signal, after a checkpoint.
        OutOfMemory: with the next smaller setting.
    """
    scorer.model.eval()
    layout_invariant = select_score_layout(scorer, [group.answers for group in groups])
    longest = max(num_tokens_read(group.answers) for group in groups)
    with (
        scorer.accumulate_in_place(),
        Session(
            scorer.model, config, run, stage="reward", num_examples=len(groups), unit="prompts"
        ) as session,
    ):
        session.record_invariant(layout_invariant)
        for step in session.steps():
            examples = session.batch(step)
            batch = [groups[index] for index in examples]
            num_pairs = sum(len(group.labels) for group in batch)
            owners, pairs, micro_losses = [], [], []
            with memory_fault(step=step, config=config, longest=longest):
                for indices, rows in scorer.micro_batches(
                    [group.answers for group in batch], max_tokens=config.loop.row_tokens
                ):
                    owners += [examples[index] for index in indices for _ in batch[index].labels]
                    pair, loss = backpropagate(
                        scorer, rows, [batch[index] for index in indices], config, num_pairs=num_pairs
                    )
                    pairs.append(pair)
                    micro_losses.append(loss)
            whole = PairScores(*map(torch.cat, zip(*pairs, strict=True)))
            losses = pair_losses(whole, config)
            invariants.check_loss_is_finite(losses, owners, step=step)
            session.record_invariant(
                invariants.check_accumulation_equals_batch(micro_losses, losses, step=step)
            )
            num_tokens = sum(num_tokens_read(group.answers) for group in batch)
            session.update(step, examples, summarise(losses, whole) | {"tokens": float(num_tokens)})
        return session.finish()


def select_score_layout(scorer: RewardModel, groups: Sequence[AnswerGroup]) -> invariants.InvariantResult:
    """The invariant that packed scores are the model's own; where they are not, scores are computed apart."""
    deviation = scorer.select_layout(groups)
    return invariants.InvariantResult(
        invariant="packed_equals_unpacked", value=deviation, limit=SCORE_TOLERANCE, step=0
    )


def backpropagate(
    scorer: RewardModel,
    rows: Sequence[PackedRow],
    groups: Sequence[LabelledGroup],
    config: RewardConfig,
    *,
    num_pairs: int,
) -> tuple[PairScores, float]:
    """Add the gradients of a micro-batch to those that stand; its graph ends in here.

    Args:
        scorer: what is trained.
        rows: the answers of `groups`.
        groups: prompts with their answers and labels.
        config: settings.
        num_pairs: pairs of the whole batch.

    Returns:
        The micro-batch's pairs, and its share of the batch's loss.
    """
    pair = gather_pairs(scorer.scores(rows), groups)
    loss = pair_losses(pair, config).sum() / num_pairs
    loss.backward()
    return PairScores(*(column.detach() for column in pair)), float(loss.detach())


def gather_pairs(scores: Tensor, groups: Sequence[LabelledGroup]) -> PairScores:
    """Lay the scores of `groups`' answers, `[answers]` in their order, as `[pairs]` beside the labels."""
    chosen, rejected, start = [], [], 0
    for group in groups:
        chosen += [start + label.chosen for label in group.labels]
        rejected += [start + label.rejected for label in group.labels]
        start += len(group.answers.answers)
    labels = [label for group in groups for label in group.labels]
    preference = scores.new_tensor([label.preference for label in labels])
    margin = scores.new_tensor([label.margin for label in labels])
    return PairScores(scores[chosen], scores[rejected], preference, margin)


def pair_losses(pair: PairScores, config: RewardConfig) -> Tensor:
    """The loss of every pair: `[pairs]` nats."""
    return comparison_loss(
        pair.chosen, pair.rejected, margin=pair.margin, centring=config.centring, preference=pair.preference
    )


def summarise(losses: Tensor, pair: PairScores) -> dict[str, float]:
    """The metrics of an update: means over its pairs; ties say nothing of margin and accuracy."""
    losses, pair = losses.cpu(), PairScores(*(column.cpu() for column in pair))
    decided = pair.preference != TIE
    margin = (pair.chosen - pair.rejected)[decided].double()
    means = {
        "loss": float(losses.double().mean()),
        "chosen_reward": float(pair.chosen.double().mean()),
        "rejected_reward": float(pair.rejected.double().mean()),
        "pairs": float(len(losses)),
    }
    if not len(margin):
        return means
    return means | {
        "margin": float(margin.mean()),
        "accuracy": float(((margin.sign() + 1.0) / 2.0).mean()),
    }


def group_pairs(pairs: Sequence[EncodedPair], grades: Mapping[str, Grade]) -> list[LabelledGroup]:
    """All pairs of a prompt together, its answers once each; prompts in order of their first pair.

    Args:
        pairs: comparisons as tokens.
        grades: by a comparison's place, what its row says beside the preference.
    """
    sequences = [
        (pair.prompt_ids, answer) for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)
    ]
    groups, places = group_answers(sequences)
    labels: dict[int, list[Label]] = defaultdict(list)
    for pair, (group, chosen), (_, rejected) in zip(pairs, places[::2], places[1::2], strict=True):
        grade = grades.get(pair.comparison.source, NO_GRADE)
        if grade.tie:
            labels[group].append(Label(chosen, rejected, preference=TIE))
        else:
            labels[group].append(Label(chosen, rejected, margin=grade.margin))
    return [LabelledGroup(answers, tuple(labels[number])) for number, answers in enumerate(groups)]
