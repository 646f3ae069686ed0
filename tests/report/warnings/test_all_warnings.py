"""Each check is raised by a run that is bad in its way, and by no good one."""

from __future__ import annotations

import math

import pytest

from logratio.report.warnings.all_warnings import CHECKS, by_severity, find_warnings
from logratio.report.warnings.warning import mean_at_end, mean_at_start
from report import run_directories


def curves(stage, **values):
    return {"training": {stage: {"curves": {name: list(one) for name, one in values.items()}}}}


def by_name(report):
    return {finding.name: finding for finding in find_warnings(report)}


def raised(report):
    return {name for name, finding in by_name(report).items() if finding.raised}


RATE = {"value": 0.6, "low": 0.52, "high": 0.68, "n": 160, "wins": 94, "ties": 4, "losses": 62}

GOOD_AND_BAD = {
    "VerdictBeyondInterval": (
        {"verdict": {"outcome": "better"}, "win_rate": RATE},
        {"verdict": {"outcome": "better"}, "win_rate": RATE | {"low": 0.5}},
    ),
    "NotShown": ({"win_rate": RATE}, {"win_rate": RATE | {"low": 0.49}}),
    "FewPrompts": ({"win_rate": RATE | {"n": 100}}, {"win_rate": RATE | {"n": 99}}),
    "ManyTies": ({"win_rate": RATE | {"ties": 48}}, {"win_rate": RATE | {"ties": 49}}),
    "LengthExplainsWins": (
        {"win_rate": RATE, "length_controlled_win_rate": {"value": 0.58, "low": 0.501, "high": 0.65}},
        {"win_rate": RATE, "length_controlled_win_rate": {"value": 0.58, "low": 0.5, "high": 0.65}},
    ),
    "RewardIntervalsTouch": (
        {"reward_interval": {"policy": [0.4, 0.5], "reference": [0.2, 0.39]}},
        {"reward_interval": {"policy": [0.4, 0.5], "reference": [0.2, 0.4]}},
    ),
    "LengthDrift": (
        {"length": {"reference": 10, "sft": 40, "policy": 51}},
        {"length": {"reference": 50, "sft": 40, "policy": 53}},
    ),
    "AnswersUnfinished": ({"eos_rate": {"policy": 0.8}}, {"eos_rate": {"policy": 0.79}}),
    "FarFromReference": ({"kl": {"policy": 30.0}}, {"kl": {"policy": 30.1}}),
    "HardlyMoved": ({"kl": {"policy": 0.1}}, {"kl": {"policy": 0.09}}),
    "VarietyLost": (
        {"distinct_2": {"policy": 0.57, "reference": 0.7}},
        {"distinct_2": {"policy": 0.55, "reference": 0.7}},
    ),
    "RepetitionRises": (
        {"repetition": {"policy": 0.12, "reference": 0.03}},
        {"repetition": {"policy": 0.14, "reference": 0.03}},
    ),
    "LikelihoodDisplacement": (
        curves("dpo", chosen_reward=[-5.5] * 9, rejected_reward=[-6.0] * 9),
        curves("dpo", chosen_reward=[-5.5] * 9, rejected_reward=[-9.0] * 9),
    ),
    "ChosenRewardFalls": (curves("dpo", chosen_reward=[-0.4] * 9), curves("dpo", chosen_reward=[-0.6] * 9)),
    "Saturated": (curves("dpo", gradient_weight=[0.06] * 9), curves("dpo", gradient_weight=[0.04] * 9)),
    "TrainingPairsMemorised": (curves("dpo", accuracy=[0.97] * 9), curves("dpo", accuracy=[0.99] * 9)),
    "DPOLossRose": (
        curves("dpo", loss=[math.log(2)] + [0.6] * 9),
        curves("dpo", loss=[math.log(2)] + [0.8] * 9),
    ),
    "SFTLossRose": (curves("sft", loss=[2.0] * 5 + [1.9] * 5), curves("sft", loss=[2.0] * 5 + [2.1] * 5)),
    "CountsDoNotAddUp": (
        {"data": {"num_usable": 9, "train": 8, "held_out": 1}},
        {"data": {"num_usable": 9, "train": 8, "held_out": 0}},
    ),
}


def test_every_check_has_a_good_and_a_bad_case():
    assert len(CHECKS) == len(GOOD_AND_BAD)


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_threshold(name):
    good, bad = GOOD_AND_BAD[name]
    assert by_name(good)[name].raised is False
    finding = by_name(bad)[name]
    assert finding.raised is True
    for sentence in (finding.threshold, finding.what, finding.meaning, finding.action):
        assert len(sentence) > 5
    assert math.isfinite(finding.value)


def test_nothing_measured_nothing_said():
    assert find_warnings({}) == []
    assert find_warnings({"win_rate": {"low": None}, "training": {"dpo": {}}, "kl": {"policy": None}}) == []


