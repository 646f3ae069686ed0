"""The judge judged: by hand, by simulation, and where the answer is planted."""

import json
import math
import random
from itertools import pairwise

import pytest

from logratio.evaluation.reward_calibration import (
    JudgedPair,
    Share,
    calibration_bins,
    calibration_error,
    calibration_error_by_chance,
    clustered_share,
    evaluate_reward_model,
    label_agreement,
)
from logratio.records import Comparison, Completion, Prompt
from logratio.stats.wilson import wilson_interval


def judged(margin, *, prompt="p", lengths=(1, 1), **rest):
    return JudgedPair(
        prompt=prompt,
        chosen=margin,
        rejected=0.0,
        chosen_length=lengths[0],
        rejected_length=lengths[1],
        **rest,
    )


def comparison(prompt, chosen, rejected):
    return Comparison(
        prompt=Prompt(prompt), chosen=Completion(text=chosen), rejected=Completion(text=rejected)
    )


def test_numbers_by_hand():
    pairs = [
        judged(1.0, prompt="a", lengths=(9, 3), rewards=(1.0, 0.0)),
        judged(-1.0, prompt="b", lengths=(2, 5), rewards=(0.0, 1.0)),
        judged(2.0, prompt="c", lengths=(4, 4), rewards=(2.0, 2.0)),
        judged(0.0, prompt="d", lengths=(7, 1)),
        judged(3.0, prompt="e", tie=True),
    ]
    found = evaluate_reward_model(pairs)
    assert found.accuracy == Share(value=2.5 / 4, low=found.accuracy.low, high=found.accuracy.high, n=4)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx(wilson_interval(2.5, 4))
    assert found.longer_wins.value == 2.5 / 4
    assert (found.judge_accuracy.value, found.judge_accuracy.n) == (0.5, 3)
    assert found.ceiling == 0.5
    loss = [0.3132616875, 1.3132616875, 0.1269280110, math.log(2), (0.0485873516 + 3.0485873516) / 2]
    assert found.loss == pytest.approx(sum(loss) / 5, abs=1e-9)
    assert (found.num_ties, found.num_prompts) == (1, 5)
    assert (found.chosen_reward, found.rejected_reward) == (0.5, 0.0)
    # (1·6 + (−1)·(−3) + 2·0 + 0·6) / √(6 · 81)
    assert found.length_correlation == pytest.approx(9 / math.sqrt(6 * 81))
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["ceiling"] == 0.5


def test_nothing_is_said_of_ties_alone():
    assert evaluate_reward_model([judged(1.0, tie=True)]) is None
    assert evaluate_reward_model([]) is None


def test_huge_scores_have_a_finite_loss():
    found = evaluate_reward_model([judged(5000.0), judged(-5000.0)])
    assert found.loss == pytest.approx(2500.0)
    assert found.calibration_error == pytest.approx(0.5)


# --- what belongs together ---------------------------------------------------------------------------


def test_pairs_of_one_prompt_that_go_together_tell_no_more_than_one():
    values = [1.0] * 6 + [0.0] * 4
    alone = clustered_share(values, [str(n) for n in range(10)])
    assert (alone.low, alone.high) == pytest.approx(wilson_interval(6, 10))
    copied = clustered_share(values * 5, [str(n) for n in range(10)] * 5)
    assert copied.n == 50
    # Fifty pairs of ten prompts that say the same five times: 9 or 10 pairs' worth, not 50.
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.06)
    spread = clustered_share(values * 5, [str(n % 10) for n in range(50)])
    assert (spread.low, spread.high) == (copied.low, copied.high)


