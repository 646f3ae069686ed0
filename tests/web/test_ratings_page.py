"""The page of ratings in a real browser: sizes, colours, hostile names; and the picture in the docs.

    LOGRATIO_PICTURES=docs pytest tests/web/test_ratings_page.py

writes that picture anew.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from logratio.cli.rate import PAGE, Arguments, run

pytestmark = pytest.mark.web

STRENGTHS = {
    "dpo, beta 0.1": 0.85,
    "ppo": 0.75,
    "dpo, beta 0.5": 0.45,
    "sft": 0.0,
    "best of 4": 0.3,
    "reference": -0.9,
}
HOSTILE = ("<script>document.title='ran'</script>", "<img src=x onerror=alert(1)>", "\u202etxet", "w" * 200)


def votes(path, strengths, *, num_votes, seed=0):
    """Drawn from Davidson's model with ν = 0.4."""
    draw, names = random.Random(seed), list(strengths)
    lines = ["model_a,model_b,outcome"]
    for _ in range(num_votes):
        first, second = draw.sample(names, 2)
        a, b = math.exp(strengths[first]), math.exp(strengths[second])
        tie = 0.4 * math.sqrt(a * b)
        outcome = draw.choices(["model_a", "model_b", "tie"], [a, b, tie])[0]
        lines.append(f'"{first}","{second}",{outcome}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    place = tmp_path_factory.mktemp("ratings")
    path = votes(place / "votes.csv", STRENGTHS, num_votes=600)
    assert run(Arguments(comparisons=path, baseline="reference", out=place, bootstrap=400)) == 0
    return place / PAGE


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    place = tmp_path_factory.mktemp("hostile")
    path = votes(place / "votes.csv", dict.fromkeys(HOSTILE, 0.0), num_votes=200)
    assert run(Arguments(comparisons=path, baseline=HOSTILE[0], out=place, bootstrap=0)) == 0
    return place / PAGE


def show(browser, path, *, width, scheme="light"):
    """The page with what it logged and what it asked for."""
    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    heard = []
    shown.on("console", lambda message: heard.append(message.text))
    shown.on("request", lambda request: heard.append(request.url))
    shown.on("dialog", lambda dialog: heard.append(dialog.message))
    shown.goto(path.as_uri())
    return shown, [one for one in heard if one != path.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_fits_and_says_nothing_to_the_console(browser, page, width, scheme):
    shown, heard = show(browser, page, width=width, scheme=scheme)
    assert heard == []
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    plot = shown.locator("svg.chart").first.bounding_box()
    assert plot["width"] <= width
    # Text in the plot keeps its size on a phone, and lies inside.
    sizes = shown.evaluate(
        "[...document.querySelectorAll('svg.chart text')].map(one => getComputedStyle(one).fontSize)"
    )
    assert set(sizes) == {"12px"}
    halo = 5
    for box in (one.bounding_box() for one in shown.locator("svg.chart text, svg.chart circle").all()):
        assert box["x"] >= plot["x"] - halo
        assert box["x"] + box["width"] <= plot["x"] + plot["width"] + halo
    shown.close()


def test_cells_are_shaded_by_who_won(browser, page):
    shown, _ = show(browser, page, width=1200)
    colours = {
        side: shown.evaluate(
            "style => getComputedStyle(document.querySelector('.matrix .' + style).parentElement)"
            ".backgroundColor",
            side,
        )
        for side in ("over3", "under3", "self")
    }
    assert len(set(colours.values())) == 3
    assert colours["self"] == "rgba(0, 0, 0, 0)"
    shown.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_hostile_names_are_text(browser, hostile, width):
    shown, heard = show(browser, hostile, width=width)
    assert heard == []
    assert "ran" not in shown.title()
    assert shown.evaluate("document.querySelectorAll('script, img, [onerror]').length") == 0
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    text = shown.inner_text("main")
    assert HOSTILE[0] in text
    assert "⟨U+202E⟩txet" in text
    shown.close()


def test_the_picture_in_the_docs(browser, page, tmp_path):
    pictures = Path(os.environ.get("LOGRATIO_PICTURES", tmp_path))
    shown, _ = show(browser, page, width=1200)
    section = shown.locator("#strengths").bounding_box()
    clip = {"x": 0, "y": 0, "width": 1200, "height": section["y"] + section["height"] + 20}
    shown.screenshot(path=pictures / "ratings.png", full_page=True, clip=clip)
    shown.close()
    assert (pictures / "ratings.png").read_bytes().startswith(b"\x89PNG")
