"""`logratio verify`: what is printed and written, and that a mistake is noticed."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import logratio.verify
from cli.tiny_checks import EMPTY, FAILS, HOLDS, LACKS, RAISES, gathered, made_pictures
from logratio.cli.main import main
from logratio.errors import BadConfig, Interrupted
from logratio.recipes.out_directory import prepare_out_directory
from logratio.verify.checks import table
from logratio.verify.checks.rows import Check, control, equal
from logratio.verify.report import plot_data
from logratio.verify.report.markdown import markdown
from logratio.verify.report.page import page
from logratio.verify.report.plots import plot_sections
from logratio.verify.report.wording import limit, nearest, sentence, share_of_tolerance
from logratio.verify.run import heading, run_checks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Run the command with checks of our own and without pictures; status, output, what was written."""

    def run(checks, *words):
        monkeypatch.setattr(table.select, "__defaults__", (checks,))
        monkeypatch.setattr(plot_data, "measure", lambda *, quick: {})
        out = tmp_path / "out"
        status = main(["verify", "--out", str(out), *words])
        shown = capsys.readouterr()
        written = json.loads((out / "verify.json").read_text()) if (out / "verify.json").exists() else None
        return status, shown, written

    return run


def test_all_hold(call, tmp_path):
    status, shown, written = call((HOLDS,))
    assert status == 0
    assert "[1/1] A1  What holds: 3 comparisons hold  [0 s]" in shown.out
    assert "All 3 comparisons in 1 check hold. 1 form known to be wrong" in shown.out
    assert written["passed"] is True
    assert (written["num_checks"], written["num_rows"], written["num_controls"]) == (1, 3, 1)
    assert [row["verdict"] for row in written["checks"][0]["rows"]] == ["holds", "holds", "caught"]
    assert written["versions"]["torch"] == torch.__version__
    assert written["machine"]["cores"] >= 1
    assert str(tmp_path / "out" / "verify.html") in shown.out


def test_the_table_has_exact_value_ours_error_and_tolerance(call):
    lines = call((FAILS,))[1].out.splitlines()
    (line,) = [line for line in lines if "two of three" in line]
    assert line.split() == ["A2", "two", "of", "three", "0.66667", "0.5", "0.167", "≤", "1e−9", "FAILED"]


def test_a_comparison_that_does_not_hold_is_status_1_and_named(call):
    status, shown, written = call((HOLDS, FAILS))
    assert status == 1
    assert "[2/2] A2  What does not: 1 of 2 comparisons FAILED" in shown.out
    assert "Of 5 comparisons in 2 checks some do not hold: A2." in shown.out
    assert written["failed"] == ["A2"]


def test_a_form_known_to_be_wrong_that_is_not_found_wrong_fails(call):
    missed = Check(name="C1", title="t", run=lambda quick: [control("k3 per token", 0.05, at_least=0.1)])
    status, shown, written = call((missed,))
    assert status == 1
    assert "NOT CAUGHT" in shown.out
    assert written["checks"][0]["rows"][0]["verdict"] == "NOT CAUGHT"


def test_a_check_that_raises_fails_and_the_others_still_run(call):
    status, shown, written = call((RAISES, HOLDS))
    assert status == 1
    assert "What stops: stopped by ArithmeticError: no such <number>" in shown.out
    assert "Traceback" in written["checks"][0]["fault"]
    assert 'raise ArithmeticError("no such <number>")' in shown.out
    assert written["checks"][1]["passed"] is True


def test_a_check_without_its_extra_is_skipped_in_words_and_counts_nowhere(call, tmp_path):
    status, shown, written = call((HOLDS, LACKS), "--markdown", str(tmp_path / "verified.md"))
    reason = "skipped: Gymnasium is not installed; pip install 'logratio[control]'"
    assert status == 0
    assert f"[2/2] C1  What needs an extra: {reason}  [0 s]" in shown.out
    (line,) = [line for line in shown.out.splitlines() if line.startswith("C1")]
    assert line.split()[1:] == [*reason.split(), "–", "–", "–", "–", "skipped"]
    assert "All 3 comparisons in 1 check hold." in shown.out
    assert f"C1 {reason}." in " ".join(shown.out.split())
    assert (written["num_checks"], written["num_rows"], written["failed"]) == (1, 3, [])
    assert written["skipped"] == {"C1": reason}
    assert [check["passed"] for check in written["checks"]] == [True, False]
    assert [row["passed"] for row in written["checks"][1]["rows"]] == [False]
    text = (tmp_path / "verified.md").read_text()
    assert f"| C1 | What needs an extra | 0 | {reason} | – | – | **skipped** |" in text
    assert "FAILED" not in text


