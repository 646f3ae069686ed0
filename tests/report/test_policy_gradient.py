"""The page of `train ppo` and `train reinforce`: what is shown, and what each bad run is warned of."""

from __future__ import annotations

import json
import math

import pytest

from logratio.report import collect, render
from logratio.report.checks.policy_gradient import CHECKS, findings
from logratio.report.sections.policy_gradient import panels, policy_gradient_section
from report import made_run

SETTINGS = {"target_update_kl": 0.02, "clip_range": 0.2, "stop_at": 1.5, "target_kl": 6.0}
REWARDS = [{"name": "mod:kind", "weight": 1.0}, {"name": "mod:short", "weight": 0.5}]


def ppo_rows(count=40, *, stage="ppo"):
    """A healthy run: every number as it should be."""
    rows = []
    for step in range(1, count + 1):
        done, wave = step / count, math.sin(7.0 * step)
        kind, short = 0.2 + 0.5 * done + 0.02 * wave, -0.3 + 0.01 * wave
        rows.append(
            {
                "stage": stage,
                "step": step,
                "policy_loss": 0.02 * wave,
                "reward/mod:kind": kind,
                "reward/mod:short": short,
                "reward": kind + 0.5 * short,
                "reward_std": 0.2,
                "reference_kl": 6.0 * done,
                "kl_coefficient": 0.05 + 0.01 * done,
                "entropy": 3.0 - 0.5 * done,
                "answer_tokens": 30.0 + wave,
                "ended": 0.95,
                "ratio_deviation": 0.6,
                "gradient_norm": 1.0,
                "learning_rate": 1e-5,
                "seconds": 1.0,
            }
        )
        if stage == "ppo":
            rows[-1] |= {
                "update_kl": 0.012,
                "clip_fraction": 0.06,
                "explained_variance": 0.6 * done,
                "value_loss": 0.1,
                "optimiser_steps": 16.0,
            }
        else:
            # As train reinforce logs it without a critic.
            rows[-1] |= {"effective_share": 0.9, "explained_variance": 0.0}
    return rows


def write_run(path, rows, *, settings=SETTINGS):
    made_run.write_training(path, rows, laws=[])
    (path / "config.json").write_text(json.dumps({"settings": settings, "identity": {"rewards": REWARDS}}))
    return path


def report_of(*, stage="ppo", settings=SETTINGS, count=40, **changed):
    """The healthy run with some curves replaced, each by a number or by a function of the share done."""
    rows = ppo_rows(count, stage=stage)
    for row in rows:
        for name, value in changed.items():
            row[name] = value(row["step"] / count) if callable(value) else value
    curves = {name: [row.get(name) for row in rows] for name in rows[0] if name != "stage"}
    config = {"settings": settings, "identity": {"rewards": REWARDS}}
    return {"training": {stage: {"curves": curves, "settings": config, "updates": count}}}


def by_name(report):
    return {finding.name: finding for finding in findings(report)}


def raised(report):
    return {name for name, finding in by_name(report).items() if finding.raised}


