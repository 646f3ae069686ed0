"""From answers to a report: who is compared with whom, and what the report holds."""

from __future__ import annotations

import json

import pytest

from logratio.errors import BadConfig, TooFewLabels
from logratio.evaluation import evaluation_warnings
from logratio.evaluation.model_comparison import compare
from logratio.evaluation.policy_divergence import Divergence
from logratio.evaluation.summary import describe
from logratio.evaluation.text_statistics import text_statistics
from logratio.records import Completion, Prompt, Sample
from logratio.report.warnings.all_warnings import find_warnings
from logratio.stats.bootstrap import Estimate


class LengthJudge:
    """A judge that likes letters `g`."""

    name = "tests:letters"

    def __call__(self, samples):
        return [[float(one.text.count("g")) for one in sample.completions] for sample in samples]


def answers(texts, *, prefix="prompt"):
    return [
        Sample(
            prompt=Prompt(f"{prefix} {index}"),
            completions=(Completion(text=text, token_ids=tuple(range(len(text) + 1)), seed=index),),
            columns={},
        )
        for index, text in enumerate(texts)
    ]


def distance(values):
    return Divergence(exact=tuple(values), log_ratios=tuple(values))


NUM = 40
SAMPLES = {
    "policy": answers([f"gg good {index}" for index in range(NUM)]),
    "sft": answers([f"g fine {index}" if index % 2 else f"bad {index}" for index in range(NUM)]),
    "reference": answers([f"bad {index}" for index in range(NUM)]),
}
DISTANCES = {
    "policy": distance([0.5 + index / NUM for index in range(NUM)]),
    "sft": distance([0.2] * NUM),
}


@pytest.fixture(scope="module")
def evaluation():
    return compare(SAMPLES, LengthJudge(), DISTANCES, seed=3, resamples=500)


def test_every_stage_meets_the_reference_and_the_policy_meets_every_stage(evaluation):
    met = [(contest.name, contest.against) for contest in evaluation.contests]
    assert met == [("policy", "reference"), ("sft", "reference"), ("policy", "sft")]
    assert [contest.win_rate.value for contest in evaluation.contests] == [1.0, 0.75, 1.0]
    assert evaluation.contests[1].identical == NUM // 2
    assert evaluation.contests[0].longer_share_of_wins == 1.0


def test_the_report_has_the_agreed_shape(evaluation):
    report = evaluation.to_json()
    json.dumps(report, allow_nan=False)
    assert report["verdict"]["outcome"] == "better"
    assert report["verdict"]["judge"] == "tests:letters"
    assert report["win_rate"] | {"low": 0, "high": 1} == {
        "value": 1.0,
        "low": 0,
        "high": 1,
        "n": NUM,
        "wins": NUM,
        "ties": 0,
        "losses": 0,
        "method": "wilson",
        "confidence": 0.95,
    }
    assert set(report["length_controlled_win_rate"]) == {"value", "low", "high"}
    assert report["reward"] == {"reference": 0.0, "sft": 0.5, "policy": 3.0}
    assert report["reward_interval"]["policy"] == [3.0, 3.0]
    assert set(report["kl"]) == set(report["kl_interval"]) == {"sft", "policy"}
    assert report["kl"]["sft"] == pytest.approx(0.2)
    low, high = report["kl_interval"]["policy"]
    assert low < report["kl"]["policy"] < high
    for name in ("length", "eos_rate", "distinct_2"):
        assert set(report[name]) == {"reference", "sft", "policy"}
    assert [stage["name"] for stage in report["stages"]] == ["reference", "sft", "policy"]
    assert "win_rate" not in report["stages"][0]
    assert report["stages"][1]["win_rate"]["value"] == 0.75


def test_the_same_answers_give_the_same_report(evaluation):
    again = compare(SAMPLES, LengthJudge(), DISTANCES, seed=3, resamples=500)
    assert again.to_json() == evaluation.to_json()


def test_exchanging_policy_and_reference_mirrors_the_win_rate(evaluation):
    turned = {"policy": SAMPLES["reference"], "reference": SAMPLES["policy"]}
    found = compare(turned, LengthJudge(), {"policy": DISTANCES["policy"]}, resamples=500)
    assert found.verdict.outcome == "worse"
    assert found.main.win_rate.value == 1 - evaluation.main.win_rate.value
    assert found.main.reward_difference.value == -evaluation.main.reward_difference.value
    assert found.main.length_controlled.value == pytest.approx(1 - evaluation.main.length_controlled.value)


