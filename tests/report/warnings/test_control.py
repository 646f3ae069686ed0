"""The page of a run in an environment, and of several: what is drawn, what is said, and what is warned of."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from logratio.report import collect, render
from logratio.report.control_runs import alone, natural, runs_of, stage_of
from logratio.report.page import page
from logratio.report.sections.control import control_section, headline
from logratio.report.sections.control_course import control_course_section, draw
from logratio.report.sections.control_panels import panel_groups
from logratio.report.sections.returns import distribution, learning_curve, returns_of
from logratio.report.video import LARGEST, with_film
from logratio.report.warnings.control import find_warnings
from logratio.report.warnings.warning import ReportWarning
from report import control_runs
from report.control_runs import judged, rows

MEANS = {0: 300.0, 1: 420.0, 10: 480.0, 2: 390.0, 3: 410.0}


@pytest.fixture
def one(tmp_path):
    return control_runs.write_one(tmp_path / "one", rows(), seed=4)


@pytest.fixture
def several(tmp_path):
    runs = {seed: (mean, rows(seed=seed)) for seed, mean in MEANS.items()}
    return control_runs.write_several(tmp_path / "several", runs)


def panels_of(report, stage="ppo"):
    name = next(iter(runs_of(report)))
    return {
        panel.title: panel for panels in panel_groups(alone(report, name), stage).values() for panel in panels
    }


def drawn(report):
    """Titles of the charts that there is something to draw of."""
    curves = [(name, run["curves"]) for name, run in runs_of(report).items()]
    return [title for title, panel in panels_of(report).items() if draw(panel, curves) is not None]


def raised(report) -> dict[str, ReportWarning]:
    return {finding.name: finding for finding in find_warnings(report) if finding.raised}


def texts(markup):
    return re.sub(r"<[^>]*>", " ", markup)


# --- which runs there are ---------------------------------------------------------------------------


def test_runs_of_seeds_go_by_their_directories_in_the_order_of_their_numbers(several):
    report = collect(several)
    assert list(report["training"]) == ["seed-0", "seed-1", "seed-2", "seed-3", "seed-10"]
    assert {stage_of(run) for run in runs_of(report).values()} == {"ppo"}
    assert sorted(["seed-10", "seed-9", "seed-2"], key=natural) == ["seed-2", "seed-9", "seed-10"]


def test_the_only_seed_that_is_done_is_not_taken_for_a_run_alone(tmp_path):
    path = control_runs.write_several(tmp_path / "runs", {3: (300.0, rows())})
    assert list(collect(path)["training"]) == ["seed-3"]


def test_one_run_of_several_is_looked_at_as_if_it_were_alone(several):
    report = collect(several)
    own = alone(report, "seed-10")
    assert own["evaluation"]["mean_return"] == MEANS[10]
    assert own["training"]["ppo"] is report["training"]["seed-10"]


# --- the return -------------------------------------------------------------------------------------


def test_the_number_of_a_run_stands_at_the_top(one):
    report = collect(one)
    assert headline(report) == ("300.0 ± 10.0", "mean return of 2 episodes, seed 4")
    said = texts(control_section(report).to_html())
    for number in ("300.0", "295.0", "10.0"):
        assert number in said


def test_the_number_of_several_runs_is_their_interquartile_mean(several):
    value, what = headline(collect(several))
    assert value == "400.0"
    assert "interquartile mean of the return over 5 runs" in what
    assert "300.0 to 480.0" in what


def test_several_runs_are_one_table_with_a_row_each_that_leads_to_its_page(several):
    section = control_section(collect(several)).to_html()
    assert re.findall(r'href="(seed-\d+)/report.html"', section) == [f"seed-{seed}" for seed in MEANS]
    root = ElementTree.fromstring(re.search(r"<table>.*?</table>", section)[0])
    table = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert table[0] == ["Run", "Most probable actions", "Drawn actions", "Episodes"]
    assert table[1] == ["Seed 0", "300.0± 10.0", "295.0± 10.0", "2"]
    assert table[-1] == ["Mean of the runs", "400.0", "395.0", ""]


def test_the_learning_curve_of_a_run_is_one_line_over_environment_steps(one):
    svg = learning_curve(collect(one))
    assert svg.count("<polyline") == 1
    assert "environment steps" in svg
    assert "band" not in svg
    # From 20 + 400/40 at 256 steps to 420 at 40 · 256.
    assert "256: return 30<" in svg
    assert "Return while training, from 30 to 420" in svg


def test_the_learning_curves_of_several_runs_are_one_picture(several):
    """Five thin lines, their mean, and the band of its interval."""
    svg = learning_curve(collect(several))
    assert svg.count("<svg") == 1
    assert svg.count('class="line a raw"') == 5
    assert svg.count('class="line a"') == 1
    assert svg.count('class="band a"') == 1
    assert "mean of the 5 runs" in svg


def test_a_run_under_way_has_its_curve_and_says_that_nothing_is_judged(tmp_path):
    report = collect(control_runs.write_one(tmp_path / "run", rows(20), mean=None))
    section = control_section(report).to_html()
    assert "Nothing has been judged yet" in section
    assert section.count("<polyline") == 1
    assert "ppo has not finished: 20 updates are logged" in page(report, name="run")


def test_returns_of_both_ways_of_acting_are_drawn_over_one_another(several):
    evaluation = collect(several)["evaluation"]
    assert len(returns_of(evaluation, "stochastic")) == 10
    assert max(returns_of(evaluation, "deterministic")) == 490.0
    svg = distribution(evaluation)
    assert svg.count('class="edge"') == 2
    assert "Of all 5 runs together" in svg
    assert svg.index("Drawn actions, ") < svg.index("Most probable actions, ")


def test_returns_that_are_all_the_same_are_a_sentence():
    evaluation = {name: {"returns": [500.0] * 3} for name in ("deterministic", "stochastic")}
    assert "Every one of the 6 episodes earned 500." in distribution(evaluation)
    assert distribution({}) is None


# --- how training went ------------------------------------------------------------------------------


def test_every_chart_has_a_title_a_unit_and_a_sentence(one):
    """No metric's bare name is left on the page."""
    report = collect(one)
    titles = drawn(report)
    for title in ("KL of an update", "Clip fraction", "Explained variance", "Entropy", "Learning rate"):
        assert title in titles
    assert {"Critic's loss", "Gradient norm", "Policy loss", "Speed"} <= set(titles)
    assert all(len(panel.note) > 30 for panel in panels_of(report).values())
    said = texts(control_course_section(report).to_html())
    for metric in control_runs.rows(1)[0]:
        assert "_" not in metric or metric not in said
    assert said.count("environment steps") == len(titles)
    assert "nats per action" in said
    assert not re.search(r"token|answer|reference", said)