BAD = {
    "RewardFell": ({"reward": lambda done: 0.5 - 0.3 * done}, {"reward": lambda done: 0.5}),
    "RewardConstant": (
        {"reward_std": lambda done: 0.0 if done > 0.9 else 0.2},
        {"reward_std": lambda done: 1e-6},
    ),
    "ReferenceKLTooHigh": ({"reference_kl": 12.1}, {"reference_kl": 11.9}),
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
    assert math.isfinite(finding.value)


@pytest.mark.parametrize("stage", ["ppo", "reinforce"])
def test_a_healthy_run_raises_nothing(stage):
    assert raised(report_of(stage=stage)) == set()


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
    assert findings({}) == []
    assert findings({"training": {"ppo": {"curves": {"reward": [0.1, None]}}}}) == []
    assert "UpdateTooLarge" not in by_name(report_of(settings={}, update_kl=1.0))
    assert findings(report_of(stage="dpo")) == []


def test_a_run_without_a_critic_is_not_blamed_for_it():
    assert "CriticExplainsNothing" not in by_name(report_of(stage="reinforce"))
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


def test_without_a_target_the_kl_is_held_against_what_evaluation_warns_at():
    settings = SETTINGS | {"target_kl": 0.0}
    assert raised(report_of(settings=settings, reference_kl=29.0)) == set()
    assert raised(report_of(settings=settings, reference_kl=31.0)) == {"ReferenceKLTooHigh"}


@pytest.mark.parametrize(
    ("name", "changed", "severity"),
    [
        ("ReferenceKLTooHigh", {"reference_kl": 51.0}, "serious"),
        ("ClipTooActive", {"clip_fraction": 0.41}, "serious"),
        ("RatioFarFromOne", {"ratio_deviation": 9.1}, "serious"),
        ("FewEffectiveSamples", {"effective_share": 0.09}, "serious"),
        ("CriticExplainsNothing", {"explained_variance": -0.6}, "serious"),
        ("EntropyLost", {"entropy": lambda done: 3.0 if done < 0.5 else 0.05}, "serious"),
        ("AnswersCutOff", {"ended": lambda done: 0.9 if done < 0.5 else 0.4}, "serious"),
        ("AnswersCutOff", {"ended": 0.4}, "warning"),
        ("RewardConstant", {"reward_std": lambda done: 0.0 if done > 0.95 else 0.2}, "note"),
        ("RewardConstant", {"reward_std": lambda done: 0.0 if done > 0.8 else 0.2}, "warning"),
        ("RewardConstant", {"reward_std": 0.0}, "serious"),
    ],
)
def test_severity_rises_with_the_number(name, changed, severity):
    finding = by_name(report_of(**changed))[name]
    assert finding.raised
    assert finding.severity == severity


def test_noise_is_no_fall_of_the_reward():
    noisy = report_of(reward=lambda done: 0.3 - 0.02 * done + 0.2 * math.sin(900 * done))
    assert raised(noisy) == set()


def test_the_target_where_a_stop_leaves_steps_out_is_said():
    stopped = by_name(report_of(update_kl=0.05))["UpdateTooLarge"]
    free = by_name(report_of(update_kl=0.05, settings=SETTINGS | {"stop_at": 0.0}))["UpdateTooLarge"]
    assert "left out" in stopped.meaning
    assert "left out" not in free.meaning


@pytest.mark.parametrize("stage", ["ppo", "reinforce"])
def test_everything_that_matters_is_on_the_page(tmp_path, stage):
    page = render(write_run(tmp_path / "run", ppo_rows(stage=stage))).read_text()
    wanted = ["mod:kind", "mod:short", "KL to the reference", "KL coefficient", "Entropy", "Tokens an answer"]
    wanted += ["Ended by themselves", "Ratio deviation", "Counts 0.5 times", "near 6 nats an answer"]
    ppo_only = ["KL of an update", "Clip fraction", "Explained variance", "up to 0.02 nats a token"]
    for text in [*wanted, *(ppo_only if stage == "ppo" else ["Effective share"])]:
        assert text in page, text
    for text in ppo_only if stage == "reinforce" else ["Effective share"]:
        assert text not in page, text
    # The section's charts and those of the optimiser, each with its picture.
    assert page.count("<figure") == page.count('class="chart"') >= 12


def test_the_table_says_which_check_was_raised(tmp_path):
    rows = [row | {"ended": 0.3} for row in ppo_rows()]
    report = collect(write_run(tmp_path / "run", rows))
    page = policy_gradient_section(report).to_html()
    assert page.count('href="#warnings"') == 1
    assert "30.0\u00a0%" in page
    assert {one["name"] for one in report["warnings"]} == {"AnswersCutOff"}


def test_one_reward_is_drawn_once_and_named():
    report = report_of()
    del report["training"]["ppo"]["curves"]["reward/mod:short"]
    titles = [panel.title for panel in panels(report, "ppo")]
    assert titles.count("Reward") == 1
    assert "mod:kind" not in titles
    assert "mod:kind" in panels(report, "ppo")[0].note


def test_two_stages_are_told_apart_and_none_leaves_the_section_out():
    both = report_of()
    both["training"] |= report_of(stage="reinforce", ended=0.3)["training"]
    page = policy_gradient_section(both).to_html()
    assert page.index("REINFORCE") < page.index("PPO")
    assert page.count('href="#warnings"') == 1
    assert policy_gradient_section({"training": {"dpo": {"curves": {"loss": [1.0]}}}}) is None
    assert policy_gradient_section({}) is None


def test_names_of_rewards_are_text():
    report = report_of(**{"reward/<script>x": 0.1})
    page = policy_gradient_section(report).to_html()
    assert "<script>" not in page
    assert "&lt;script&gt;x" in page
