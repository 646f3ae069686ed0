"""The page says what the numbers say, loads nothing and lets nothing act."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from logratio.report import render
from logratio.report.formatting import fixed, number
from report import run_directories

OURS = {
    *("html", "head", "meta", "title", "style", "body", "a", "header", "nav", "main", "section", "footer"),
    *("div", "p", "span", "b", "i", "em", "strong", "small", "code", "h1", "h2", "h3", "h4", "ul", "li"),
    *("dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"),
    *("details", "summary", "article", "svg", "g", "line", "rect", "circle", "polyline", "text"),
}


class Page(HTMLParser):
    """Tags, ids, links and texts of a page."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


@pytest.fixture
def run(tmp_path):
    return run_directories.write_quickstart(tmp_path / "quickstart")


@pytest.fixture
def markup(run):
    return render(run).read_text(encoding="utf-8")


@pytest.fixture
def page(markup):
    return Page(markup)


def test_only_tags_of_ours_and_all_closed(page):
    assert set(page.tags) <= OURS
    assert page.open == []


def test_nothing_is_loaded_and_nothing_runs(page, markup):
    names = {name for name, _ in page.attributes}
    assert not {"src", "srcset", "action", "background", "data"} & names
    assert not [name for name in names if name.startswith("on")]
    assert all(link.startswith("#") for link in page.values("href"))
    style = re.search(r"<style>(.*?)</style>", markup, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page.values("content")[0]


def test_hostile_texts_are_shown_as_they_are(page):
    for text in run_directories.HOSTILE:
        shown = re.sub(
            r"[\x00-\x08\x0e-\x1f\u200b\u202a-\u202e\u2060\ufeff]", lambda m: f"U+{ord(m[0]):04X}", text
        )
        assert shown in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]", page.text)


@pytest.mark.parametrize(
    "place", ["judge", "stage", "invariant", "setting", "reason", "warning", "set", "run"]
)
def test_hostile_text_in_every_other_place(tmp_path, place):
    bad = "<img src=x onerror=alert(1)>\"'\u202e"
    changes, name = {}, "run"
    report = run_directories.evaluation()
    if place == "judge":
        changes["verdict"] = {"outcome": bad, "sentence": bad, "judge": bad}
    if place == "stage":
        changes["reward"] = {**report["reward"], bad: 0.3}
        changes["kl"] = {**report["kl"], bad: 0.3}
    if place == "reason":
        changes["data"] = {"num_rows": 2, "unusable": {bad: 1}, "num_usable": 1, bad: 3}
    if place == "warning":
        changes["warnings"] = [{"name": bad, "severity": "note", "what": bad, "meaning": bad, "action": bad}]
    if place == "set":
        changes["samples"] = [{"set": bad, "prompt": bad, "answers": {bad: {"text": bad, "reward": 1.0}}}]
    if place == "run":
        name = "<img src=x onerror=alert(1)>"
    run = run_directories.write_quickstart(tmp_path / name, **changes)
    if place == "invariant":
        (run / "dpo" / "invariants.json").write_text(
            json.dumps([{"name": bad, "value": 0.1, "limit": 1, "step": 0}])
        )
    if place == "setting":
        (run / "dpo" / "config.json").write_text(json.dumps({bad: bad, "nested": {bad: [bad]}}))
    page = Page(render(run).read_text(encoding="utf-8"))
    assert set(page.tags) <= OURS
    assert "<img src=x onerror=alert(1)>" in page.text
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_order_of_the_page(page):
    places = [page.values("id").index(anchor) for anchor in ANCHORS]
    assert places == sorted(places)
    assert [link[1:] for link in page.values("href")[1 : 1 + len(ANCHORS)]] == ANCHORS


ANCHORS = [
    "verdict",
    "steps",
    "frontier",
    "head-to-head",
    "curves",
    "answers",
    "data",
    "warnings",
    "invariants",
    "provenance",
]


def test_every_chart_has_a_name_and_every_link_a_goal(page):
    assert page.tags.count("svg") > 12
    named = [value for value in page.values("aria-label") if value]
    assert len(named) >= sum("chart" in value for value in page.values("class"))
    assert {link[1:] for link in page.values("href")} <= set(page.values("id"))
    assert len(page.values("id")) == len(set(page.values("id")))