def rows_of(evaluation, name):
    return [row for row in evaluation.to_json()["samples"] if row["set"] == name]


def test_the_random_rows_depend_on_prompts_and_seed_alone(evaluation):
    keys = [row["key"] for row in rows_of(evaluation, "random")]
    other = {"policy": SAMPLES["reference"], "reference": SAMPLES["sft"]}
    changed = compare(other, LengthJudge(), {"policy": DISTANCES["sft"]}, seed=3, resamples=50)
    assert [row["key"] for row in rows_of(changed, "random")] == keys
    turned = {name: list(reversed(samples)) for name, samples in other.items()}
    backwards = compare(turned, LengthJudge(), {"policy": DISTANCES["sft"]}, seed=3, resamples=50)
    assert [row["key"] for row in rows_of(backwards, "random")] == keys
    reseeded = compare(other, LengthJudge(), {"policy": DISTANCES["sft"]}, seed=4, resamples=50)
    assert [row["key"] for row in rows_of(reseeded, "random")] != keys


def test_the_worst_rows_lost_most_and_the_most_changed_are_furthest():
    texts = [f"ggggg {index}" for index in range(NUM)]
    texts[17], texts[5] = "x", "gg x"
    found = compare(
        {"policy": answers(texts), "reference": answers([f"ggg {index}" for index in range(NUM)])},
        LengthJudge(),
        {"policy": DISTANCES["policy"]},
        resamples=50,
    )
    worst = rows_of(found, "worst")
    assert [row["prompt"] for row in worst[:2]] == ["prompt 17", "prompt 5"]
    assert worst[0]["answers"]["policy"] == {
        "text": "x",
        "reward": 0.0,
        "kl": 0.5 + 17 / NUM,
        "length": 2,
        "finish_reason": "stop",
        "seed": 17,
    }
    assert "kl" not in worst[0]["answers"]["reference"]
    assert rows_of(found, "most_changed")[0]["prompt"] == f"prompt {NUM - 1}"


def test_the_summary_says_it_in_a_few_lines(evaluation):
    text = describe(evaluation)
    assert text.startswith("The policy is better than the reference, judged by tests:letters")
    assert "40 won, 0 tied, 0 lost" in text
    lines = text.splitlines()
    assert any(line.startswith("sft ") and "0.20" in line for line in lines)


@pytest.mark.parametrize(
    ("samples", "fault", "what"),
    [
        ({"policy": SAMPLES["policy"]}, BadConfig, "no reference"),
        ({"reference": SAMPLES["policy"]}, BadConfig, "no policy"),
        (SAMPLES | {"sft": SAMPLES["sft"][::-1]}, BadConfig, "sft and reference answered different prompts"),
        (SAMPLES | {"policy": SAMPLES["policy"][:-1]}, BadConfig, "policy and reference answered"),
        ({name: samples[:1] for name, samples in SAMPLES.items()}, TooFewLabels, "1 prompts"),
    ],
)
def test_what_cannot_be_compared_is_refused(samples, fault, what):
    with pytest.raises(fault, match=what):
        compare(samples, LengthJudge(), DISTANCES, resamples=10)


def test_several_answers_a_prompt_are_refused():
    double = [
        Sample(prompt=one.prompt, completions=one.completions * 2, columns={}) for one in SAMPLES["policy"]
    ]
    with pytest.raises(BadConfig, match="one answer to each prompt"):
        compare(SAMPLES | {"policy": double}, LengthJudge(), DISTANCES, resamples=10)


# --- caveats ------------------------------------------------------------------------------------------


def names(found) -> list[str]:
    return [one.name for one in found]


def test_a_judge_that_was_trained_on_is_a_warning(evaluation):
    assert evaluation.warnings == ()
    found = compare(SAMPLES, LengthJudge(), DISTANCES, trained_on_judge=True, resamples=10)
    assert names(found.warnings) == ["OptimisedProxy"]
    assert "optimised proxy" in found.to_json()["warnings"][0]["what"]
    assert "trained towards" in found.verdict.sentence


