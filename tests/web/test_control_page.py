"""The page of several runs in an environment in a real browser: within its window, and its film is shown."""

from __future__ import annotations

import json

import pytest

from logratio.report import render
from report import control_runs
from web.test_report_page import browse

pytestmark = pytest.mark.web


@pytest.fixture
def run(tmp_path):
    runs = {seed: (380.0 + 10 * seed, control_runs.rows(200, seed=seed)) for seed in range(5)}
    return control_runs.write_several(tmp_path / "run", runs)


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(run, tmp_path, width):
    probe = "<script>document.title = `${document.documentElement.scrollWidth - innerWidth}`</script>"
    text = (
        render(run).read_text().replace("default-src", "x-default-src").replace("</body>", probe + "</body>")
    )
    (tmp_path / "copy.html").write_text(text)
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f src='copy.html' style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>f.onload = () => document.body.append(`wider by ${f.contentDocument.title}.`)</script>"
    )
    flags = ("--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=5000")
    dom, _ = browse(tmp_path / "profile", frame.as_uri(), *flags)
    assert "wider by 0." in dom


def test_a_film_is_shown_under_the_page_s_own_policy(run, tmp_path):
    """The browser reads the film's size and length out of the data that stand in the page."""
    writer = pytest.importorskip("moviepy.video.io.ffmpeg_writer", reason="needs the extra `video`")
    import numpy as np

    with writer.FFMPEG_VideoWriter(str(run / "episode.mp4"), (64, 48), 10) as film:
        for shade in range(20):
            film.write_frame(np.full((48, 64, 3), 10 * shade, np.uint8))
    report = json.loads((run / "report.json").read_text())
    told = {"file": "episode.mp4", "seed": 4, "return": 420.0, "steps": 19, "whole": True}
    (run / "report.json").write_text(json.dumps(report | {"film": told}))
    text = render(run).read_text()
    probe = (
        "<p id=told></p><script>const film = document.querySelector('video');"
        "const tell = () => told.textContent ="
        " `film ${film.videoWidth}x${film.videoHeight}, ${film.duration} s`;"
        "film.readyState ? tell() : film.addEventListener('loadedmetadata', tell)</script></body>"
    )
    # The page's policy but for the probe: `media-src` stays as it is.
    text = text.replace("style-src", "script-src &#x27;unsafe-inline&#x27;; style-src")
    (tmp_path / "copy.html").write_text(text.replace("</body>", probe))
    flags = ("--dump-dom", "--virtual-time-budget=8000")
    dom, _ = browse(tmp_path / "profile", (tmp_path / "copy.html").as_uri(), *flags)
    assert "film 64x48, 2 s" in dom