def test_the_good_run_raises_nothing():
    report = run_directories.evaluation() | {
        "training": {
            "dpo": {
                "curves": {
                    name: [row[name] for row in run_directories.dpo_rows()]
                    for name in ("loss", "accuracy", "chosen_reward", "rejected_reward", "gradient_weight")
                }
            }
        }
    }
    assert raised(report) == set()
    assert len(find_warnings(report)) >= 16


def test_worse_is_also_bound_by_its_interval():
    worse = {"verdict": {"outcome": "worse"}, "win_rate": RATE | {"low": 0.3, "high": 0.5}}
    assert "VerdictBeyondInterval" in raised(worse)
    worse["win_rate"]["high"] = 0.49
    assert "VerdictBeyondInterval" not in raised(worse)


def test_severity_rises_with_the_number_unless_the_reference_is_alike():
    assert by_name({"kl": {"policy": 51.0}})["FarFromReference"].severity == "serious"
    assert by_name({"eos_rate": {"policy": 0.4, "reference": 0.9}})["AnswersUnfinished"].severity == "serious"
    alike = by_name({"eos_rate": {"policy": 0.4, "reference": 0.42}})["AnswersUnfinished"]
    assert alike.severity == "warning"
    assert "the limit is too short" in alike.meaning


def test_only_the_end_of_a_curve_counts():
    late = curves("dpo", gradient_weight=[0.5] * 90 + [0.01] * 10)
    early = curves("dpo", gradient_weight=[0.01] * 90 + [0.5] * 10)
    assert raised(late) == {"Saturated"}
    assert raised(early) == set()


def test_missing_values_in_a_curve_are_passed_over():
    assert raised(curves("dpo", gradient_weight=[None, 0.01] * 10)) == {"Saturated"}


def test_serious_ones_come_first():
    order = [{"name": "a", "severity": "note"}, {"name": "b"}, {"name": "c", "severity": "serious"}]
    assert [one["name"] for one in by_severity(order)] == ["c", "b", "a"]


def test_the_last_batch_of_a_pass_weighs_as_much_as_it_holds():
    """5 pairs in batches of 4: every second update reads one pair."""
    report = curves("dpo", accuracy=[1.0, 0.0] * 5, loss=[0.5, 1.5] * 5, step=range(1, 11))
    dpo = report["training"]["dpo"]
    assert mean_at_end(report, "dpo", "accuracy") == pytest.approx(2 / 5)
    dpo |= {"examples": 5, "settings": {"settings": {"batch_size": 4}}}
    assert mean_at_end(report, "dpo", "accuracy") == pytest.approx((0 + 4 + 0 + 4 + 0) / 11)
    assert mean_at_end(report, "dpo", "loss") == pytest.approx((1.5 + 2 + 1.5 + 2 + 1.5) / 11)
    # Ties have a loss and are ranked neither right nor wrong.
    dpo["curves"]["ties"] = [2.0, None] * 5
    assert mean_at_end(report, "dpo", "accuracy") == pytest.approx((0 + 2 + 0 + 2 + 0) / 7)
    assert mean_at_end(report, "dpo", "loss") == pytest.approx((1.5 + 2 + 1.5 + 2 + 1.5) / 11)


def test_updates_of_ties_alone_say_nothing_of_the_others():
    report = curves("dpo", accuracy=[1.0] * 6 + [0.0] * 5, ties=[None] * 6 + [1.0] * 5, step=range(1, 12))
    dpo = report["training"]["dpo"]
    dpo |= {"examples": 11, "settings": {"settings": {"batch_size": 1}}}
    assert mean_at_end(report, "dpo", "accuracy") == 1.0
    assert mean_at_start(report, "dpo", "accuracy", num=9) == 1.0
    dpo["curves"]["ties"] = [1.0] * 11
    assert mean_at_end(report, "dpo", "accuracy") is None
    assert mean_at_start(report, "dpo", "accuracy", num=5) is None


def test_the_loss_of_sft_is_a_mean_over_tokens():
    losses, tokens = [2.0, 4.0, 2.0, 4.0, 2.0, 1.0, 3.0, 1.0, 3.0, 1.0], [90.0, 10.0] * 5
    report = curves("sft", step=range(1, 11), loss=losses, tokens=[*tokens[:5], 90.0, 10.0, 90.0, 10.0, 90.0])
    assert mean_at_start(report, "sft", "loss", num=5) == pytest.approx((3 * 2 * 90 + 2 * 4 * 10) / 290)
    assert mean_at_end(report, "sft", "loss") == pytest.approx((3 * 90 + 2 * 3 * 10) / 290)
    assert by_name(report)["SFTLossRose"].what == "The SFT loss went from 2.14 to 1.14."
