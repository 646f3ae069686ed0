"""The page of `logratio verify` in a real browser: nothing is logged as wrong, nothing overflows."""

from __future__ import annotations

import pytest

from cli.tiny_checks import FAILS, HOLDS, RAISES, gathered, made_pictures
from logratio.verify.report.page import page
from web.test_report_page import Document, browse

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    written = tmp_path_factory.mktemp("verify") / "verify.html"
    written.write_text(page(gathered(HOLDS, FAILS, RAISES) | {"pictures": made_pictures()}), encoding="utf-8")
    return written


def test_the_browser_reports_nothing_and_shows_the_text(path, tmp_path):
    dom, log = browse(tmp_path / "profile", path.as_uri(), "--dump-dom")
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []
    document = Document(dom)
    assert "one half | a <b>" in document.text
    assert "script" not in document.tags


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_is_wider_than_the_window(path, tmp_path, width):
    """A script, in a copy without the policy, measures the page; tables may scroll inside themselves."""
    measure = "document.title = `width ${document.documentElement.scrollWidth} of ${innerWidth}`"
    text = path.read_text(encoding="utf-8").replace("default-src", "x-default-src")
    copy = tmp_path / "copy.html"
    copy.write_text(text.replace("</body>", f"<script>{measure}</script></body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f src='copy.html' style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>f.onload = () => document.body.append(f.contentDocument.title)</script>"
    )
    flags = ("--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=5000")
    dom, _ = browse(tmp_path / "profile", frame.as_uri(), *flags)
    assert f"width {width} of {width}" in dom
