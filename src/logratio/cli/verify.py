"""Hold every estimator and every algorithm against answers that are known exactly.

On a language of four tokens and at most four of them a text, all 121 texts can be written down, and every
average over them is a sum: expected rewards, gradients, divergences, the best policy there is. Each check
computes such a number in the plainest way, has logratio compute it as it does in training, and says how far
apart the two are and how far apart they may be. Forms that are known to be wrong are tried as well: they
must be found wrong. It takes a few minutes and no network.

    logratio verify
    logratio verify --quick
    logratio verify --only E3 --only P1

verify.json in --out holds every number, and verify.html is a page with pictures that explains them. The exit
status is 1 where a comparison does not hold, else 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.recipes.out_directory import prepare_out_directory
from logratio.run_directory import atomic_write, write_json

NUMBERS, PAGE = "verify.json", "verify.html"
FILE_WIDTH = 150
"""Columns of the table where no terminal says how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Flags of `logratio verify`."""

    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Run this check alone; give it again for more. Without it all run. The page then has no pictures."""
    quick: bool = False
    """Fewer samples in the checks that draw some: quicker, and less sharp."""
    out: Path = Path("runs/verify")
    """Directory of verify.json and verify.html; what an earlier call wrote there is replaced."""
    markdown: Path | None = None
    """Write the table of checks to this file as well, as a page of the docs: docs/verified.md is made so."""


def run(arguments: Arguments) -> int:
    """Run the checks, print every comparison, write the files; 1 if one does not hold."""
    from logratio.verify.checks.table import select
    from logratio.verify.report.markdown import markdown
    from logratio.verify.report.page import page
    from logratio.verify.report.plot_data import measure
    from logratio.verify.run import gather, run_checks

    checks = select(arguments.only)
    prepare_out_directory(arguments.out)
    outcomes = list(run_checks(checks, quick=arguments.quick, show=lambda line: print(line, flush=True)))
    pictures = None if arguments.only else measure(quick=arguments.quick)
    finished = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    report = gather(outcomes, quick=arguments.quick, finished=finished, pictures=pictures)
    write_json(arguments.out / NUMBERS, report)
    write_text(arguments.out / PAGE, page(report))
    if arguments.markdown is not None:
        write_text(arguments.markdown, markdown(report))
    print_table(report)
    print(f"page:    {arguments.out / PAGE}\nnumbers: {arguments.out / NUMBERS}")
    return 0 if report["passed"] else 1


def write_text(path: Path, text: str) -> None:
    """Write a text, all of it or nothing."""
    with atomic_write(path) as stream:
        stream.write(text)


def print_table(report: Mapping[str, Any]) -> None:
    """Every comparison, then tracebacks of checks that stopped, then the verdict."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from logratio.verify.report.wording import sentence, table_row

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "what is compared"):
        table.add_column(heading, overflow="fold")
    for heading in ("exact", "ours", "apart", "may be"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for check in report["checks"]:
        for place, row in enumerate(check["rows"]):
            cells = [check["name"] if place == 0 else "", *table_row(row)]
            style = None if row["passed"] else "dim" if row["skipped"] else "bold red"
            table.add_row(*map(escape, cells), style=style)
    console.print()
    console.print(table)
    for check in report["checks"]:
        if check["fault"]:
            console.print(f"\n{check['name']} stopped:\n{check['fault']}", markup=False, style="red")
    console.print()
    verdict = "bold red" if report["failed"] else "bold green" if report["passed"] else "bold yellow"
    console.print(sentence(report), style=verdict, markup=False)