def test_the_interval_covers_with_clusters():
    """Prompts of four pairs, each prompt with its own chance of being right."""
    draw = random.Random(5)
    hits = 0
    for _ in range(600):
        chances = [draw.choice((0.3, 0.9)) for _ in range(60)]
        values = [float(draw.random() < chance) for chance in chances for _ in range(4)]
        share = clustered_share(values, [str(n // 4) for n in range(240)])
        hits += share.low <= 0.6 <= share.high
    # 95 % would be 570; three standard errors are 16. Ignoring the clusters covers about 83 %.
    assert 554 <= hits <= 590


# --- calibration -------------------------------------------------------------------------------------


def test_calibration_bins_by_hand():
    # σ(1) = 0.731 lies in the fifth bin (0.70 to 0.75), σ(3) = 0.953 in the last.
    pairs = [judged(1.0), judged(-1.0), judged(1.0, tie=True), judged(3.0)]
    low, high = calibration_bins(pairs)
    assert (low.accuracy.value, low.accuracy.n) == (0.5, 3)
    assert low.mean == pytest.approx(1 / (1 + math.exp(-1.0)))
    assert (high.accuracy.value, high.accuracy.n) == (1.0, 1)
    expected = (3 * (low.mean - 0.5) + (1 - high.mean)) / 4
    assert calibration_error((low, high)) == pytest.approx(expected)


def drawn(n, *, scale, seed):
    """Pairs labelled with the model's own probabilities, the scores then multiplied."""
    draw = random.Random(seed)
    pairs = []
    for number in range(n):
        margin = draw.gauss(0.0, 1.5)
        right = draw.random() < 1 / (1 + math.exp(-margin))
        pairs.append(judged(scale * (margin if right else -margin), prompt=str(number)))
    return pairs


def test_a_calibrated_model_shows_what_chance_alone_makes_and_a_boastful_one_more():
    for n in (100, 1000):
        errors = [calibration_error(calibration_bins(drawn(n, scale=1.0, seed=s))) for s in range(200)]
        by_chance = calibration_error_by_chance(drawn(n, scale=1.0, seed=0))
        # Both are means of 200 errors that each vary by a quarter: ten per cent is four standard errors.
        assert sum(errors) / len(errors) == pytest.approx(by_chance, rel=0.1)
    boastful = drawn(1000, scale=3.0, seed=1)
    assert calibration_error(calibration_bins(boastful)) > 4 * calibration_error_by_chance(boastful)


# --- length ------------------------------------------------------------------------------------------


def test_a_model_that_likes_length_is_right_where_the_longer_answer_won():
    draw = random.Random(0)
    pairs = []
    for number in range(200):
        longer = draw.randint(-20, 20)
        pairs.append(judged(0.1 * longer, prompt=str(number), lengths=(30 + longer, 30)))
    bins = evaluate_reward_model(pairs).by_length
    assert [one.accuracy.value for one in (bins[0], bins[-1])] == [0.0, 1.0]
    assert sum(one.accuracy.n for one in bins) == 200
    assert all(30 <= one.accuracy.n <= 50 for one in bins)
    assert all(left.high < right.low for left, right in pairwise(bins))
    assert evaluate_reward_model(pairs).length_correlation == pytest.approx(1.0)


def test_equal_lengths_stand_in_one_bin():
    (one,) = evaluate_reward_model([judged(1.0, prompt=str(n)) for n in range(10)]).by_length
    assert (one.low, one.high, one.accuracy.n) == (0.0, 0.0, 10)


# --- what labels allow -------------------------------------------------------------------------------


def test_agreement_by_hand():
    rows = [comparison("p", "a", "b")] * 3 + [comparison("p", "b", "a")] + [comparison("q", "c", "d")]
    found = label_agreement(rows)
    # Of three votes for and one against, 3·2 + 0 of 4·3 ordered pairs of votes agree.
    assert (found.value, found.n) == (0.5, 1)
    assert label_agreement([comparison("p", "a", "b"), comparison("q", "a", "b")]) is None


def test_a_planted_noise_gives_the_planted_ceiling():
    """Labels wrong with probability 0.2: the best ranking is right on 80 % of them."""
    draw = random.Random(2)
    rows = []
    for number in range(3000):
        for _ in range(2):
            answers = ("good", "bad") if draw.random() > 0.2 else ("bad", "good")
            rows.append(comparison(f"prompt {number}", *answers))
    agreement = label_agreement(rows)
    assert agreement.low < 0.68 < agreement.high
    found = evaluate_reward_model([judged(1.0)], agreement=agreement)
    assert found.ceiling == pytest.approx(0.8, abs=0.02)


def test_labels_that_agree_less_than_by_chance_have_the_ceiling_of_a_coin():
    agreement = Share(value=0.4, low=0.3, high=0.5, n=100)
    assert evaluate_reward_model([judged(1.0)], agreement=agreement).ceiling == 0.5
    assert evaluate_reward_model([judged(1.0)]).ceiling is None
