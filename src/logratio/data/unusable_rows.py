"""Rows that cannot be used: each has a place and one reason, and their number is part of the result.

One rule for every command that reads rows: what cannot be used is left out, counted by reason, and named by
file and line. A command ends where too many are left out, since that is no bad row but a wrong file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from logratio.errors import BadConfig, DataFault, UnusableRows

MAX_SHARE = 0.1
"""The share of the rows that may be left out where nothing else is said."""
FEW_SHOWN = 3
"""Rows left out that are shown; all of them stand in a file."""
FEW_ROWS = 5
"""Where nothing else is said, so many may be left out of a short file, unless they are half of it."""


class HasSource(Protocol):
    """Anything that was read at a place."""

    @property
    def source(self) -> str: ...  # noqa: D102


Item = TypeVar("Item", bound=HasSource)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableRow:
    """A row that is left out, and why."""

    source: str
    """`file:line`."""
    fault_name: str
    """The fault, by its name in `logratio.errors`."""
    what: str
    """What is wrong, with the offending value."""
    action: str = ""
    """What the reader can do."""

    @classmethod
    def of(cls, fault: DataFault, *, source: str) -> UnusableRow:
        """The row at `source` that raised `fault`."""
        return cls(source=fault.where or source, fault_name=fault.name, what=fault.what, action=fault.action)

    def to_json(self) -> dict[str, str]:
        """`{"where", "what", "action"}`."""
        return {"where": self.source, "what": self.what, "action": self.action}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRows(Generic[Item]):
    """Every row of a file: `num_rows == len(usable) + len(unusable)`."""

    usable: list[Item]
    """What was read, in the file's order."""
    unusable: list[UnusableRow]
    """The other rows, in the file's order."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """How many of the rows that were read have each column."""

    @property
    def num_rows(self) -> int:
        """How many rows were read; blank lines hold none."""
        return len(self.usable) + len(self.unusable)

    def keep(self, check: Callable[[Item], object]) -> ReadRows[Item]:
        """The same with those rows left out for which `check` raises a `DataFault`."""
        usable: list[Item] = []
        unusable: list[UnusableRow] = []
        for item in self.usable:
            try:
                check(item)
                usable.append(item)
            except DataFault as fault:
                # Only the row knows its line: a fault may say which message or answer it is.
                unusable.append(replace(UnusableRow.of(fault, source=""), source=item.source))
        return replace(self, usable=usable, unusable=sorted(self.unusable + unusable, key=line_of))

    def to_json(self) -> dict[str, Any]:
        """Counts that add up, and every row left out with its place and reason."""
        return {"num_rows": self.num_rows, "num_usable": len(self.usable)} | unusable_json(self.unusable)


def unusable_json(unusable: Sequence[UnusableRow]) -> dict[str, Any]:
    """How many rows are left out by each fault, and all of them with place and reason."""
    faults = by_fault(unusable)
    return {
        "unusable": {name: len(rows) for name, rows in faults.items()},
        "faults": {name: [row.to_json() for row in rows] for name, rows in faults.items()},
    }


def by_fault(unusable: Sequence[UnusableRow]) -> dict[str, list[UnusableRow]]:
    """The rows left out by the fault's name, the most frequent first."""
    names = [name for name, _ in Counter(row.fault_name for row in unusable).most_common()]
    return {name: [row for row in unusable if row.fault_name == name] for name in names}


def line_of(row: UnusableRow) -> int:
    """The line a row stands on; 0 where its place is not `file:line`."""
    line = row.source.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


def count_rows(unusable: Sequence[UnusableRow], num_rows: int) -> str:
    """`100 rows: 98 usable, 2 left out (1 EmptyAnswer, 1 IdenticalPair)`."""
    why = f" ({count_faults(unusable)})" if unusable else ""
    return f"{num_rows} rows: {num_rows - len(unusable)} usable, {len(unusable)} left out{why}"


def count_faults(unusable: Sequence[UnusableRow]) -> str:
    """`1 EmptyAnswer, 1 IdenticalPair`, the most frequent first."""
    return ", ".join(f"{len(rows)} {name}" for name, rows in by_fault(unusable).items())


def unused_columns(columns: Mapping[str, int], used: Iterable[str]) -> dict[str, int]:
    """The columns that are not among `used`, with how many rows have each, the most frequent first."""
    known = set(used)
    return dict(sorted((pair for pair in columns.items() if pair[0] not in known), key=lambda pair: -pair[1]))


def describe_columns(unused: Mapping[str, int]) -> str:
    """`columns not used: foo (12 rows), bar (1 row)`; empty where all are used."""
    shown = (f"{name} ({count} {'row' if count == 1 else 'rows'})" for name, count in unused.items())
    return f"columns not used: {', '.join(shown)}" if unused else ""


def describe_rows(
    unusable: Sequence[UnusableRow], num_rows: int, unused: Mapping[str, int], *, noted: str = ""
) -> list[str]:
    """How many rows are usable, the first few of the others, and columns that nothing reads, in lines.

    Args:
        unusable: the rows left out.
        num_rows: how many there are.
        unused: columns that nothing reads.
        noted: the file in which all rows left out will stand.
    """
    lines = [count_rows(unusable, num_rows)]
    lines += [f"  {row.source}  {row.fault_name}: {one_line(row.what)}" for row in unusable[:FEW_SHOWN]]
    if len(unusable) > FEW_SHOWN:
        where = f"; all are in {noted}" if noted else ""
        lines.append(f"  and {len(unusable) - FEW_SHOWN} more{where}")
    return lines + ([one_line(describe_columns(unused))] if unused else [])


def one_line(text: str) -> str:
    """A text without line breaks and control characters, which a terminal might obey."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


# --- how many may be left out ------------------------------------------------------------------------


def too_many(unusable: Sequence[UnusableRow], num_rows: int, *, max_share: float | None = None) -> str:
    """Why so many rows must not be left out; empty where they may be.

    Args:
        unusable: the rows left out.
        num_rows: how many there are.
        max_share: the largest share that may be left out. Where nothing is said it is a tenth, or five rows
            where that is more, and always less than half.
    """
    num = len(unusable)
    if max_share is None:
        limit = "half" if 2 * num >= num_rows else f"{MAX_SHARE:.0%}"
        over = num > max(MAX_SHARE * num_rows, FEW_ROWS) or 2 * num >= num_rows
    else:
        limit, over = f"{100 * max_share:g}%", num > max_share * num_rows
    return f"{num} of {num_rows} rows are left out, over {limit}: {count_faults(unusable)}" if over else ""


def ensure_share(max_share: float | None) -> None:
    """Raise `BadConfig` unless the share is one."""
    if max_share is not None and not 0 <= max_share <= 1:
        raise BadConfig(
            f"max_unusable_share is {max_share}",
            where="--max-unusable-share",
            action="give a share from 0 to 1",
        )


def refuse_rows(unusable: Sequence[UnusableRow], num_rows: int, *, because: str = "") -> UnusableRows:
    """The fault that ends a command for its unusable rows: it names the first, and counts all."""
    first = unusable[0]
    return UnusableRows(
        (f"{because}: " if because else "")
        + f"{len(unusable)} of {num_rows} rows cannot be used ({count_faults(unusable)}); the first: "
        f"{first.fault_name}: {first.what}",
        where=first.source,
        action=first.action or "mend the row, or take it out",
    )
