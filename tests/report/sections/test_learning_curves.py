"""Which curves of a policy gradient are drawn together, and which not at all."""

from __future__ import annotations

import pytest

from logratio.report.sections.curves import draw
from logratio.report.sections.learning_curves import panel_groups, share_an_axis
from report.policy_gradient_runs import SETTINGS, report_of

GOLD = "monitored/judge:gold"


def titles(report, *, stage="ppo"):
    return [panel.title for panels in panel_groups(report, stage).values() for panel in panels]


def drawn(report, *, stage="ppo"):
    """Titles of the panels that there is something to draw of."""
    training = report["training"][stage]
    panels = [panel for own in panel_groups(report, stage).values() for panel in own]
    return [panel.title for panel in panels if draw(panel, training) is not None]


def test_a_watched_reward_in_the_same_units_is_drawn_into_the_reward_s_chart():
    report = report_of()
    (first, *_) = panel_groups(report, "ppo")["Reward"]
    assert first.title == "Reward, and what is monitored"
    assert [metric for metric, _, _ in first.metrics] == ["reward", GOLD]
    assert len({style for _, _, style in first.metrics}) == 2
    chart = draw(first, report["training"]["ppo"])
    assert chart.count("<polyline") == 4
    assert "monitored: judge:gold" in chart


def test_a_watched_reward_in_other_units_stands_right_beside_it():
    report = report_of(**{GOLD: lambda done: 40.0 * done})
    first, second, *_ = panel_groups(report, "ppo")["Reward"]
    assert (first.title, second.title) == ("Reward", "Monitored: judge:gold")
    assert [metric for metric, _, _ in second.metrics] == [GOLD]


@pytest.mark.parametrize(
    ("values", "shared"),
    [
        ([0.0, 1.0], True),
        ([0.4, 0.6], True),
        ([0.45, 0.55], False),
        ([2.0, 3.0], True),
        ([9.0, 10.0], False),
        ([0.0, 20.0], False),
        ([], False),
        ([None, 0.5], False),
    ],
)
def test_an_axis_is_shared_where_neither_curve_is_pressed_flat(values, shared):
    assert share_an_axis({"one": [0.0, 1.0], "other": values}, "one", "other") is shared
    assert share_an_axis({"one": values, "other": [0.0, 1.0]}, "one", "other") is shared


def test_one_reward_is_drawn_once_and_named():
    report = report_of(without=("reward/mod:short", GOLD))
    assert titles(report).count("Reward") == 1
    assert "mod:kind" not in titles(report)
    assert "mod:kind" in panel_groups(report, "ppo")["Reward"][0].note


def test_both_estimates_of_the_kl_are_in_one_chart():
    (panel, *_) = panel_groups(report_of(), "ppo")["Distance from the reference"]
    assert [metric for metric, _, _ in panel.metrics] == ["reference_log_ratio", "reference_kl"]
    (alone, *_) = panel_groups(report_of(without=("reference_log_ratio",)), "ppo")[
        "Distance from the reference"
    ]
    assert [metric for metric, _, _ in alone.metrics] == ["reference_kl"]


def test_what_says_nothing_is_not_drawn():
    everything = drawn(report_of(local_kl_loss=0.1))
    for title in ("Objective", "Prompts without spread", "Local KL loss", "Clip fraction", "Effective share"):
        assert title in everything
    assert "Local KL loss" not in drawn(report_of())
    assert "Prompts without spread" not in drawn(report_of(constant_groups=0.0))
    assert "Prompts without spread" in drawn(report_of(constant_groups=lambda done: float(done == 1.0)))
    assert "Objective" not in drawn(report_of(objective=0.5, reward=0.5))
    assert "Clip fraction" not in drawn(report_of(settings={**SETTINGS, "clip_range": 0.0}))
    one_step = drawn(
        report_of(stage="reinforce", ratio_deviation=2e-7, effective_share=1.0), stage="reinforce"
    )
    assert not {"Ratio deviation", "Effective share"} & set(one_step)


def test_every_group_has_something_to_draw_in_a_healthy_run():
    report = report_of()
    for panels in panel_groups(report, "ppo").values():
        assert any(draw(panel, report["training"]["ppo"]) for panel in panels)
