"""The picture on which DPO, PPO and best-of-n stand, and the table beneath it."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree

import pytest

from logratio.report import render
from logratio.report.sections.answers import answers_section
from logratio.report.sections.frontier import frontier_section
from logratio.report.sections.pairwise_counts import head_to_head_section
from logratio.report.sections.steps import steps_section
from logratio.report.sections.verdict import verdict_section
from logratio.report.stages import stage_label, stage_names, stage_rows, stage_style
from report import run_directories


def report(**changes):
    found = run_directories.evaluation(**changes)
    return found | {"stages": stage_rows(found)}


@pytest.fixture
def beside_ppo():
    return report(**run_directories.beside_ppo())


def picture(found):
    markup = frontier_section(found).to_html()
    charts = [
        ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", markup) if "KL to the" in one
    ]
    return charts[0], re.sub(r"<[^>]+>", "", markup.replace("\u00a0", " "))


def labels(chart, style):
    return [text.text for text in chart.iter("text") if style in text.get("class").split()]


def lines(chart, style):
    return [one for one in chart.iter("polyline") if style in one.get("class").split()]


def test_the_policy_is_dpo_where_ppo_stands_beside_it():
    assert stage_label("policy") == stage_label("policy", ["reference", "sft", "policy"]) == "Policy"
    assert stage_label("policy", ["reference", "ppo", "policy"]) == "DPO"
    assert [stage_label(name, ["ppo"]) for name in ("ppo", "sft", "other")] == ["PPO", "After SFT", "other"]
    assert [stage_style(name) for name in ("reference", "sft", "ppo", "policy")] == [
        "reference",
        "between",
        "ppo",
        "policy",
    ]


def test_every_part_of_the_page_calls_it_so(beside_ppo):
    assert stage_names(beside_ppo) == ["reference", "sft", "ppo", "policy"]
    for make in (steps_section, head_to_head_section, answers_section, frontier_section):
        text = re.sub(r"<[^>]+>", " ", make(beside_ppo).body)
        assert "DPO" in text
        assert "PPO" in text
        assert "Policy" not in text
        assert "DPO" not in re.sub(r"<[^>]+>", " ", make(report()).body)
    assert "DPO against PPO" in head_to_head_section(beside_ppo).body
    assert "DPO; PPO has been judged beside it" in verdict_section(beside_ppo).body
    assert "PPO" not in verdict_section(report()).body


def test_methods_best_of_n_and_bound_are_on_one_picture(beside_ppo):
    chart, text = picture(beside_ppo)
    assert set(labels(chart, "point-label")) == {"Reference", "After SFT", "PPO", "DPO"}
    assert labels(chart, "step-label")[0] == "best of 16"
    assert set(labels(chart, "step-label")) == {"2", "4", "8", "best of 16"}
    assert [len(lines(chart, style)) for style in ("edge", "band", "trace", "trail")] == [1, 1, 1, 2]
    for wanted in (
        "the most reward at that KL",
        "best of n: KL at most",
        "No policy can lie above the line, found from 512 answers of the reference to each of 24 prompts",
        "it ends where these are too few",
        "has a KL of at most what is drawn",
        "the axis is stretched near 0",
        "Compare methods at equal KL",
    ):
        assert wanted in text
    notes = [one.text for one in chart.iter("title")]
    assert "best of 4: reward 0.427, KL at most 0.636" in notes
    assert any(note.endswith("effective samples") for note in notes)
    name = chart.get("aria-label")
    assert "DPO reward 0.448 at KL 4.37" in name
    assert "best of 16: reward 0.522, KL at most 1.84" in name


def test_both_methods_go_out_from_what_they_start_from(beside_ppo):
    chart, _ = picture(beside_ppo)
    ways = [one.get("points").split() for one in lines(chart, "trail")]
    assert [len(way) for way in ways] == [3, 3]
    assert ways[0][:2] == ways[1][:2]
    assert ways[0][2] != ways[1][2]


def test_a_report_without_a_frontier_is_drawn_as_before():
    found = report()
    chart, text = picture(found)
    assert set(labels(chart, "point-label")) == {"Reference", "After SFT", "Policy"}
    assert [len(lines(chart, style)) for style in ("edge", "trace", "trail")] == [0, 0, 1]
    assert "stretched" not in text
    assert "Compare methods" not in text
    assert "picture" not in frontier_section(found).body


@pytest.mark.parametrize("gone", ["best_of_n", "upper_bound"])
def test_what_was_not_measured_is_not_spoken_of(beside_ppo, gone):
    beside_ppo["frontier"][gone] = []
    chart, text = picture(beside_ppo)
    assert len(lines(chart, "trace")) + len(lines(chart, "edge")) == 1
    assert ("at most what is drawn" in text) == (gone != "best_of_n")
    assert ("No policy can lie above" in text) == (gone != "upper_bound")


def test_the_table_says_that_best_of_n_s_kl_is_a_bound(beside_ppo):
    _, text = picture(beside_ppo)
    table = text[text.index("Methods side by side") :]
    for wanted in ("DPO64.1 %", "PPO69.4 %", "Best of 1668.1 %", "0.512 to 0.609", "5.70 to 6.72"):
        assert wanted in table
    assert "at most 1.84a bound, not a measurement" in table
    assert table.index("DPO") < table.index("PPO69") < table.index("Best of 16")
    assert "Methods side by side" not in frontier_section(report()).body


def test_a_table_without_a_picture_stands_alone():
    found = {"methods": run_directories.methods()}
    assert "Methods side by side" in frontier_section(found).body
    assert frontier_section({}) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found["frontier"].update(best_of_n=None, upper_bound=None),
        lambda found: found["frontier"]["best_of_n"][0].update(reward=None, kl_bound="<b>"),
        lambda found: found["frontier"]["best_of_n"][1].update(n="<script>alert(1)</script>"),
        lambda found: found["frontier"]["upper_bound"][0].update(kl=None),
        lambda found: found["frontier"].update(prompts=None, samples_a_prompt="<b>"),
        lambda found: found.update(frontier=[]),
        lambda found: found.update(methods={"dpo": None, "ppo": {"reward": None, "kl": "x"}}),
        lambda found: found.update(methods=[1]),
    ],
)
def test_numbers_that_are_missing_or_hostile_do_no_harm(tmp_path, spoil):
    changes = copy.deepcopy(run_directories.beside_ppo())
    spoil(changes)
    text = render(run_directories.write_quickstart(tmp_path / "run", **changes)).read_text()
    assert "<script" not in text
    assert 'id="frontier"' in text
