"""Ties in DPO: half a label for each side."""

import math
from typing import get_args

import pytest
import torch

from algorithms.test_dpo import PAIR
from logratio.algorithms.dpo import (
    INDIFFERENT,
    WEIGHTED,
    DPOConfig,
    Loss,
    PairLogprobs,
    group_pairs,
    loss_at_reference,
    pair_losses,
    summarise,
    train_dpo,
)
from logratio.data.encoding import EncodedPair
from logratio.policies.language import LanguagePolicy
from logratio.records import Comparison, Completion, Prompt
from logratio.run_directory import RunDirectory
from tiny_models import exact_llama, random_groups

BETA, TIED = 0.1, PAIR._replace(preference=torch.full((4,), 0.5, dtype=torch.float64))


def softplus(x):
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def log_odds(mean):
    return mean - math.log(-math.expm1(min(mean, -1e-12)))


def by_hand(loss, weight):
    """The mean of the losses of both orders, each written for itself in the numbers of one pair."""
    names = ("chosen", "rejected", "reference_chosen", "reference_rejected", "chosen_lengths")
    columns = [getattr(PAIR, name).tolist() for name in (*names, "rejected_lengths")]
    means = []
    for w, l, reference_w, reference_l, long, short in zip(*columns, strict=True):  # noqa: E741
        a, c = w - reference_w, l - reference_l
        h, even, likely = a - c, a / long - c / short, -(w / long + l / short) / 2
        difference = w / long - l / short
        both = {
            "dpo": softplus(BETA * h) / 2 + softplus(-BETA * h) / 2,
            "ipo": h**2 + 1 / (4 * BETA**2),
            "ipo-mean": even**2 + 1 / (4 * BETA**2),
            "hinge": max(1.0, (1 + BETA * abs(h)) / 2),
            "length-normalised": softplus(BETA * even) / 2 + softplus(-BETA * even) / 2,
            "simpo": softplus(weight - BETA * difference) / 2 + softplus(weight + BETA * difference) / 2,
            "dpop": softplus(-BETA * (h - weight * max(0, -a))) / 2
            + softplus(BETA * (h + weight * max(0, -c))) / 2,
            "apo-zero": 1.0,
        }
        both["robust"] = both["dpo"]
        both["dpo-nll"] = both["dpo"] + weight * likely
        if loss == "orpo":
            odds = log_odds(w / long) - log_odds(l / short)
            both["orpo"] = likely + weight * (softplus(odds) + softplus(-odds)) / 2
        means.append(both[loss])
    return means


@pytest.mark.parametrize("loss", get_args(Loss))
def test_the_loss_of_a_tie_is_the_mean_of_both_orders(loss):
    weight = 0.7 if loss in WEIGHTED else 0.0
    config = DPOConfig.of(loss=loss, beta=BETA, loss_weight=weight)
    expected = by_hand(loss, weight)
    assert pair_losses(TIED, config).tolist() == pytest.approx(expected, abs=1e-9)
    # Whoever stands first in the row.
    assert pair_losses(TIED.swap(), config).tolist() == pytest.approx(expected, abs=1e-9)
    mixed = PAIR._replace(preference=torch.tensor([0.5, 1, 0.5, 1], dtype=torch.float64))
    wins = pair_losses(PAIR, config).tolist()
    assert pair_losses(mixed, config).tolist() == pytest.approx(
        [expected[0], wins[1], expected[2], wins[3]], abs=1e-9
    )


def test_smoothing_says_nothing_of_a_tie():
    plain = pair_losses(TIED, DPOConfig.of(beta=BETA))
    for loss in ("dpo", "robust"):
        smoothed = pair_losses(TIED, DPOConfig.of(loss=loss, beta=BETA, label_smoothing=0.2))
        assert smoothed.tolist() == pytest.approx(plain.tolist(), abs=1e-12)


@pytest.mark.parametrize("loss", get_args(Loss))
def test_a_tie_pulls_both_answers_to_one_log_ratio(loss):
    """The gradient at the margin m is −β(σ(−βm) − ½) in DPO, and 0 at m = 0 in all without a likelihood."""
    chosen = PAIR.chosen.clone().requires_grad_()
    weight = 0.7 if loss in WEIGHTED else 0.0
    losses = pair_losses(TIED._replace(chosen=chosen), DPOConfig.of(loss=loss, beta=BETA, loss_weight=weight))
    (slope,) = torch.autograd.grad(losses.sum(), chosen)
    if loss == "dpo":
        m = (PAIR.chosen - PAIR.reference_chosen) - (PAIR.rejected - PAIR.reference_rejected)
        expected = [-BETA * (sigmoid(-BETA * one) - 0.5) for one in m.tolist()]
        assert slope.tolist() == pytest.approx(expected, abs=1e-12)
        assert slope[0] == 0
    # A constant's gradient is rounding, which Adam would make steps of: `train dpo` leaves such ties out.
    assert (float(slope.abs().max()) < 1e-15) == (loss in INDIFFERENT)


