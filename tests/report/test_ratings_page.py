"""The page of ratings: what the plot draws, what the tables say, and that no name acts."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from logratio.report.charts.ratings import MAX_NAME, MAX_ROWS, strengths_chart
from logratio.report.ratings_page import MAX_MATRIX, SHADES, page, shade

HOSTILE = ["=cmd()|' /C calc'!A0", "\x1b[31mred\u202etxet", "<script>alert(1)</script>", '" onload="x']


def bounds(centre, width):
    return {"low": centre - width, "high": centre + width}


def contrast(first, second, difference, *, clear):
    return {
        "first": first,
        "second": second,
        "difference": difference,
        "standard_error": 0.1,
        "interval": bounds(difference, 0.2),
        "bootstrap": bounds(difference, 0.25),
        "elo": 173.7 * difference,
        "win_chance": 0.7,
        "clear": clear,
    }


def report(names=("dpo", "sft", "ref")):
    names = list(names)
    strengths = [1.0 - 0.5 * place for place in range(len(names))]
    models = [
        {
            "model": name,
            "strength": strength,
            "standard_error": 0.1,
            "interval": bounds(strength, 0.2),
            "bootstrap": bounds(strength, 0.3),
            "elo": 173.7 * strength,
            "wins": 1200,
            "losses": 7,
            "ties": 3,
        }
        for name, strength in zip(names, strengths, strict=True)
    ]
    size = len(names)
    wins = [[0 if i == j else (30 if i < j else 10) for j in range(size)] for i in range(size)]
    ties = [[0 if i == j else 4 for j in range(size)] for i in range(size)]
    if size > 2:
        wins[0][2] = wins[2][0] = ties[0][2] = ties[2][0] = 0
    return {
        "models": models,
        "to_next": [contrast(a, b, 0.5, clear=True) for a, b in pairwise(names)],
        "to_baseline": [],
        "baseline": None,
        "tie_model": "davidson",
        "tie_parameter": 0.5,
        "tie_parameter_bootstrap": bounds(0.5, 0.1),
        "log_likelihood": -123.4,
        "matrix": {"models": names, "wins": wins, "ties": ties},
        "counts": {
            "comparisons": 1234,
            "decided": 1230,
            "ties": 4,
            "both_bad": 0,
            "left_out": {"skipped": 2},
        },
        "resamples": {"asked": 1000, "fitted": 1000, "drawn_again": {}, "unit": "comparisons", "seed": 0},
        "notes": ["2 left out: skipped."],
        "provenance": {
            "logratio": "0",
            "torch": "2",
            "machine": {"cores": 2},
            "file": "votes.csv",
            "sha256": None,
            "finished": "2026-01-01 00:00:00",
            "seconds": 3.0,
        },
    }


def words(markup):
    return " ".join(re.sub(r"<[^>]+>", " ", markup.replace("\u00a0", " ")).split())


def per_cent(value):
    return float(value.removesuffix("%"))


def rows_of(chart):
    return [one for one in chart.iter("g") if "point" in one.get("class", "").split()]


def line(row, style):
    (found,) = [
        one for one in row.iter("line") if one.get("class") == style and one.get("y1") == one.get("y2")
    ]
    return per_cent(found.get("x1")), per_cent(found.get("x2"))


def test_dots_and_whiskers_lie_where_the_numbers_say():
    found = report()
    chart = ElementTree.fromstring(strengths_chart(found["models"]))
    ticks = {
        one.text.replace("−", "-"): per_cent(one.get("x"))
        for one in chart.iter("text")
        if "tick" in one.get("class")
    }
    zero, one = ticks["0.0"], ticks["1.0"]

    def place(value):
        return zero + value * (one - zero)

    rows = rows_of(chart)
    assert len(rows) == 3
    for row, model in zip(rows, found["models"], strict=True):
        (dot,) = row.iter("circle")
        assert per_cent(dot.get("cx")) == pytest.approx(place(model["strength"]), abs=0.01)
        for style, key in (("spread", "interval"), ("whisker", "bootstrap")):
            ends = place(model[key]["low"]), place(model[key]["high"])
            assert line(row, style) == pytest.approx(ends, abs=0.01)
        assert next(row.iter("text")).text == model["model"]
    heights = [float(next(row.iter("circle")).get("cy")) for row in rows]
    assert heights == sorted(heights)
    (level,) = [one for one in chart.iter("line") if one.get("class") == "level"]
    assert per_cent(level.get("x1")) == pytest.approx(zero)


def test_without_a_bootstrap_there_is_no_whisker_and_no_column():
    found = report()
    for one in (*found["models"], *found["to_next"]):
        one["bootstrap"] = None
    found["resamples"] |= {"asked": 0, "fitted": 0}
    found["tie_parameter_bootstrap"] = None
    assert 'class="whisker"' not in strengths_chart(found["models"])
    shown = words(page(found))
    assert "bootstrap" not in shown.lower()
    assert "Resamples" not in shown
    assert "Davidson's model, ν = 0.50" in shown.replace("&#x27;", "'")


def test_many_models_and_long_names_are_cut_and_said():
    names = [f"model {place} " + "x" * 80 for place in range(70)]
    markup = page(report(names))
    assert f"The first {MAX_ROWS} of 70 models." in markup
    assert f"Of 70 models the {MAX_MATRIX} strongest" in markup
    chart = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", markup)[0])
    rows = rows_of(chart)
    assert len(rows) == MAX_ROWS
    label = next(rows[0].iter("text")).text
    assert len(label) == MAX_NAME
    assert label.endswith("…")
    assert names[0] in markup


def test_the_result_says_who_leads_and_whether_clearly():
    found = report()
    shown = words(page(found))
    assert (
        "A clear leader dpo is ahead of sft by 0.50 nats (0.30 to 0.70): of what one of the two wins" in shown
    )
    unclear = copy.deepcopy(found)
    unclear["to_next"][0]["clear"] = False
    shown = words(page(unclear))
    assert "No clear leader" in shown
    assert "the two are not told apart" in shown


def test_every_number_of_a_row_stands_in_the_table():
    shown = words(page(report()))
    assert "1 dpo 1.00 0.80 to 1.20 0.70 to 1.30 174 1,200 3 7" in shown
    assert "2 left out: skipped." in shown
    assert "1,234" in shown


def test_a_baseline_has_a_table_of_its_own():
    found = report()
    found |= {"baseline": "ref", "to_baseline": [contrast("dpo", "ref", 1.0, clear=True)]}
    shown = words(page(found))
    assert "Against ref" in shown
    assert "dpo against ref 1.00 0.80 to 1.20" in shown
    assert "Each against the next weaker" in shown


def test_the_table_of_wins():
    markup = page(report())
    section = markup[markup.index('id="matrix"') :]
    shown = words(section)
    assert "1 dpo · 73 % 30–4–10 – 2 sft 27 % 10–4–30 · 73 % 30–4–10" in shown
    assert section.count('class="over2"') == 2
    assert section.count('class="under2"') == 2
    assert section.count('class="unmet"') == 2
    assert section.count('class="self"') == 3


def test_shades():
    assert [shade(value) for value in (0.5, 0.505, 0.52, 0.63, 0.76, 0.9, 1.0)] == [
        *("equal", "equal", "over1", "over2", "over3", "over4", "over4")
    ]
    assert [shade(1 - value) for value in (0.52, 0.63, 0.76, 1.0)] == ["under1", "under2", "under3", "under4"]
    markup = page(report())
    assert all(f".{side}{step})" in markup for side in ("over", "under") for step in range(1, SHADES + 1))


@pytest.mark.parametrize("ties", ["rao-kupper", "half"])
def test_the_model_of_ties_is_said(ties):
    found = report() | {"tie_model": ties}
    if ties == "half":
        found |= {"tie_parameter": None, "tie_parameter_bootstrap": None}
    shown = words(page(found)).replace("&#x27;", "'")
    assert (
        "Rao and Kupper's model, θ = 0.50 (0.40 to 0.60)" if ties == "rao-kupper" else "half a win"
    ) in shown
    assert ("1/(1 + exp(−d))" in shown) == (ties != "rao-kupper")


def test_hostile_names_are_text():
    found = report(HOSTILE)
    found["provenance"]["file"] = HOSTILE[2]
    found |= {"baseline": HOSTILE[2], "to_baseline": [contrast(HOSTILE[3], HOSTILE[2], 1.0, clear=False)]}
    markup = page(found)
    assert "<script" not in markup
    assert 'onload="' not in markup
    assert "\x1b" not in markup
    assert "\u202e" not in markup
    assert "⟨U+001B⟩[31mred⟨U+202E⟩txet" in markup
    assert "=cmd()|&#x27; /C calc&#x27;!A0" in markup


def test_nothing_is_loaded():
    markup = page(report())
    assert "default-src &#x27;none&#x27;" in markup or "default-src 'none'" in markup
    assert not re.search(r"<(script|link|img|iframe)|\bsrc=|https?://", markup)