def test_limits_are_the_run_s_own(one):
    panels = panels_of(collect(one))
    assert [level.value for level in panels["KL of an update"].levels] == [0.02]
    assert [level.value for level in panels["Gradient norm"].levels] == [0.5]
    assert "cut to 0.5" in panels["Gradient norm"].note
    assert "1 ± 0.2" in panels["Clip fraction"].note
    assert panels["Learning rate"].note == "As planned: 0.001 at most, then it falls to 0 in a line."


def test_what_says_nothing_is_not_drawn(tmp_path):
    made = rows(ratio_deviation=0.0, effective_share=1.0)
    report = collect(control_runs.write_one(tmp_path / "run", made))
    titles = drawn(report)
    # As many steps of the optimiser in each update, as planned; ratios that never leave 1; no penalty.
    for title in ("Optimiser steps per update", "Ratio deviation", "Effective share", "KL penalty"):
        assert title not in titles
    stopped = collect(control_runs.write_one(tmp_path / "more", rows(optimiser_steps=lambda done: 20 * done)))
    assert "Optimiser steps per update" in drawn(stopped)
    without_clip = report["training"]["ppo"]["settings"]["settings"]
    without_clip["clip_range"] = 0.0
    assert "Clip fraction" not in drawn(report)


def test_several_runs_are_one_set_of_charts_with_mean_and_range(several):
    report = collect(several)
    section = control_course_section(report)
    html = section.to_html()
    assert html.count("<figure>") == len(drawn(report))
    panel = panels_of(report)["Entropy"]
    svg = draw(panel, [(name, run["curves"]) for name, run in runs_of(report).items()])
    assert svg.count('class="line between raw"') == 5
    assert svg.count('class="line between"') == 1
    assert svg.count('class="band between"') == 1
    assert "5 runs, 40 updates each" in texts(html)


