"""The report in a real browser: nothing is fetched, no hostile text acts, nothing is logged as wrong."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from logratio.report import render
from report import run_directories

pytestmark = pytest.mark.web

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND"),
)


def browse(profile, address, *flags):
    """Run Chromium on an address; its output and what it logged."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "Chromium is needed: apt-get install chromium"
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, address]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode(), done.stderr.decode(errors="replace")


class Document(HTMLParser):
    """Tags, attributes and texts of what the browser made of the page."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.tags, self.names, self.text = set(), set(), ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.names |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "quickstart"
    return render(run_directories.write_quickstart(place, **run_directories.beside_ppo()))


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    return browse(tmp_path_factory.mktemp("profile"), page.as_uri(), "--dump-dom")


def test_the_browser_reports_nothing(opened):
    _, log = opened
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []


def test_the_browser_would_report_a_violation(page, tmp_path):
    """The test above can fail: the page's own policy stops a script, and the log says so."""
    spoiled = tmp_path / "spoiled.html"
    text = page.read_text().replace("</main>", "<script>document.title = 'ran'</script></main>")
    spoiled.write_text(text)
    dom, log = browse(tmp_path / "profile", spoiled.as_uri(), "--dump-dom")
    assert "<title>ran" not in dom
    assert [line for line in log.splitlines() if "CONSOLE" in line and "Content Security Policy" in line]


def test_hostile_text_is_text_in_the_browsers_document(opened):
    document = Document(opened[0])
    assert not document.tags & {"script", "img", "iframe", "object", "form", "input", "base", "link"}
    assert not [name for name in document.names if name.startswith("on")]
    assert not document.names & {"src", "srcset", "action"}
    for text in run_directories.HOSTILE:
        if text.isascii() and text.isprintable():
            assert text in document.text
    assert "Provenance" in document.text


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(page, tmp_path, width):
    """A script, in a copy without the policy, measures the page; tables may scroll inside themselves."""
    measure = "document.title = `width ${document.documentElement.scrollWidth} of ${innerWidth}`"
    probe = f"<script>{measure}</script>"
    text = page.read_text().replace("default-src", "x-default-src").replace("</body>", probe + "</body>")
    copy = tmp_path / "copy.html"
    copy.write_text(text)
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f src='copy.html' style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>f.onload = () => document.body.append(f.contentDocument.title)</script>"
    )
    dom, _ = browse(
        tmp_path / "profile",
        frame.as_uri(),
        "--dump-dom",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
    )
    assert f"width {width} of {width}" in dom


def test_a_picture_can_be_taken(page, tmp_path):
    picture = tmp_path / "report.png"
    browse(tmp_path / "profile", page.as_uri(), f"--screenshot={picture}", "--window-size=1200,1500")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000
