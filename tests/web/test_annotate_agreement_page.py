"""The page of agreement in a real browser: sizes, schemes, axe-core; and the picture in the docs.

    LOGRATIO_PICTURES=docs pytest tests/web/test_annotate_agreement_page.py

writes that picture anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from annotate import label_snapshots
from logratio.annotate.storage.store import Store
from logratio.annotate.web.agreement_page import render_agreement
from web.accessibility import assert_accessible, axe_script

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    place = tmp_path_factory.mktemp("agreement")
    with Store.open(label_snapshots.fill(place / "labels.db", label_snapshots.drawn())) as store:
        (place / "agreement.html").write_text(render_agreement(store, alone=True), encoding="utf-8")
    return (place / "agreement.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_its_window_and_axe_finds_no_serious_fault(browser, address, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert said == []
    page.evaluate(axe_script())
    assert {"color-contrast", "html-has-lang"} <= assert_accessible(page)
    context.close()


@pytest.mark.skipif("LOGRATIO_PICTURES" not in os.environ, reason="LOGRATIO_PICTURES says where pictures go")
def test_the_picture_of_the_docs(browser, address):
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.goto(address)
    page.screenshot(path=Path(os.environ["LOGRATIO_PICTURES"]) / "annotate_agreement.png")
    page.close()
