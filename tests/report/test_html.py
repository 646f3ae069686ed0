"""Nothing that a run holds can become markup, and nothing in it is hidden."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logratio.report.html import Html, element, escape, foreign_text, join, prose, visible


class Reading(HTMLParser):
    """The text and the tags that a browser would make of markup."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.attributes = "", [], []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


@given(st.text())
def test_any_text_stays_text(text):
    read = Reading(element("p", text))
    assert read.tags == ["p"]
    assert read.text == visible(text)


@given(st.text())
def test_any_text_stays_inside_its_attribute(text):
    read = Reading(element("p", "x", title=text))
    assert read.tags == ["p"]
    assert read.attributes == [("title", visible(text))]
    assert read.text == "x"


@given(st.text())
def test_a_foreign_text_has_no_tags_but_our_badges(text):
    read = Reading(foreign_text(text))
    assert set(read.tags) <= {"span"}
    assert [value for name, value in read.attributes if name == "class"] == ["unseen"] * len(read.tags)


@given(st.text())
def test_what_is_visible_has_no_unseen_character(text):
    shown = visible(text)
    assert not [
        c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") and c not in "\n\t"
    ]


@pytest.mark.parametrize(
    ("character", "written"),
    [
        ("\u202e", "U+202E"),
        ("\u2066", "U+2066"),
        ("\u200b", "U+200B"),
        ("\u200d", "U+200D"),
        ("\ufeff", "U+FEFF"),
        ("\u00ad", "U+00AD"),
        ("\U000e0041", "U+E0041"),
        ("\u3164", "U+3164"),
        ("\x00", "U+0000"),
        ("\x1b", "U+001B"),
        ("\ud800", "U+D800"),
        ("\u2028", "U+2028"),
    ],
)
def test_unseen_characters_are_written_out(character, written):
    assert visible(f"a{character}b") == f"a⟨{written}⟩b"
    badge = foreign_text(f"a{character}b")
    assert Reading(badge).text == f"a{written}b"
    assert character not in badge


def test_ordinary_writing_is_left_alone():
    text = "Grüße, 日本語, שלום, é (e\u0301), 🙂\n\tindented"
    assert visible(text) == text
    assert Reading(foreign_text(text)).text == text
    assert visible("one\r\ntwo\rthree") == "one\ntwo\nthree"


def test_a_spelled_out_badge_is_told_from_a_real_one():
    assert foreign_text("U+202E") == "U+202E"
    assert foreign_text("\u202e").startswith('<span class="unseen" title="RIGHT-TO-LEFT OVERRIDE">')


def test_a_very_long_text_is_cut_and_says_so():
    shown = foreign_text("x" * 1_000_000, limit=4000)
    assert len(shown) < 4200
    assert "996,000 more characters" in shown


def test_markup_is_escaped_once_and_none_is_left_out():
    inner = element("b", "<")
    assert inner == "<b>&lt;</b>"
    assert element("p", inner, None, "&", class_="a", id=None) == '<p class="a"><b>&lt;</b>&amp;</p>'
    assert element("meta", http_equiv="x") == '<meta http-equiv="x">'
    assert join(["<", Html("<i>"), 3], ", ") == "&lt;, <i>, 3"
    assert escape(Html("<")) == "<"


def test_prose_marks_code_and_keeps_a_number_with_its_per_cent():
    assert prose("run `a < b` at 95 %") == "run <code>a &lt; b</code> at 95\u00a0%"
