"""The page of `train ppo` and `train reinforce`: what is shown, and what each bad run is warned of."""

from __future__ import annotations

import math

import pytest

from logratio.report import collect, render
from logratio.report.sections.policy_gradient import policy_gradient_section
from logratio.report.warnings.policy_gradient import CHECKS, find_warnings
from report import run_directories
from report.policy_gradient_runs import (
    SETTINGS,
    by_name,
    changed_rows,
    healthy_rows,
    noisy,
    raised,
    report_of,
    write_run,
)

GOLD = "monitored/judge:gold"
STOPPED = {"stopped": "the KL to the reference is 60.0 nats per answer (limit 50)", "best_checkpoint": 20}


BAD = {
    "PolicyRunaway": ({"summary": STOPPED}, {}),
    "RewardFell": ({"reward": lambda done: 0.5 - 0.3 * done}, {"reward": lambda done: 0.5}),
    "RewardConstant": (
        {"reward_std": lambda done: 0.0 if done > 0.9 else 0.2},
        {"reward_std": lambda done: 1e-6},
    ),
    "RewardOveroptimised": ({GOLD: noisy(lambda done: 0.3)}, {GOLD: lambda done: 0.3 + 0.1 * done}),
    "GroupsWithoutSpread": ({"constant_groups": 0.81}, {"constant_groups": 0.79}),
    "GradientMostlyNoise": ({"gradient_signal": 0.09}, {"gradient_signal": 0.11}),
    "ReferenceKLTooHigh": (
        {"reference_kl": 12.1, "reference_log_ratio": 12.1},
        {"reference_kl": 11.9, "reference_log_ratio": 11.9},
    ),
    "KLCoefficientDrifted": (
        {"kl_coefficient": lambda done: 0.05 if done < 0.5 else 0.51},
        {"kl_coefficient": lambda done: 0.05 if done < 0.5 else 0.49},
    ),
    "KLEstimatesDisagree": (
        {"reference_log_ratio": lambda done: 4.0 * done},
        {"reference_log_ratio": lambda done: 6.0 * done},
    ),
    "UpdateTooLarge": ({"update_kl": 0.031}, {"update_kl": 0.029}),
    "ClipTooActive": ({"clip_fraction": 0.21}, {"clip_fraction": 0.19}),
    "ClipNeverActive": (
        {"clip_fraction": 0.0},
        {"clip_fraction": lambda done: 0.001 if done == 1.0 else 0.0},
    ),
    "RatioFarFromOne": ({"ratio_deviation": 4.1}, {"ratio_deviation": 3.9}),
    "FewEffectiveSamples": ({"effective_share": 0.49}, {"effective_share": 0.51}),
    "CriticExplainsNothing": ({"explained_variance": 0.0}, {"explained_variance": 0.01}),
    "EntropyLost": (
        {"entropy": lambda done: 3.0 if done < 0.5 else 1.4},
        {"entropy": lambda done: 3.0 if done < 0.5 else 1.6},
    ),
    "AnswersCutOff": ({"ended": 0.79}, {"ended": 0.81}),
    "AnswerLengthChanged": (
        {"answer_tokens": lambda done: 30.0 if done < 0.5 else 46.0},
        {"answer_tokens": lambda done: 30.0 if done < 0.5 else 44.0},
    ),
    "RepetitionRose": (
        {"repetition": lambda done: 0.05 if done < 0.5 else 0.21},
        {"repetition": lambda done: 0.05 if done < 0.5 else 0.19},
    ),
}


def test_every_check_has_a_good_and_a_bad_case():
    assert len(CHECKS) == len(BAD)


@pytest.mark.parametrize("name", BAD)
def test_threshold(name):
    bad, good = BAD[name]
    assert raised(report_of(**good)) == set()
    assert raised(report_of(**bad)) == {name}
    finding = by_name(report_of(**bad))[name]
    for sentence in (finding.threshold, finding.what, finding.meaning, finding.action):
        assert len(sentence) > 5
        # Sentences put together from parts have one space between them.
        assert "  " not in sentence
    assert math.isfinite(finding.value)


@pytest.mark.parametrize(
    ("name", "metric", "common", "outlier"),
    [
        ("AnswersCutOff", "ended", 0.9, 0.0),
        ("AnswerLengthChanged", "answer_tokens", 30.0, 300.0),
        ("EntropyLost", "entropy", 3.0, 300.0),
        ("RepetitionRose", "repetition", 0.1, 1.0),
        ("ReferenceKLTooHigh", "reference_kl", 6.0, 60.0),
        ("GroupsWithoutSpread", "constant_groups", 0.5, 1.0),
    ],
)
def test_an_update_weighs_as_many_prompts_as_it_has(name, metric, common, outlier):
    # 17 prompts in batches of 16: every second update is of one prompt.
    def value(done):
        return common if round(40 * done) % 2 else outlier

    report = report_of(summary={"examples": 17}, **{metric: value})
    first = (3 * 16 * common + 2 * outlier) / 50
    last = (2 * 16 * common + 3 * outlier) / 35
    ratio = name in ("AnswerLengthChanged", "EntropyLost")
    assert by_name(report)[name].value == pytest.approx(last / first if ratio else last)