def test_where_all_is_skipped_nothing_has_passed(call):
    status, shown, written = call((LACKS,))
    assert (status, written["passed"]) == (1, False)
    assert "Nothing was compared. C1 skipped: Gymnasium" in " ".join(shown.out.split())


def test_a_trainer_that_is_told_to_stop_stops_all_of_it(call):
    def stops(quick):
        raise Interrupted(2, where="ppo, after update 3 of 60")

    later = Check(name="Z", title="t", run=lambda quick: pytest.fail("not stopped"))
    status, shown, written = call((Check(name="A1", title="t", run=stops), later))
    assert (status, written) == (130, None)
    assert shown.err.endswith("stopped\n")


def test_a_check_that_compares_nothing_does_not_pass(call):
    status, shown, _ = call((EMPTY, HOLDS))
    assert status == 1
    assert "compared nothing" in shown.out
    assert "do not hold: B2." in shown.out


def test_nan_does_not_pass():
    rows = [equal("x", math.nan, 1.0, tolerance=1.0)]
    report = gathered(Check(name="N", title="t", run=lambda quick: rows))
    assert report["failed"] == ["N"]
    assert report["checks"][0]["rows"][0]["error"] is None
    json.dumps(report, allow_nan=False)


def test_only_chosen_checks_run_in_the_table_s_order(call):
    status, _, written = call((HOLDS, FAILS, RAISES), "--only", "b1", "--only", "A1")
    assert status == 1
    assert [check["name"] for check in written["checks"]] == ["A1", "B1"]
    assert written["pictures"] is None
    assert call((HOLDS, FAILS))[2]["pictures"] == {}


def test_an_unknown_name_lists_the_names_before_anything_runs(call, tmp_path):
    status, shown, written = call((HOLDS, FAILS, RAISES), "--only", "A3")
    assert (status, written) == (2, None)
    assert "BadConfig: there is no check 'A3'" in shown.err
    assert "give one of A1, A2, B1" in shown.err
    assert not (tmp_path / "out").exists()


def test_quick_reaches_the_checks(call):
    assert call((HOLDS,), "--quick")[2]["checks"][0]["rows"][1]["ours"] == 0.3
    assert call((HOLDS,))[2]["checks"][0]["rows"][1]["ours"] == 0.2


def test_an_out_that_is_a_file_is_refused_before_anything_runs(call, tmp_path):
    (tmp_path / "out").write_text("mine")
    monitored = Check(name="A1", title="t", run=lambda quick: pytest.fail("too early"))
    with pytest.raises(BadConfig):
        prepare_out_directory(tmp_path / "out")
    assert main(["verify", "--out", str(tmp_path / "out")]) == 2
    assert monitored.name


def test_markdown_is_written_where_it_is_asked_for(call, tmp_path):
    call((HOLDS, FAILS), "--markdown", str(tmp_path / "verified.md"))
    text = (tmp_path / "verified.md").read_text()
    assert "| A1 | What holds | 3, 1 of a wrong form | a distance | 0.2 | ≤ 0.4 | holds |" in text
    assert "| **FAILED** |" in text
    assert "one half \\| a <b>" in text


def test_every_line_of_a_markdown_table_has_as_many_cells():
    lines = [line for line in markdown(gathered(HOLDS, FAILS, RAISES, EMPTY)).splitlines() if line[:1] == "|"]
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert counts == {7, 8}


def test_the_nearest_comparison_is_the_one_that_used_most_of_its_tolerance():
    report = gathered(HOLDS, FAILS)
    assert nearest(report["checks"][0])["what"] == "a distance"
    assert nearest(report["checks"][1])["what"] == "two of three"
    for error, tolerance in ((0.0, 0.0), (None, None)):
        row = {"error": error, "tolerance": tolerance, "control": False}
        assert share_of_tolerance(row | {"passed": True}) == 0
        assert share_of_tolerance(row | {"passed": False}) == math.inf
    assert limit(row) == "–"


def test_no_row_at_all_is_no_success():
    assert gathered()["passed"] is False
    assert sentence(gathered()) == "Nothing was compared."


# --- the table of checks -------------------------------------------------------------------------------


def test_names_are_unique_and_titles_are_sentences_without_a_full_stop():
    names = [check.name.casefold() for check in table.CHECKS]
    assert len(set(names)) == len(names)
    assert len(names) >= 20
    assert [
        check.name for check in table.CHECKS if check.title.rstrip() != check.title or check.title[-1] == "."
    ] == []


def test_every_module_s_checks_are_gathered():
    for found in pkgutil.iter_modules(logratio.verify.__path__, "logratio.verify."):
        module = importlib.import_module(found.name)
        for check in getattr(module, "CHECKS", ()):
            assert check in table.CHECKS, found.name