def test_the_thick_line_is_the_mean_of_the_runs_and_the_band_their_range():
    """Of so few updates nothing is smoothed: 1, 2, 6 have mean 3 and lie between 1 and 6."""
    panel = panels_of({"environment": "e", "training": {"ppo": {"curves": {"step": [1]}}}})["Entropy"]
    runs = [(f"seed-{value}", {"env_steps": [0.0, 10.0], "entropy": [value, value]}) for value in (1, 2, 6)]
    svg = draw(panel, runs)

    def height(style):
        points = re.search(rf'<polyline points="([^"]*)" class="{style}"', svg)[1].split()
        return [float(point.split(",")[1]) for point in points]

    low, middle, high = height("band between")[0], height("line between")[0], height("band between")[-1]
    assert (low - middle) / (low - high) == pytest.approx(2 / 5, abs=2e-3)
    thin = re.findall(r'points="([^"]*)" class="line between raw"', svg)
    assert [float(one.split()[0].split(",")[1]) for one in thin][::2] == [low, high]


def test_the_table_has_the_mean_of_the_runs_and_their_range(several, tmp_path):
    made = {seed: (300.0, rows(update_kl=0.01 * (seed + 1))) for seed in range(3)}
    report = collect(control_runs.write_several(tmp_path / "runs", made))
    said = " ".join(texts(control_course_section(report).to_html()).split())
    assert "KL of an update, nats per action 0.02 0.02 0.01 to 0.03" in said


def test_what_is_of_language_models_is_not_on_the_page(one, several):
    for path in (one, several):
        markup = render(path).read_text(encoding="utf-8")
        anchors = re.findall(r'<section id="([^"]*)"', markup)
        assert anchors == ["returns", "training", "warnings", "invariants", "provenance"]
        said = texts(markup.split("</style>")[1])
        assert not re.search(r"\btokens?\b|\banswers\b|verdict|win rate", said)


def test_laws_of_several_runs_are_told_once(several):
    section = next(
        part for part in page(collect(several), name="n").split("<section ") if 'id="invariants' in part
    )
    assert section.count("ratio_is_one") == 1
    assert "all 5 runs" in section
    # Nothing is held beside the policy that could have changed.
    assert "reference_unchanged" not in section


def test_settings_that_all_runs_share_are_shown_once(one, several):
    for path in (one, several):
        assert page(collect(path), name="n").count("Settings, seeds and hashes") == 1


# --- what is warned of ------------------------------------------------------------------------------


def test_healthy_runs_raise_nothing(one, several):
    assert raised(collect(one)) == {}
    assert raised(collect(several)) == {}


def test_a_return_that_does_not_rise_is_serious(tmp_path):
    report = collect(control_runs.write_one(tmp_path / "run", rows(episode_return=-500.0)))
    finding = raised(report)["ReturnDidNotRise"]
    assert finding.severity == "serious"
    assert "from −500 to −500" in finding.what
    assert report["warnings"][0]["name"] == "ReturnDidNotRise"


@pytest.mark.parametrize(("end", "severity"), [(0.75, None), (0.6, "warning"), (0.3, "serious")])
def test_a_return_that_is_lost_again_is_told_by_its_share(tmp_path, end, severity):
    """Up to 100 in the first half, down to a share of that in the second: 0 is where it began."""

    def course(done):
        return 200 * done if done <= 0.5 else 100 - (1 - end) * 100 * min(1.0, (done - 0.5) * 4)

    made = rows(200, episode_return=course)
    found = raised(collect(control_runs.write_one(tmp_path / "run", made)))
    finding = found.get("ReturnFellFromItsBest")
    assert (finding.severity if finding else None) == severity


@pytest.mark.parametrize(("drawn_mean", "warned"), [(305.0, False), (316.0, False), (325.0, True)])
def test_drawn_actions_that_earn_more_are_told_beyond_chance(tmp_path, drawn_mean, warned):
    """Two episodes with deviation 10 each: the difference has the standard error 10, twice that is 20."""
    path = control_runs.write_one(tmp_path / "run", rows())
    report = collect(path)
    report["evaluation"]["stochastic"]["mean_return"] = drawn_mean
    assert ("DrawnActionsEarnMore" in raised(report)) is warned