def test_the_table_weighs_an_update_by_its_prompts():
    report = report_of(
        summary={"examples": 17}, answer_tokens=lambda done: 30.0 if round(40 * done) % 2 else 65.0
    )
    assert "<td>33 </td>" in policy_gradient_section(report).body


@pytest.mark.parametrize("stage", ["ppo", "reinforce"])
def test_a_healthy_run_raises_nothing(stage):
    assert raised(report_of(stage=stage)) == set()
    # What belongs to PPO alone is not there for REINFORCE.
    assert len(find_warnings(report_of(stage=stage))) == len(CHECKS) - 4 * (stage == "reinforce")


@pytest.mark.parametrize(
    ("name", "metric", "bad", "good"),
    [
        ("UpdateTooLarge", "update_kl", 0.05, 0.0),
        ("ClipTooActive", "clip_fraction", 0.3, 0.01),
        ("RatioFarFromOne", "ratio_deviation", 6.0, 0.0),
        ("FewEffectiveSamples", "effective_share", 0.3, 1.0),
    ],
)
def test_large_updates_are_not_forgotten_where_the_learning_rate_falls_to_zero(name, metric, bad, good):
    early = report_of(count=100, **{metric: lambda done: bad if 0.2 < done <= 0.32 else good})
    assert raised(early) == {name}
    assert by_name(early)[name].value == pytest.approx(bad + (metric == "ratio_deviation"))
    a_moment = report_of(count=100, **{metric: lambda done: bad if 0.2 < done <= 0.22 else good})
    assert raised(a_moment) == set()


def test_what_is_not_measured_is_not_judged():
    assert find_warnings({}) == []
    assert find_warnings({"training": {"ppo": {"curves": {"reward": [0.1, None]}}}}) == []
    assert "UpdateTooLarge" not in by_name(report_of(settings={}, update_kl=1.0))
    assert find_warnings(report_of(stage="dpo")) == []


def test_a_run_without_a_critic_is_not_blamed_for_it():
    without = report_of(stage="reinforce", explained_variance=0.0)
    assert "CriticExplainsNothing" not in by_name(without)
    with_critic = report_of(stage="reinforce", value_loss=0.1, explained_variance=-0.2)
    assert raised(with_critic) == {"CriticExplainsNothing"}


def test_a_critic_has_time_to_learn():
    report = report_of(count=9, explained_variance=-0.1)
    assert "CriticExplainsNothing" not in by_name(report)
    early = report_of(explained_variance=lambda done: -0.4 if done < 0.5 else 0.3)
    assert raised(early) == set()


def test_a_clip_that_is_turned_off_is_not_judged():
    report = report_of(clip_fraction=0.0, settings=SETTINGS | {"clip_range": 0.0})
    assert not {"ClipTooActive", "ClipNeverActive"} & set(by_name(report))
    one_step = report_of(clip_fraction=0.0, optimiser_steps=1.0)
    assert "ClipNeverActive" not in by_name(one_step)


def test_what_to_do_about_few_samples_is_what_the_trainer_has_flags_for():
    said = {stage: by_name(report_of(stage=stage))["FewEffectiveSamples"].action for stage in SAID_OF}
    for stage, flags in SAID_OF.items():
        assert [flag for flag in flags if flag not in said[stage]] == []
    assert "--weights" not in said["ppo"]
    assert "--update-epochs" not in said["reinforce"]


SAID_OF = {"ppo": ("--update-epochs", "--learning-rate"), "reinforce": ("--minibatches", "--weights token")}


def test_answers_that_repeated_themselves_from_the_start_are_not_new():
    assert raised(report_of(repetition=lambda done: 0.15 if done < 0.5 else 0.29)) == set()
    assert raised(report_of(repetition=lambda done: 0.15 if done < 0.5 else 0.31)) == {"RepetitionRose"}