@pytest.mark.parametrize("loss", get_args(Loss))
def test_the_first_loss_of_a_tie_is_that_of_a_win(loss):
    config = DPOConfig.of(loss=loss, loss_weight=1.0 if loss in WEIGHTED else 0.0)
    same = TIED._replace(reference_chosen=PAIR.chosen, reference_rejected=PAIR.rejected)
    if (expected := loss_at_reference(config)) is not None:
        assert pair_losses(same, config).tolist() == pytest.approx([expected] * 4, abs=1e-9)


def test_metrics_are_of_decided_pairs():
    mixed = PAIR._replace(preference=torch.tensor([0.5, 1, 0.5, 1], dtype=torch.float64))
    config = DPOConfig.of(beta=BETA)
    losses = pair_losses(mixed, config)
    found = summarise(losses, mixed, config)
    # Margins βh of the pairs 2 and 4: 1 and −0.66.
    assert found["margin"] == pytest.approx((1.0 - 0.66) / 2)
    assert found["accuracy"] == 0.5
    assert found["ties"] == 2
    assert found["chosen_logprob"] == pytest.approx((-10 - 120.3) / 2)
    assert found["loss"] == pytest.approx(float(losses.mean()))
    assert found["tokens"] == 1 + 5 + 2 + 40 + 1 + 12 + 9 + 31
    assert "ties" not in summarise(losses, PAIR, config)
    alone = summarise(losses, TIED, config)
    assert (alone["accuracy"], alone["margin"], alone["ties"]) == (None, None, 4.0)


def test_trained_on_ties_alone_a_policy_stays_at_its_reference(tmp_path):
    """The gradient at margin 0 is exactly 0; and rows keep the label that is theirs, in whatever order."""
    groups = random_groups(8, vocab_size=50)
    config = DPOConfig.of(batch_size=4, learning_rate=1e-2, epochs=2, row_tokens=40)
    trained = {}
    for name, preferences in (("ties", [0.5] * 8), ("one win", [0.5] * 7 + [1.0]), ("wins", None)):
        model = exact_llama(50)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with RunDirectory.begin(tmp_path / name, {"identity": {}}) as run:
            train_dpo(LanguagePolicy(model, None), groups, config, run, preferences=preferences)
            trained[name] = run.metrics
        moved = max(float((value - before[key]).abs().max()) for key, value in model.state_dict().items())
        if name == "ties":
            assert [row["accuracy"] for row in run.metrics] == [None] * 4
            assert all(row["loss"] == pytest.approx(math.log(2), abs=1e-9) for row in run.metrics)
        else:
            assert moved > 1e-4
    assert [row["ties"] for row in trained["one win"]].count(3.0) == 2
    assert all("ties" not in row for row in trained["wins"])


def test_pairs_keep_their_ties():
    def pair(number, tie):
        comparison = Comparison(
            prompt=Prompt("p"), chosen=Completion(text="a"), rejected=Completion(text="b"), tie=tie
        )
        return EncodedPair(comparison=comparison, prompt_ids=(number,), chosen_ids=(3,), rejected_ids=(4,))

    groups, preferences = group_pairs([pair(1, False), pair(2, True)])
    assert preferences == [1.0, 0.5]
    assert [(group.prompt, group.answers) for group in groups] == [((1,), ((3,), (4,))), ((2,), ((3,), (4,)))]


def test_the_other_order_has_every_column_turned_round():
    other = PAIR.swap()
    assert isinstance(other, PairLogprobs)
    for first, second in (
        ("chosen", "rejected"),
        ("reference_chosen", "reference_rejected"),
        ("chosen_lengths", "rejected_lengths"),
    ):
        assert torch.equal(getattr(other, first), getattr(PAIR, second))
        assert torch.equal(getattr(other, second), getattr(PAIR, first))
    assert torch.equal(other.preference, 1 - PAIR.preference)
