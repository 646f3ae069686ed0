"""The page: well-formed, without script, every number of the report in it, and fit to be looked at."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import pytest

from annotate.label_snapshots import drawn, fill, pair, snapshot
from logratio.annotate.domain.agreement import Coefficient
from logratio.annotate.domain.annotator_quality import assess
from logratio.annotate.storage.store import Store
from logratio.annotate.web import ASSETS
from logratio.annotate.web.agreement_page import outcome, place, render_agreement, render_report, scale

HOSTILE = '<script>alert(1)</script>"onload="x'
VOID = {"meta", "link", "br", "hr", "line", "circle"}


class Document(HTMLParser):
    """Tags, attributes and text; notes what is opened and not closed."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report():
    return assess(drawn())


@pytest.mark.parametrize("alone", [True, False])
def test_it_holds_no_script_and_no_inline_style(report, alone):
    document = Document(render_report(report, alone=alone))
    assert document.open == []
    names = {name for name, _ in document.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"style", "src"})
    assert not set(document.tags) & {"script", "img", "iframe", "form", "input"}
    assert ("style" in document.tags) == alone
    links = [value for name, value in document.attributes if name == "href"]
    assert links == (["#outcome"] if alone else ["/page.css", "/agreement.css", "#outcome"])


def test_the_server_has_the_sheets_it_links(report):
    links = re.findall(r'rel="stylesheet" href="(.*?)"', render_report(report, alone=False))
    assert len(links) == 2
    assert set(links) <= set(ASSETS)


def test_every_number_stands_on_it(report):
    text = Document(render_report(report, alone=False)).text.replace("\u00a0", " ")
    agreement = report.agreement
    assert f"{agreement.alpha.value:.2f}" in text
    assert f"{agreement.alpha.low:.2f} to {agreement.alpha.high:.2f}" in text
    assert f"{100 * agreement.raw.value:.1f} %" in text
    for two in agreement.between:
        assert f"{two.first} and {two.second}" in text
        assert f"{two.kappa.value:.2f}" in text
    for quality in report.annotators:
        assert f"{100 * quality.left.value:.1f} %" in text
        assert f"{100 * quality.consistency.value:.1f} %" in text
        assert f"{quality.seconds:.1f} s" in text
    assert f"{report.num_verdicts} verdicts by 3 people on 252 pairs." in text


def test_no_model_and_no_text_of_an_answer_is_on_it(report):
    text = Document(render_report(report, alone=False)).text
    assert not {"small", "large", "question", "made.jsonl"} & set(re.findall(r"[\w.]+", text))


def test_names_are_text(report):
    verdicts = [(0, HOSTILE, "a", {"swapped": True}), (0, "ben", "b"), (0, "eva", "b")]
    document = Document(render_report(assess(snapshot([pair(0)], verdicts)), alone=True))
    assert "script" not in document.tags
    assert HOSTILE in document.text


def test_a_store_is_read_and_refusal_is_said(tmp_path):
    made = drawn(80, people=("anna",))
    with Store.open(fill(tmp_path / "labels.db", made)) as store:
        text = Document(render_agreement(store)).text
    assert "Agreement is not stated yet" in text
    assert "Agreement needs 20 pairs that two people judged, and there are 0" in text
    assert "logratio annotate serve --annotators anna,ben --votes-per-pair 2" in text
    assert "Each two people" not in text
    assert "by 1 person" in text


def test_a_store_that_nobody_voted_in():
    assert (
        "Nobody has judged a pair yet." in Document(render_report(assess(snapshot([], [])), alone=True)).text
    )


def test_a_habit_is_said_in_words():
    pairs = [pair(number) for number in range(40)]
    verdicts = [(place, "anna", "a", {"swapped": False}) for place in range(40)]
    text = Document(render_report(assess(snapshot(pairs, verdicts)), alone=True)).text
    assert "leans to the left" in text
    assert "leans to the longer" in text
    verdicts = [(place, "anna", "b", {"swapped": False}) for place in range(40)]
    text = Document(render_report(assess(snapshot(pairs, verdicts)), alone=True)).text
    assert "leans to the right" in text
    assert "leans to the shorter" in text


@pytest.mark.parametrize(
    ("verdicts", "headline"),
    [
        # Of 300 pairs the two agree on all, on all with one category, on 95 %, on 85 %, on 70 %, on half.
        ({"aa": 150, "bb": 150}, "α is 1.00, with no interval"),
        ({"aa": 300}, "Everybody always says the same"),
        ({"aa": 143, "bb": 142, "ab": 8, "ba": 7}, "People agree reliably"),
        ({"aa": 137, "bb": 138, "ab": 12, "ba": 13}, "People agree well"),
        ({"aa": 105, "bb": 105, "ab": 45, "ba": 45}, "People agree more than by chance"),
        ({"aa": 75, "bb": 75, "ab": 75, "ba": 75}, "Agreement cannot be told from chance"),
        ({"ab": 150, "ba": 150}, "Agreement cannot be told from chance"),
    ],
)
def test_the_headline_is_what_the_interval_allows(verdicts, headline):
    both = [both for both, count in verdicts.items() for _ in range(count)]
    pairs = [pair(number) for number in range(len(both))]
    votes = [
        (at, name, one) for at, say in enumerate(both) for name, one in zip(["x", "y"], say, strict=True)
    ]
    report = assess(snapshot(pairs, votes))
    assert outcome(report)[1] == headline
    assert headline in Document(render_report(report, alone=True)).text


def test_places_on_the_scale():
    assert (place(0, 0, 1), place(1, 0, 1), place(0.5, 0, 1), place(7, 0, 1)) == (
        "2.00",
        "98.00",
        "50.00",
        "98.00",
    )
    assert scale(Coefficient(value=0.5, low=0.4, high=0.6))["chance"] == place(0.2, 0, 1.2)
    assert scale(Coefficient(value=-0.5, low=-0.6, high=-0.4))["chance"] == "50.00"


def test_the_sheet_loads_nothing(report):
    style = " ".join(re.findall(r"<style>(.*?)</style>", render_report(report, alone=True), re.S))
    assert "--tone" in style
    assert "url(" not in style
    assert "@import" not in style
    assert "<" not in style


@pytest.mark.web
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(report, tmp_path, width, scheme):
    from playwright.sync_api import sync_playwright

    page = tmp_path / "agreement.html"
    page.write_text(render_report(report, alone=True))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said = []
        shown.on("console", lambda message: said.append(message.text))
        shown.goto(page.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        assert shown.evaluate("document.querySelector('.facts dd').innerText").startswith(
            f"{report.agreement.alpha.value:.2f}"
        )
        dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == ("rgb(251, 250, 248)" if scheme == "light" else "rgb(21, 24, 27)")
        assert len(shown.screenshot(full_page=True)) > 40_000
        assert said == []
        browser.close()
