"""How good a reward model is on comparisons that it has not seen, and how good it could be.

Accuracy alone says little: labels favour long answers, and people disagree with themselves. So beside it
stand what "the longer wins" would get, how well the model does where the shorter answer won, how far its
probabilities can be believed, and how often a second label of the same pair agrees with the first.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from logratio.data.label_consistency import answers_of
from logratio.records import Comparison
from logratio.stats.wilson import wilson_interval

NUM_CALIBRATION_BINS = 10
NUM_LENGTH_BINS = 5
SIMULATIONS = 200
"""Draws of labels that a perfectly calibrated model would see; their mean has a standard error of a few per
cent of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """A held-out comparison with what the reward model says of it."""

    prompt: str
    """The prompt's key: pairs of one prompt are not independent."""
    chosen: float
    """Score of the preferred answer."""
    rejected: float
    """Score of the other."""
    chosen_length: int
    """Tokens of the preferred answer."""
    rejected_length: int
    """Tokens of the other."""
    tie: bool = False
    """Whether the label is a tie."""
    rewards: tuple[float, float] | None = None
    """What the judge that the labels were drawn from gave the two answers, where that is known."""

    @property
    def margin(self) -> float:
        """Score of the preferred answer above the other's."""
        return self.chosen - self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of pairs with its 95 % Wilson interval."""

    value: float
    """The share; a tie counts as one half."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    n: int
    """Pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs that are alike in one respect, and how often the model ranks them as labelled."""

    low: float
    """Smallest value in the bin: of the model's confidence, or of the difference of lengths."""
    high: float
    """Largest value in it."""
    mean: float
    """Mean of the values."""
    accuracy: Share
    """Share that is ranked as labelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelReport:
    """A reward model on held-out comparisons."""

    accuracy: Share
    """Share of the pairs that it ranks as labelled."""
    longer_wins: Share
    """The same of the rule that the longer answer wins."""
    agreement: Share | None
    """How often two labels of one pair agree; `None`: no pair has two."""
    judge_accuracy: Share | None
    """How often the labels agree with the rewards they were drawn from; `None`: the rows do not say."""
    loss: float
    """Mean negative log-likelihood of the labels, nats."""
    calibration: tuple[Bin, ...]
    """Pairs by the model's confidence σ(|difference of scores|), from ½ to 1."""
    calibration_error: float
    """Expected calibration error: mean distance between confidence and accuracy of the bins."""
    calibration_error_by_chance: float
    """What a perfectly calibrated model with these confidences would show on so few pairs, on average."""
    by_length: tuple[Bin, ...]
    """Pairs by tokens of the preferred answer minus tokens of the other."""
    length_correlation: float
    """Correlation of difference of scores and difference of lengths over pairs in arbitrary order."""
    chosen_reward: float
    """Mean score of preferred answers."""
    rejected_reward: float
    """Mean score of the others."""
    num_ties: int
    """Pairs labelled as ties: part of the loss and of the calibration, not of the accuracy."""
    num_prompts: int
    """Different prompts."""

    @property
    def ceiling(self) -> float | None:
        """Accuracy of the best possible ranking, were labels equally noisy everywhere.

        If each label is the wrong one with probability ε, two of one pair agree with probability
        `A = 1 − 2ε(1 − ε)`; the best ranking is right on `1 − ε = (1 + √(2A − 1))/2` of the labels. Labels
        drawn from a reward give the share that agrees with it directly.
        """
        if self.judge_accuracy is not None:
            return self.judge_accuracy.value
        if self.agreement is None:
            return None
        return (1.0 + math.sqrt(max(0.0, 2.0 * self.agreement.value - 1.0))) / 2.0

    def to_json(self) -> dict[str, Any]:
        """All numbers, the ceiling among them."""
        return asdict(self) | {"ceiling": self.ceiling}


def evaluate_reward_model(
    pairs: Sequence[JudgedPair], *, agreement: Share | None = None
) -> RewardModelReport | None:
    """Judge the judge, on comparisons kept out of its training.

    Args:
        pairs: the comparisons with their scores.
        agreement: how often two labels of one pair agree, from `label_agreement`.

    Returns:
        The report; `None` where no pair has a winner.
    """
    decided = [pair for pair in pairs if not pair.tie]
    if not decided:
        return None
    keys = [pair.prompt for pair in decided]
    judged = [pair for pair in decided if pair.rewards is not None]
    bins = calibration_bins(pairs)
    lengths = [pair.chosen_length - pair.rejected_length for pair in decided]
    return RewardModelReport(
        accuracy=clustered_share([_right(pair.margin) for pair in decided], keys),
        longer_wins=clustered_share([_right(length) for length in lengths], keys),
        agreement=agreement,
        judge_accuracy=clustered_share(
            [_right(pair.rewards[0] - pair.rewards[1]) for pair in judged if pair.rewards],
            [pair.prompt for pair in judged],
        )
        if judged
        else None,
        loss=fmean(_loss(pair) for pair in pairs),
        calibration=bins,
        calibration_error=calibration_error(bins),
        calibration_error_by_chance=calibration_error_by_chance(pairs),
        by_length=length_bins(decided),
        length_correlation=_uncentred_correlation([pair.margin for pair in decided], lengths),
        chosen_reward=fmean(pair.chosen for pair in decided),
        rejected_reward=fmean(pair.rejected for pair in decided),
        num_ties=len(pairs) - len(decided),
        num_prompts=len({pair.prompt for pair in pairs}),
    )


