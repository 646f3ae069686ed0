"""A policy gradient's report in a real browser: long names of rewards do not widen it beyond its window."""

from __future__ import annotations

import pytest

from logratio.report import render
from report.policy_gradient_runs import changed_rows, noisy, write_run
from web.test_report_page import browse

pytestmark = pytest.mark.web

LONG = "some_company.rewards_of_ours_that_have_names:politeness_of_all_answers"
RISING = noisy(lambda done: 0.1 + 0.3 * done)


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(tmp_path, width):
    """On the chart with the reward, on a chart of its own in other units, and among the parts of a sum."""
    curves = {
        f"monitored/{LONG}": RISING,
        f"monitored/{LONG}2": lambda done: 40 * done,
        f"reward/{LONG}": RISING,
    }
    page = render(write_run(tmp_path / "run", changed_rows(60, **curves)))
    probe = "<script>document.title = `${document.documentElement.scrollWidth - innerWidth}`</script>"
    text = page.read_text().replace("default-src", "x-default-src").replace("</body>", probe + "</body>")
    (tmp_path / "copy.html").write_text(text)
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f src='copy.html' style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>f.onload = () => document.body.append(`wider by ${f.contentDocument.title}.`)</script>"
    )
    flags = ("--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=5000")
    dom, _ = browse(tmp_path / "profile", frame.as_uri(), *flags)
    assert "wider by 0." in dom
