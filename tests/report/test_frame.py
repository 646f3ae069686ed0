"""The frame of every page: what is around the sections, and that no text of it becomes markup."""

from __future__ import annotations

from logratio.report.frame import POLICY, document, footer, header, style_sheet
from logratio.report.html import Html, element
from logratio.report.sections.section import Section

SECTIONS = [
    Section(anchor="first", title="A & B", body=element("p", "one")),
    Section(anchor="second", title="C", body=element("p", "two")),
]


def made(**more):
    head = header("logratio test", "<run>", "today")
    return document(head, SECTIONS, footer("numbers.json"), title="</title>", **more)


def test_the_whole_frame():
    assert made() == (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>&lt;/title&gt;</title><style>{style_sheet()}</style></head>"
        '<body><a href="#first" class="skip">Skip to the result</a>'
        '<header><p class="brand">logratio test</p><h1>&lt;run&gt;</h1><p class="lede">today</p></header>'
        '<div class="columns"><nav aria-label="Contents"><ul><li><a href="#first">A &amp; B</a></li>'
        '<li><a href="#second">C</a></li></ul></nav>'
        f"<main>{SECTIONS[0].to_html()}{SECTIONS[1].to_html()}</main></div>"
        "<footer><p>Every number of this page is in <code>numbers.json</code>.</p></footer></body></html>\n"
    )


def test_what_a_page_adds():
    page = made(goal="verdict", styles=[Html("b {}")], notice=element("p", "in part"))
    assert "Skip to the verdict" in page
    assert f"<style>{style_sheet()}b {{}}</style>" in page
    assert f"<main><p>in part</p>{SECTIONS[0].to_html()}" in page
    assert header("a", "b", "") == '<header><p class="brand">a</p><h1>b</h1></header>'