def test_the_numbers_of_the_evaluation_are_on_the_page(page):
    report = run_directories.evaluation()
    assert report["verdict"]["sentence"] in page.text.replace("\u00a0", " ")
    for value in report["reward"].values():
        assert fixed(value, 3) in page.text
    for value in report["kl"].values():
        assert fixed(value, 2) in page.text
    for wanted in ("64.1\u00a0%", "56.4 to 71.1\u00a0%", "98 wins", "9 ties", "53 losses", "62.8\u00a0%"):
        assert wanted in page.text
    assert "1,000 rows read = 27 IdenticalPair + 3 EmptyAnswer + 970 usable pairs" in page.text
    assert "970 usable pairs = 960 train + 10 held out" in page.text
    assert "7 min 36 s" in page.text
    assert "2.41\u00a0GB" in page.text


def test_counts_that_do_not_add_up_are_shown_as_such(tmp_path):
    data = {"num_rows": 1000, "unusable": {"EmptyAnswer": 3}, "num_usable": 990}
    page = Page(render(run_directories.write_quickstart(tmp_path / "run", data=data)).read_text())
    assert "does not add up: the parts give 993" in page.text
    assert "CountsDoNotAddUp" in page.text


def test_the_page_claims_no_more_than_the_interval(tmp_path):
    rate = {"value": 0.55, "low": 0.47, "high": 0.63, "n": 160}
    page = Page(render(run_directories.write_quickstart(tmp_path / "run", win_rate=rate)).read_text())
    assert "Not shown" in page.text
    assert "is better than the reference" not in page.text
    assert "verdict open" in page.values("class")


@pytest.mark.parametrize(
    ("outcome", "low", "high", "word", "tone"),
    [
        ("better", 0.51, 0.6, "Better", "good"),
        ("worse", 0.3, 0.49, "Worse", "bad"),
        ("not shown", 0.4, 0.6, "Not shown", "open"),
    ],
)
def test_outcomes(tmp_path, outcome, low, high, word, tone):
    rate = {"value": (low + high) / 2, "low": low, "high": high, "n": 160}
    verdict = {"outcome": outcome, "sentence": "A sentence.", "judge": "j"}
    run = run_directories.write_quickstart(tmp_path / "run", win_rate=rate, verdict=verdict)
    page = Page(render(run).read_text())
    assert f"verdict {tone}" in page.values("class")
    assert word + "A sentence." in page.text


def test_every_number_of_the_stage_table_is_in_report_json(run):
    render(run)
    report = json.loads((run / "report.json").read_text())
    assert [number(row["reward"]) for row in report["stages"]] == ["0.262", "0.331", "0.448"]
    assert {check["name"] for check in report["checks"]} >= {"NotShown", "Saturated", "CountsDoNotAddUp"}


def test_a_page_of_metrics_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    run_directories.write_lines(run / "metrics.jsonl", run_directories.sft_rows(30))
    page = Page(render(run).read_text())
    assert "No verdict yet" in page.text
    assert "sft has not finished: 30 updates are logged" in page.text
    assert page.tags.count("figure") == 3


def test_a_stage_that_the_page_has_no_plan_for_is_drawn_all_the_same(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    rows = [{"stage": "other", "step": step, "return": step * 0.5} for step in range(5)]
    run_directories.write_lines(run / "metrics.jsonl", rows)
    page = Page(render(run).read_text())
    assert "other 5 updates" in page.text
    assert page.tags.count("figure") == 1


def test_a_long_run_has_a_page_of_moderate_size(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    run_directories.write_lines(run / "metrics.jsonl", run_directories.dpo_rows(5000))
    assert render(run).stat().st_size < 400_000


def test_the_start_of_the_loss_is_marked_where_it_is_ln_2(page, tmp_path):
    assert "ln 2" in page.text
    rows = [row | {"loss": row["loss"] + 24.3} for row in run_directories.dpo_rows(20)]
    invariants = [{"name": "step_zero_loss", "value": 25.0, "limit": 25.0, "step": 0}]
    other = Page(
        render(run_directories.write_training(tmp_path / "ipo", rows, invariants=invariants)).read_text()
    )
    assert "ln 2" not in other.text.split("Held against")[0]
    assert "the reference's" in other.text
