"""The table of checks as a page of the docs, from the numbers of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.progress import format_seconds
from logratio.report.formatting import number
from logratio.verify.report.wording import limit, nearest, sentence, table_row

PAGE = """# Verified

Every estimator, every objective and small training runs, held against answers that are known exactly. This
page is written by

```
logratio verify --markdown docs/verified.md
```

which also writes `runs/verify/verify.html`, the same with pictures and in plain words, and
`runs/verify/verify.json` with every number.

**{sentence}** {machine}

## How it is done

A language of four tokens, of which one ends a text, and of at most four tokens a text, has 121 texts. They
are all written down, for two prompts. What elsewhere is an average over samples is a sum here, so a
comparison can be as sharp as the number format: most tolerances are 1e-9 or less. Where a check needs
something else (strengths of players, decision processes, Gymnasium environments), that too is small enough to
be solved exactly. The exact side is computed in float64 and in the plainest way, text by text and token by
token, and shares no code with what it judges. Where a check draws samples, its seeds are fixed and its
tolerance is in standard errors or stands in its row.

Some rows try a form that is known to be wrong, such as a gradient without its end token. They hold if that
form is off by *at least* the number given: a check that cannot see a mistake proves nothing.

## The checks

Of each check the table has the comparison that came nearest to its tolerance. What *apart by* means depends
on what is compared: the difference of two numbers, or the largest of many; for gradients the length of the
difference over the length of the exact gradient; for estimates from samples the number of their standard
errors, `z`; for policies the total variation, `TV`, which is the share of probability that lies elsewhere.

{table}

## Every comparison

{rows}
"""
HEADINGS = ("check", "what it shows", "comparisons", "the nearest to its tolerance", "apart by", "may be", "")


def markdown(report: Mapping[str, Any]) -> str:
    """The page: how it is done, a line a check, a line a comparison."""
    lines = [_line(check) for check in report["checks"]]
    sections = "\n\n".join(_section(check) for check in report["checks"])
    return PAGE.format(
        sentence=sentence(report), machine=_machine(report), table=_table(HEADINGS, lines), rows=sections
    )


def _machine(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    machine, quick = report["machine"], " with fewer samples (`--quick`)" if report["quick"] else ""
    return (
        f"Measured{quick} in {format_seconds(report['seconds'])} on {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}, {versions}."
    )


def _line(check: Mapping[str, Any]) -> list[str]:
    row = nearest(check)
    controls = sum(comparison["control"] for comparison in check["rows"])
    compared = 0 if check["skipped"] else len(check["rows"])
    count = f"{compared}" + (f", {controls} of a wrong form" if controls else "")
    cells = ["–", "–", "–"] if row is None else [row["what"], number(row["error"]), limit(row)]
    verdict = "holds" if check["passed"] else "**skipped**" if check["skipped"] else "**FAILED**"
    return [check["name"], check["title"], count, *cells, verdict]


def _section(check: Mapping[str, Any]) -> str:
    rows = [table_row(row) for row in check["rows"]]
    table = _table(("what is compared", "exact", "ours", "apart by", "may be", ""), rows)
    return f"### {check['name']}: {check['title']}\n\n{table}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A text that stays in its cell: a bar in it, as in π(a|s), would begin the next."""
    return str(text).replace("|", "\\|").replace("\n", " ")
