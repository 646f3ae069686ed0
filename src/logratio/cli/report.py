"""One page from a run directory: results, their intervals, and warnings.

    logratio report runs/quickstart

reads what training and evaluation left in the directory and writes two files into it: report.html, a single
page that needs no network, with the verdict, what each step did, the training curves, answers side by side,
the counts of the data, warnings and provenance; and report.json with every number of it. It works for a
quickstart, for one training run and for an evaluation, also while they are running: what is not there yet is
named.
"""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from logratio.report import collect, write_report
from logratio.report.control_runs import is_control
from logratio.report.html import visible
from logratio.report.sections.control import headline
from logratio.report.warnings.verdict import allowed_verdict
from logratio.run_directory import REPORT


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Flags of `logratio report`."""

    run: tyro.conf.Positional[Path]
    """The run directory: the --out of a quickstart, a training run or an evaluation."""
    open: bool = False
    """Show the page in a browser."""


def run(arguments: Arguments) -> int:
    """Write the report and print the verdict, the warnings and where the files are."""
    report = collect(arguments.run)
    page = write_report(arguments.run, report)
    print("\n".join(summary(report)))
    print(f"page:    {page}")
    print(f"numbers: {page.with_name(REPORT)}")
    if arguments.open and not webbrowser.open(page.resolve().as_uri()):
        print("no browser could be started: open the page by hand")
    return 0


def summary(report: Mapping[str, Any]) -> list[str]:
    """The verdict, what is missing and every warning, a line each, with control characters written out."""
    _, sentence = ("", " ".join(headline(report))) if is_control(report) else allowed_verdict(report)
    lines = [sentence or "There is no verdict.", *report["missing"]]
    lines += [f"{one.get('severity', 'warning')}: {one['name']}: {one['what']}" for one in report["warnings"]]
    return [visible(line.replace("\n", " ")) for line in lines]
