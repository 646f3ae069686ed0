"""Best-of-n: hand-worked weights, all subsets, all draws of an enumerated language, the bound of its KL."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logratio.errors import BadConfig
from logratio.evaluation.best_of_n import (
    best_of_n_curve,
    best_of_n_kl_bound,
    expected_best,
    order_weights,
    pick_best,
)
from logratio.records import Completion, Prompt, Sample
from logratio.verify.worlds import frontier, oracle
from logratio.verify.worlds.training import standard_problem
from logratio.verify.worlds.world import World

SMALL = World(vocabulary=3, horizon=2, prompts=((1,),))
WHOLE = st.integers(-3, 3).map(float)
ANSWERS = st.lists(st.tuples(WHOLE, WHOLE), min_size=1, max_size=7)


def sample(*texts, prompt="p", **columns):
    completions = tuple(Completion(text=text, seed=number) for number, text in enumerate(texts))
    return Sample(prompt=Prompt(prompt), completions=completions, columns=columns)


def test_hand_worked():
    """Of 4 answers 6 pairs: the largest is the best of 3 of them, the next of 2, the next of 1."""
    assert order_weights(4, 2) == (0, 1 / 6, 2 / 6, 3 / 6)
    gold, proxy = [10.0, 20.0, 30.0, 40.0], [0.3, 0.1, 0.4, 0.2]
    assert expected_best(gold, proxy, n=2) == pytest.approx((1 * 40 + 2 * 10 + 3 * 30) / 6)
    # The two in the middle are liked alike, and share the 1/6 and the 2/6.
    assert expected_best(gold, [0.2, 0.1, 0.4, 0.2], n=2) == pytest.approx((1.5 * 40 + 1.5 * 10 + 3 * 30) / 6)


@given(ANSWERS, st.data())
def test_it_is_the_mean_over_all_subsets_and_ties(answers, data):
    gold, proxy = zip(*answers, strict=True)
    n = data.draw(st.integers(1, len(answers)))
    expected = frontier.mean_over_subsets(gold, proxy, n=n)
    assert expected_best(gold, proxy, n=n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_it_is_unbiased_over_all_draws(n, tied):
    """Σ over all 343 ways to draw 3 answers of probability times estimate: the exact expectation."""
    probabilities = oracle.sequence_probabilities(SMALL, SMALL.random_logits(seed=11))[0]
    gold, likes = (SMALL.rewards(seed=seed)[0] for seed in (7, 3))
    proxy = (likes.round() if tied else likes).tolist()
    estimates = [
        math.prod(probabilities[index] for index in drawn)
        * expected_best([gold[index].item() for index in drawn], [proxy[index] for index in drawn], n=n)
        for drawn in product(range(7), repeat=3)
    ]
    exact = frontier.expectation(frontier.best_of_n(probabilities, proxy, n=n), gold.tolist())
    assert math.fsum(estimates) == pytest.approx(exact, abs=1e-12)


def test_weights_of_many_answers_are_finite_and_sum_to_1():
    for n in (1, 2, 64, 1500, 3000):
        weights = order_weights(3000, n)
        assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
        assert all(0 <= weight <= 1 for weight in weights)
    assert order_weights(3000, 3000)[-1] == 1


# --- the bound of the KL -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "bound"), [(1, 0), (2, 0.193147), (4, 0.636294), (16, 1.835089)])
def test_the_bound(n, bound):
    assert best_of_n_kl_bound(n) == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_the_exact_divergence_is_below_the_bound(n):
    """121 sequences at each of two prompts; with ties, which make the choice less sharp, too."""
    problem = standard_problem(beta=1.0)
    columns = oracle.sequence_probabilities(problem.world, problem.reference)
    for column, own in zip(columns, problem.rewards, strict=True):
        for proxy in (own, own.round()):
            best = frontier.best_of_n(column, proxy.tolist(), n=n)
            assert 0 < frontier.divergence(best, column) < best_of_n_kl_bound(n)


def test_where_no_answer_is_probable_the_divergence_is_the_bound():
    even = [1e-3] * 1000
    exact = frontier.divergence(frontier.best_of_n(even, range(1000), n=16), even)
    assert exact == pytest.approx(best_of_n_kl_bound(16), abs=1e-4)


def test_nothing_is_chosen_from_no_answer():
    with pytest.raises(ValueError, match="best of 0"):
        best_of_n_kl_bound(0)


# --- over prompts --------------------------------------------------------------------------------------


def drawn_rewards(prompts=40, answers=8):
    generator = np.random.default_rng(0)
    gold = generator.normal(size=(prompts, answers))
    return gold.tolist(), (gold + generator.normal(size=gold.shape)).tolist()


def test_a_curve_is_the_mean_over_prompts_with_its_interval():
    gold, proxy = drawn_rewards()
    curve = best_of_n_curve(gold, proxy, sizes=(1, 4, 8), seed=0, resamples=500)
    assert [one.n for one in curve] == [1, 4, 8]
    assert curve[0].reward.value == pytest.approx(np.mean(gold))
    liked = [own[int(np.argmax(likes))] for own, likes in zip(gold, proxy, strict=True)]
    assert curve[2].reward.value == pytest.approx(np.mean(liked))
    assert curve[0].reward.value < curve[1].reward.value < curve[2].reward.value
    for one in curve:
        assert one.reward.low < one.reward.value < one.reward.high
        assert one.kl_bound == best_of_n_kl_bound(one.n)
    assert curve[1].to_json() == {
        "n": 4,
        "reward": curve[1].reward.value,
        "reward_interval": [curve[1].reward.low, curve[1].reward.high],
        "kl_bound": best_of_n_kl_bound(4),
    }


def test_prompts_may_have_different_numbers_of_answers():
    curve = best_of_n_curve(
        [[1.0, 2.0], [5.0, 3.0, 4.0]], [[1, 2], [3, 1, 2]], sizes=[2], seed=0, resamples=9
    )
    assert curve[0].reward.value == pytest.approx((2 + (2 / 3 * 5 + 1 / 3 * 4)) / 2)


def test_the_pick_is_the_first_of_those_liked_best_among_the_first_n():
    samples = [sample("a", "b", "c", "d", prompt="x", topic=1), sample("e", "f", "g", "h", prompt="y")]
    picked = pick_best(samples, [[1.0, 3.0, 3.0, 9.0], [2.0, 2.0, 1.0, 9.0]], n=3)
    assert [[one.text for one in own.completions] for own in picked] == [["b"], ["e"]]
    assert [own.prompt for own in picked] == [own.prompt for own in samples]
    assert picked[0].columns == {"topic": 1}
    assert picked[0].completions[0].seed == 1


def test_picks_among_all_answers_are_what_the_curve_expects():
    gold, proxy = drawn_rewards()
    samples = [sample(*map(str, own), prompt=str(number)) for number, own in enumerate(gold)]
    picked = [float(own.completions[0].text) for own in pick_best(samples, proxy, n=8)]
    curve = best_of_n_curve(gold, proxy, sizes=[8], seed=0, resamples=9)
    assert curve[0].reward.value == pytest.approx(np.mean(picked))


@pytest.mark.parametrize("n", [0, 3])
def test_an_n_that_cannot_be_is_refused(n):
    with pytest.raises(BadConfig, match=f"best of {n} cannot be chosen from 2"):
        best_of_n_curve([[1.0, 2.0, 3.0], [1.0, 2.0]], [[1.0, 2.0, 3.0], [1.0, 2.0]], sizes=[1, n], seed=0)
    with pytest.raises(BadConfig, match=f"best of {n} cannot be chosen from 2"):
        pick_best([sample("a", "b")], [[1.0, 2.0]], n=n)


def test_rewards_of_other_answers_are_refused():
    for gold, proxy in (([[1.0, 2.0]], [[1.0]]), ([[1.0]], [[1.0], [2.0]]), ([], [])):
        with pytest.raises(BadConfig, match="do not belong together"):
            best_of_n_curve(gold, proxy, sizes=[1], seed=0)
    with pytest.raises(BadConfig, match="do not belong together"):
        pick_best([sample("a", "b")], [[1.0]], n=1)