@pytest.mark.parametrize(
    ("name", "changed", "severity"),
    [
        ("ReferenceKLTooHigh", {"reference_kl": 51.0, "reference_log_ratio": 51.0}, "serious"),
        ("ClipTooActive", {"clip_fraction": 0.41}, "serious"),
        ("RatioFarFromOne", {"ratio_deviation": 9.1}, "serious"),
        ("FewEffectiveSamples", {"effective_share": 0.09}, "serious"),
        ("CriticExplainsNothing", {"explained_variance": -0.6}, "serious"),
        ("EntropyLost", {"entropy": lambda done: 3.0 if done < 0.5 else 0.05}, "serious"),
        ("AnswersCutOff", {"ended": lambda done: 0.9 if done < 0.5 else 0.4}, "serious"),
        ("AnswersCutOff", {"ended": 0.4}, "warning"),
        ("RepetitionRose", {"repetition": lambda done: 0.1 if done < 0.5 else 0.51}, "serious"),
        ("RewardConstant", {"reward_std": lambda done: 0.0 if done > 0.95 else 0.2}, "note"),
        ("RewardConstant", {"reward_std": lambda done: 0.0 if done > 0.8 else 0.2}, "warning"),
        ("RewardConstant", {"reward_std": 0.0}, "serious"),
        ("GroupsWithoutSpread", {"constant_groups": 0.99}, "warning"),
        ("GroupsWithoutSpread", {"constant_groups": 1.0}, "serious"),
    ],
)
def test_severity_rises_with_the_number(name, changed, severity):
    finding = by_name(report_of(**changed))[name]
    assert finding.raised
    assert finding.severity == severity


def test_the_target_where_a_stop_leaves_steps_out_is_said():
    stopped = by_name(report_of(update_kl=0.05))["UpdateTooLarge"]
    free = by_name(report_of(update_kl=0.05, settings=SETTINGS | {"early_stop_factor": 0.0}))[
        "UpdateTooLarge"
    ]
    assert "left out" in stopped.meaning
    assert "left out" not in free.meaning


# --- the page ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["ppo", "reinforce"])
def test_everything_that_matters_is_on_the_page(tmp_path, stage):
    page = render(write_run(tmp_path / "run", healthy_rows(stage=stage))).read_text()
    wanted = ["mod:kind", "mod:short", "KL to the reference", "KL coefficient", "Entropy", "Tokens an answer"]
    wanted += ["Ended by themselves", "Ratio deviation", "Effective share", "Counts 0.5 times"]
    wanted += ["near 6 nats per answer", "Monitored: judge:gold", "Objective", "Prompts without spread"]
    wanted += ["Gradient signal", "KL by the tokens drawn", "Repetition", "Distance from the reference"]
    ppo_only = ["KL of an update", "Clip fraction", "Explained variance", "up to 0.02 nats per token"]
    for text in [*wanted, *(ppo_only if stage == "ppo" else [])]:
        assert text in page, text
    for text in ppo_only if stage == "reinforce" else []:
        assert text not in page, text
    # The section's charts and those of the optimiser, each with its picture.
    assert page.count("<figure") == page.count('class="chart"') >= 16


def test_the_table_says_which_check_was_raised(tmp_path):
    rows = changed_rows(ended=0.3)
    report = collect(write_run(tmp_path / "run", rows))
    page = policy_gradient_section(report).to_html()
    assert page.count('href="#warnings"') == 1
    assert "30.0\u00a0%" in page
    assert {one["name"] for one in report["warnings"]} == {"AnswersCutOff"}


def test_a_run_that_stopped_by_itself_says_so_at_the_top(tmp_path):
    run = write_run(tmp_path / "run", changed_rows(37), summary=STOPPED | {"updates": 120})
    report = collect(run)
    assert report["training"]["ppo"]["updates"] == 37
    page = render(run).read_text()
    top = page[: page.index("What was learned from reward</h2>")]
    assert "ppo stopped by itself after 37 updates: the KL to the reference is 60.0 nats" in top
    assert "1 serious" in top
    assert "37 updates</small>" in page


def test_two_stages_are_told_apart_and_none_leaves_the_section_out():
    both = report_of()
    both["training"] |= report_of(stage="reinforce", ended=0.3)["training"]
    page = policy_gradient_section(both).to_html()
    assert page.index("REINFORCE") < page.index("PPO")
    assert page.count('href="#warnings"') == 1
    assert policy_gradient_section({"training": {"dpo": {"curves": {"loss": [1.0]}}}}) is None
    assert policy_gradient_section({}) is None


@pytest.mark.parametrize("kind", ["reward", "monitored"])
def test_names_of_rewards_are_text(kind):
    report = report_of(**{f"{kind}/<script>x": lambda done: done})
    page = policy_gradient_section(report).to_html()
    assert "<script>" not in page
    assert "&lt;script&gt;x" in page


def test_only_the_watched_reward_that_stays_behind_is_linked_to_the_warning():
    report = report_of(**{"monitored/flat": noisy(lambda done: 0.3)})
    page = policy_gradient_section(report).to_html()
    row = page[page.index("Monitored: flat") : page.index("Monitored: flat") + 200]
    assert page.count('href="#warnings"') == 1
    assert 'href="#warnings"' in row


def test_a_reward_that_was_only_watched_is_not_a_check_of_other_trainers():
    rows = [row | {GOLD: 0.1} for row in run_directories.dpo_rows(20)]
    curves = {name: [row[name] for row in rows] for name in rows[0] if name != "stage"}
    assert find_warnings({"training": {"dpo": {"curves": curves}}}) == []