def test_a_judge_that_tells_nothing_apart_is_serious():
    def constant(samples):
        return [[1.0] for _ in samples]

    judge = type("Constant", (), {"name": "c", "__call__": lambda self, samples: constant(samples)})()
    found = compare(SAMPLES, judge, DISTANCES, resamples=10)
    assert names(found.warnings) == ["JudgeConstant"]
    assert found.verdict.outcome == "not shown"


def test_stale_answers_are_noticed_by_their_two_estimates():
    stale = Divergence(exact=(2.0,) * NUM, log_ratios=tuple(-1.0 + index / NUM for index in range(NUM)))
    assert names(evaluation_warnings.estimates_disagree({"policy": stale})) == ["KLEstimatesDisagree"]
    assert evaluation_warnings.estimates_disagree({"policy": DISTANCES["policy"]}) == []


def test_answers_not_drawn_from_the_model_itself_are_noticed():
    assert evaluation_warnings.off_distribution(temperature=1.0, top_k=0, top_p=1.0) == []
    for changed in ({"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}):
        settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | changed
        assert names(evaluation_warnings.off_distribution(**settings)) == ["KLOffDistribution"]


def test_many_small_wins_against_a_great_loss_are_noticed():
    loss = Estimate(value=-1.0, low=-2.0, high=-0.1)
    assert names(evaluation_warnings.means_contradict("better", loss)) == ["MeanContradictsWinRate"]
    assert evaluation_warnings.means_contradict("worse", loss) == []
    assert evaluation_warnings.means_contradict("better", Estimate(value=-1.0, low=-2.0, high=0.1)) == []


def statistics(texts):
    return text_statistics([sample.completions[0] for sample in answers(texts)])


def test_a_fixed_opening_and_a_fixed_answer_are_noticed():
    varied = statistics([f"{index} is a number" for index in range(NUM)])
    opened = statistics([f"what a great {index}" for index in range(NUM)])
    assert names(evaluation_warnings.same_opening(opened, varied)) == ["SameOpening"]
    assert evaluation_warnings.same_opening(opened, opened) == []
    same = statistics(["yes"] * 5 + [f"no {index}" for index in range(NUM - 5)])
    assert names(evaluation_warnings.repeated_answer(same, NUM)) == ["RepeatedAnswer"]
    assert evaluation_warnings.repeated_answer(varied, NUM) == []


class SomeJudge(LengthJudge):
    """Has nothing to say of every fourth prompt, and of one answer of the policy."""

    def __call__(self, samples):
        return [
            [None if index % 4 == 0 or one[0].completions[0].text == "gg good 1" else one[1][0]]
            for index, one in enumerate(zip(samples, super().__call__(samples), strict=True))
        ]


def test_prompts_without_a_reward_are_left_out_of_every_model(evaluation):
    kept = [index for index in range(NUM) if index % 4 and index != 1]
    found = compare(SAMPLES, SomeJudge(), DISTANCES, seed=3, resamples=500)
    some = {name: [own[index] for index in kept] for name, own in SAMPLES.items()}
    distances = {name: distance([value.exact[index] for index in kept]) for name, value in DISTANCES.items()}
    expected = compare(some, LengthJudge(), distances, seed=3, resamples=500)
    one, other = found.to_json(), expected.to_json()
    warnings = [warning for warning in one.pop("warnings") if warning not in other["warnings"]]
    other.pop("warnings")
    assert one == other
    (warning,) = warnings
    assert warning["what"] == "tests:letters has no reward for answers to 11 of 40 prompts: left out."
    with pytest.raises(TooFewLabels):
        compare({name: own[:3] for name, own in SAMPLES.items()}, SomeJudge(), DISTANCES)


def test_answers_of_one_word_have_no_variety_of_word_pairs_to_lose():
    words = {"policy": answers(["good"] * NUM), "reference": SAMPLES["reference"]}
    found = compare(words, LengthJudge(), {"policy": DISTANCES["policy"]}, seed=3, resamples=200)
    report = found.to_json()
    assert report["distinct_2"] == {"policy": None, "reference": pytest.approx(1.0)}
    assert report["distinct_1"]["policy"] == 1 / NUM
    (row,) = [line for line in describe(found).splitlines() if line.startswith("policy")]
    assert row.endswith(" %")
    assert "VarietyLost" not in {one.name for one in find_warnings(report)}