def clustered_share(values: Sequence[float], clusters: Sequence[str]) -> Share:
    """The mean of values in [0, 1] with a Wilson interval that knows which of them belong together.

    Pairs of one prompt tend to be right or wrong together, so that n of them tell less than n. The interval
    is Wilson's at `n / d` pairs, where d ≥ 1 is the variance between clusters over that of independent pairs
    (Kish's design effect; Korn and Graubard, 1998).

    Raises:
        ValueError: there is no value.
    """
    n, share = len(values), fmean(values)
    residuals: dict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] += value - share
    effective = n
    if 0 < share < 1 and 1 < len(residuals) < n:
        count = len(residuals)
        between = count / (count - 1) * sum(residual**2 for residual in residuals.values()) / n
        effective = max(1, round(n / max(1.0, between / (share * (1 - share)))))
    low, high = wilson_interval(min(share * effective, effective), effective)
    return Share(value=share, low=low, high=high, n=n)


def calibration_bins(pairs: Sequence[JudgedPair]) -> tuple[Bin, ...]:
    """Pairs by confidence in ten bins of equal width from ½ to 1; empty ones are left out.

    The confidence is the probability of the answer that the model prefers. It is right where that answer is
    the preferred one; a tie, in label or in scores, is half right.
    """
    binned: dict[int, list[JudgedPair]] = defaultdict(list)
    for pair in pairs:
        binned[_confidence_bin(_confidence(pair))].append(pair)
    return tuple(
        _bin([(_confidence(pair), pair) for pair in members])
        for members in (binned[index] for index in sorted(binned))
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """`Σ_b (n_b/n) |accuracy_b − confidence_b|` (Naeini et al., 2015)."""
    n = sum(group.accuracy.n for group in bins)
    return sum(group.accuracy.n * abs(group.accuracy.value - group.mean) for group in bins) / n


def calibration_error_by_chance(pairs: Sequence[JudgedPair]) -> float:
    """The mean calibration error of labels drawn from the model's own probabilities: what noise alone makes.

    The error is a mean of absolute values and so is above 0 even of a perfect model, the more the fewer pairs
    there are.
    """
    binned: dict[int, list[float]] = defaultdict(list)
    for pair in pairs:
        binned[_confidence_bin(_confidence(pair))].append(_confidence(pair))
    draw = random.Random(0)
    total = 0.0
    for _ in range(SIMULATIONS):
        for members in binned.values():
            total += abs(sum((draw.random() < chance) - chance for chance in members))
    return total / (SIMULATIONS * len(pairs))


def length_bins(pairs: Sequence[JudgedPair]) -> tuple[Bin, ...]:
    """Pairs in five bins of about equal size by how much longer the preferred answer is."""
    differences = sorted(pair.chosen_length - pair.rejected_length for pair in pairs)
    ranks = [len(pairs) * index // NUM_LENGTH_BINS for index in range(1, NUM_LENGTH_BINS)]
    edges = sorted({differences[rank] for rank in ranks})
    binned: dict[int, list[JudgedPair]] = defaultdict(list)
    for pair in pairs:
        binned[bisect_right(edges, pair.chosen_length - pair.rejected_length)].append(pair)
    return tuple(
        _bin([(float(pair.chosen_length - pair.rejected_length), pair) for pair in binned[index]])
        for index in sorted(binned)
    )


def label_agreement(comparisons: Iterable[Comparison]) -> Share | None:
    """How often two labels of the same pair agree, over pairs that have several.

    Of a pair with a votes for one answer and b for the other, `[a(a−1) + b(b−1)] / [n(n−1)]` is the chance
    that two of its n votes agree. Each pair counts once. `None` where no pair has two votes.
    """
    votes: dict[tuple[Any, Any], list[int]] = defaultdict(lambda: [0, 0])
    for comparison in comparisons:
        winner, loser = answers_of(comparison)
        pair = min(winner, loser), max(winner, loser)
        votes[pair][winner != pair[0]] += 1
    several = [(key[0][0], a, b) for key, (a, b) in votes.items() if a + b > 1]
    if not several:
        return None
    agreeing = [(a * (a - 1) + b * (b - 1)) / ((a + b) * (a + b - 1)) for _, a, b in several]
    return clustered_share(agreeing, [prompt for prompt, _, _ in several])


def _bin(members: Sequence[tuple[float, JudgedPair]]) -> Bin:
    values = [value for value, _ in members]
    right = [0.5 if pair.tie else _right(pair.margin) for _, pair in members]
    return Bin(
        low=min(values),
        high=max(values),
        mean=fmean(values),
        accuracy=clustered_share(right, [pair.prompt for _, pair in members]),
    )


def _right(margin: float) -> float:
    """1 above 0, 0 below, ½ at it."""
    return ((margin > 0) - (margin < 0) + 1) / 2


def _confidence(pair: JudgedPair) -> float:
    return 1.0 / (1.0 + math.exp(-abs(pair.margin)))


def _confidence_bin(confidence: float) -> int:
    return min(NUM_CALIBRATION_BINS - 1, int((confidence - 0.5) * 2 * NUM_CALIBRATION_BINS))


def _loss(pair: JudgedPair) -> float:
    """`−log σ(margin)`, of a tie half of each direction; exact where the exponential would overflow."""
    agree, disagree = (
        max(0.0, -sign * pair.margin) + math.log1p(math.exp(-abs(pair.margin))) for sign in (1, -1)
    )
    return (agree + disagree) / 2 if pair.tie else agree


def _uncentred_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Correlation about 0: that of every pair in both of its orders; 0 where one side is all 0."""
    scale = math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))
    return sum(a * b for a, b in zip(left, right, strict=True)) / scale if scale else 0.0
