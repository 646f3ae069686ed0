"""Best-of-n: of n answers keep the one that a proxy likes best, and see what it is worth.

The baseline that needs no training: n answers of the reference model for each that is given. What it gains is
estimated without waste, from all subsets of n among the N answers that were drawn; how far it lies from the
reference is known only as a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from logratio.errors import BadConfig
from logratio.records import Sample
from logratio.stats.bootstrap import RESAMPLES, Estimate, mean_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """What choosing among n answers gains, and at most how far it lies from the reference."""

    n: int
    """Answers among which the proxy chooses."""
    reward: Estimate
    """Expected gold reward of the chosen answer: the mean over prompts, its interval by prompt."""
    kl_bound: float
    """KL to the reference is at most so much, in nats per sequence."""

    def to_json(self) -> dict[str, Any]:
        """`{"n", "reward", "reward_interval", "kl_bound"}`."""
        return {
            "n": self.n,
            "reward": self.reward.value,
            "reward_interval": [self.reward.low, self.reward.high],
            "kl_bound": self.kl_bound,
        }


def best_of_n_kl_bound(n: int) -> float:
    """What the KL divergence of best-of-n from its reference is at most, in nats per sequence.

    `log n − (n − 1)/n`, an upper bound and not the divergence itself (Beirami et al., 2024,
    arXiv:2401.01879): it is approached where no answer is probable, and far too large where a few answers
    hold most of the probability, since n draws then repeat themselves. Whatever the proxy, it holds.

    Args:
        n: answers among which one is chosen.

    Returns:
        0 for one answer; 1.835 for 16.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"best of {n}: there is no answer to choose")
    return math.log(n) - (n - 1) / n


def best_of_n_curve(
    gold: Sequence[Sequence[float]],
    proxy: Sequence[Sequence[float]],
    *,
    sizes: Sequence[int],
    seed: int,
    resamples: int = RESAMPLES,
) -> list[BestOfN]:
    """What best-of-n gains for each n of `sizes`, from one set of N ≥ n answers per prompt.

    Args:
        gold: of each prompt the gold rewards of its N answers, drawn from the reference.
        proxy: the rewards of the same answers by which one is chosen; `gold` itself for the best there is.
        sizes: the n.
        seed: of the bootstrap over prompts.
        resamples: its draws.

    Returns:
        One entry for each of `sizes`, in their order.

    Raises:
        BadConfig: an n is below 1 or above a prompt's N, the two are of different answers, or there is none.
    """
    ensure_same_answers(gold, proxy)
    ensure_enough_answers(gold, sizes)
    curve = []
    for n in sizes:
        expected = [
            expected_best(true_rewards, proxy_rewards, n=n)
            for true_rewards, proxy_rewards in zip(gold, proxy, strict=True)
        ]
        reward = mean_interval(expected, resamples=resamples, seed=seed)
        curve.append(BestOfN(n=n, reward=reward, kl_bound=best_of_n_kl_bound(n)))
    return curve


def expected_best(gold: Sequence[float], proxy: Sequence[float], *, n: int) -> float:
    """The gold reward of the answer that the proxy likes best among n of one prompt's N, on average.

    The mean over all subsets of n, and so without bias for any N ≥ n: with the answers sorted by proxy, the
    i-th smallest is the best of `C(i − 1, n − 1)` of the `C(N, n)` subsets. Answers that the proxy likes
    alike share evenly what falls to them, which is what breaking ties by lot gives on average.

    Args:
        gold: N rewards.
        proxy: N rewards of the same answers.
        n: how many are chosen from, at most N.

    Returns:
        A reward, within the range of `gold`.
    """
    order = sorted(range(len(proxy)), key=proxy.__getitem__)
    weights = iter(order_weights(len(order), n))
    total = 0.0
    for _, alike in groupby(order, key=proxy.__getitem__):
        rewards = [gold[index] for index in alike]
        share = math.fsum(next(weights) for _ in rewards) / len(rewards)
        total += share * math.fsum(rewards)
    return total


@lru_cache(maxsize=64)
def order_weights(num_answers: int, n: int) -> tuple[float, ...]:
    """How probable it is that the i-th smallest of N is the largest of n drawn without replacement: `[N]`."""
    subsets = math.comb(num_answers, n)
    return tuple(math.comb(below, n - 1) / subsets for below in range(num_answers))


def pick_best(samples: Sequence[Sample], proxy: Sequence[Sequence[float]], *, n: int) -> list[Sample]:
    """Of each prompt's first n answers the one that the proxy likes best, the first of those liked alike.

    Args:
        samples: prompts with at least n answers each.
        proxy: a reward for every answer.
        n: how many are chosen from.

    Returns:
        The same prompts in the same order, with one answer each.

    Raises:
        BadConfig: n is below 1 or above a prompt's answers, or the rewards are not of these answers.
    """
    ensure_same_answers([sample.completions for sample in samples], proxy)
    ensure_enough_answers(proxy, [n])
    picked = []
    for sample, rewards in zip(samples, proxy, strict=True):
        best = max(range(n), key=rewards.__getitem__)
        picked.append(replace(sample, completions=(sample.completions[best],)))
    return picked


def ensure_same_answers(first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]]) -> None:
    """Raise `BadConfig` unless both have the same prompts, one at least, with the same numbers of answers."""
    sizes = [[len(answers) for answers in side] for side in (first, second)]
    if sizes[0] != sizes[1] or not sizes[0]:
        raise BadConfig(
            f"rewards of {sum(sizes[0])} and of {sum(sizes[1])} answers do not belong together",
            action="judge the same answers with both rewards, in the same order",
        )


def ensure_enough_answers(answers: Sequence[Sequence[Any]], sizes: Sequence[int]) -> None:
    """Raise `BadConfig` where n answers cannot be chosen from."""
    fewest = min(map(len, answers))
    for n in sizes:
        if not 1 <= n <= fewest:
            raise BadConfig(
                f"best of {n} cannot be chosen from {fewest} answers per prompt",
                action=f"give an n from 1 to {fewest}, or draw more answers",
            )