def test_episodes_that_do_not_end_are_counted(one):
    report = collect(one)
    report["evaluation"] |= judged(300.0, unended=2)
    assert raised(report)["EpisodesDidNotEnd"].what.startswith("4 of the episodes")


def test_updates_that_are_too_large_are_told_in_actions(tmp_path):
    made = rows(update_kl=0.08, clip_fraction=0.5, ratio_deviation=11.0, effective_share=0.3)
    found = raised(collect(control_runs.write_one(tmp_path / "run", made)))
    names = {"UpdateTooLarge", "ClipTooActive", "RatioFarFromOne", "FewEffectiveSamples"}
    assert names <= set(found)
    assert "0.08 nats per action" in found["UpdateTooLarge"].what
    assert "50.0 % of the actions" in found["ClipTooActive"].what.replace("\u00a0", " ")
    said = " ".join(str(one.to_json()) for one in found.values())
    assert "token" not in said
    assert "answer" not in said


def test_the_worst_of_the_runs_is_told_with_how_many_there_are(tmp_path):
    runs = {seed: (400.0, rows()) for seed in range(5)}
    runs[3] = (400.0, rows(clip_fraction=0.3))
    runs[4] = (400.0, rows(clip_fraction=0.5))
    finding = raised(collect(control_runs.write_several(tmp_path / "runs", runs)))["ClipTooActive"]
    assert finding.severity == "serious"
    assert "(That is seed 4; 2 of 5 runs.)" in finding.what


@pytest.mark.parametrize(("worst", "warned"), [(260.0, False), (150.0, True)])
def test_a_run_that_lags_far_behind_is_told(tmp_path, worst, warned):
    """The runs begin near 50 and end at 400 but for one; half of what they gained would be about 215."""
    runs = {seed: (400.0, rows(100)) for seed in range(4)} | {4: (worst, rows(100))}
    report = collect(control_runs.write_several(tmp_path / "runs", runs))
    report["evaluation"]["interquartile_mean"]["value"] = 400.0
    found = raised(report)
    assert ("SeedsDisagree" in found) is warned
    if warned:
        assert found["SeedsDisagree"].what == "Seed 4 earns 150; the interquartile mean of 5 runs is 400."


def test_an_interval_of_few_runs_is_noted(tmp_path):
    runs = {seed: (400.0, rows()) for seed in range(3)}
    report = collect(control_runs.write_several(tmp_path / "runs", runs))
    assert raised(report)["FewRuns"].severity == "note"


# --- the film ---------------------------------------------------------------------------------------


def film(path, data=b"\x00\x00 ftypmp42"):
    (path / "episode.mp4").write_bytes(data)
    report = json.loads((path / "report.json").read_text())
    told = {"file": "episode.mp4", "seed": 4, "return": 290.0, "steps": 290, "whole": True}
    (path / "report.json").write_text(json.dumps(report | {"film": told}))
    return path


def test_a_film_is_inside_the_page_and_told_of(one):
    markup = render(film(one)).read_text(encoding="utf-8")
    assert 'src="data:video/mp4;base64,AAAgZnR5cG1wNDI="' in markup
    assert "return 290 in 290 steps." in markup
    assert "data" not in json.loads((one / "report.json").read_text())["film"]
    # A second report of the same directory has it as well.
    assert "<video" in render(one).read_text(encoding="utf-8")


def test_a_film_that_is_too_large_is_linked_and_one_that_is_gone_is_left_out(one):
    path = film(one, b"\0" * (LARGEST + 1))
    markup = render(path).read_text(encoding="utf-8")
    assert "<video" not in markup
    assert 'href="episode.mp4"' in markup
    (path / "episode.mp4").unlink()
    assert "episode.mp4" not in render(path).read_text(encoding="utf-8")


def test_a_film_elsewhere_is_not_read(one, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    report = collect(one) | {"film": {"file": "../secret.mp4"}}
    assert "film" not in with_film(report, one)


def test_a_hostile_name_of_an_environment_does_nothing(tmp_path):
    path = control_runs.write_one(tmp_path / "run", rows())
    report = collect(path) | {"environment": "<script>alert(1)</script>"}
    assert "<script" not in page(report, name="run")