def test_the_page_of_the_docs_names_every_check_with_its_title():
    text = (ROOT / "docs" / "verified.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| (\w+) \| ([^|]+) \| \d", text.replace("\\|", "¦"), flags=re.MULTILINE)
    assert named == [(check.name, heading(check).replace("|", "¦")) for check in table.CHECKS]
    assert "FAILED" not in text
    assert "**skipped**" not in text


def test_progress_is_said_check_by_check():
    lines = []
    for outcome in run_checks((HOLDS, EMPTY), quick=False, show=lines.append):
        assert len(lines) == (1 if outcome.check is HOLDS else 2)


# --- the page ------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags in balance, ids, links and text."""

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


def test_the_page_shows_every_comparison_and_every_picture_and_loads_nothing():
    report = gathered(HOLDS, FAILS, RAISES) | {"pictures": made_pictures()}
    shown = Page(page(report))
    assert shown.open == []
    assert not set(shown.tags) & {"script", "img", "link", "iframe"}
    assert not {name for name, _ in shown.attributes} & {"src", "srcset"}
    for text in ("one half | a <b>", "two of three", "no such <number>", "Not all hold", "caught"):
        assert text in shown.text
    assert shown.tags.count("svg") >= 8
    links = [value for name, value in shown.attributes if name == "href"]
    ids = {value for name, value in shown.attributes if name == "id"}
    assert {link[1:] for link in links} <= ids


def test_the_page_says_what_was_skipped():
    shown = Page(page(gathered(HOLDS, LACKS)))
    for text in ("All that ran hold", "Checks skipped", "skipped: Gymnasium is not installed; pip install"):
        assert text in shown.text
    assert ("class", "key skipped") in shown.attributes
    assert ("class", "wrong") not in shown.attributes
    assert "Checks skipped" not in Page(page(gathered(HOLDS))).text


def test_a_page_of_some_checks_has_no_pictures():
    markup = page(gathered(HOLDS))
    assert "<svg" not in markup
    assert "All hold" in markup


def test_each_picture_has_two_sentences_of_plain_words():
    for section in plot_sections(made_pictures()):
        assert (
            len(re.findall(r"[a-z0-9%](\.|;|: )(?=\s|$)", section.lede + " ")) >= 2
            or section.lede.count(".") >= 2
        )
        notes = re.findall(r"<figcaption>.*?<small>(.*?)</small>", section.body)
        assert all(note.count(". ") >= 1 for note in notes), notes


# --- the numbers of the pictures -----------------------------------------------------------------------


def test_near_by_the_estimate_is_right_and_far_away_ten_samples_have_the_wrong_sign():
    numbers = plot_data.importance(repeats=20)
    few, _, many = numbers["sizes"]
    assert few["wrong_sign"][0] == 0
    assert few["median"][0] == pytest.approx(-1, abs=0.3)
    assert few["median"][-1] > 0
    assert few["wrong_sign"][-1] > 0.9
    assert many["median"][8] == pytest.approx(-1, abs=0.3)
    assert few["effective"][0] == 1
    assert many["effective"][2] == pytest.approx(numbers["exact_effective"][2], rel=0.05)


def test_of_the_kl_estimates_k2_alone_is_biased_and_rao_blackwell_is_the_calmest():
    numbers = plot_data.kl_estimators()
    for name, bias in numbers["bias"].items():
        assert (max(map(abs, bias)) < 1e-12) == (name != "k2")
    calm = numbers["deviation"]["rao_blackwell"]
    for name, deviation in numbers["deviation"].items():
        assert all(a <= b for a, b in zip(calm, deviation, strict=True)), name
    assert numbers["kl"] == sorted(numbers["kl"])


def test_of_the_kl_penalties_two_are_exact_and_the_rest_are_not():
    places = plot_data.kl_gradients()
    for place in places.values():
        exact = {name for name, form in place["forms"].items() if form["error"] < 1e-9}
        assert exact == {"k1_in_reward", "k2_sequence"}
        assert place["forms"]["k1_loss"]["cosine"] is None
        assert place["forms"]["k1_loss"]["error"] == pytest.approx(1)
    assert places["far"]["forms"]["k3_token"]["error"] > places["near"]["forms"]["k3_token"]["error"]
    assert places["near"]["kl"] < 0.1 < places["far"]["kl"]


def test_the_ways_end_at_the_optimum_but_for_the_wrong_penalty():
    runs = plot_data.ways(quick=True)["runs"]
    for name in ("reinforce", "ppo", "dpo"):
        assert runs[name][0][0] > 0.2
        assert runs[name][0][-1] < 0.01
    assert runs["ppo_k3"][0][-1] > 0.5
