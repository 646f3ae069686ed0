"""Whether a column of winners holds names of models or sides: decided for a file as a whole.

`A` may be the word for model_a, and may be a model's name. What a column means is told by the rows that can
be read in one way alone; where there are none, and the others differ, it is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from logratio.errors import AmbiguousWinner, BadConfig, WrongType
from logratio.evaluation.ratings.pairwise_counts import PairOutcome, Result, short

Meaning = Literal["auto", "names", "sides"]
"""names: who won, by the model's name; sides: model_a or model_b; auto: as the file's rows tell."""
RESULT_WORDS: dict[str, Result] = {
    "model_a": "first",
    "a": "first",
    "model_b": "second",
    "b": "second",
    "tie": "tie",
    "tie (bothbad)": "both-bad",
    "both_bad": "both-bad",
    "bothbad": "both-bad",
}
STRAY = 0.1
"""Rows of the other kind that may be mistakes, as a share of those that can be read in one way alone."""
FLAG = (
    "say which with --winner-column names (the winner's name) or --winner-column sides (model_a or model_b)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerRow:
    """A row of two models and a column that says which of them won."""

    first: str
    """The name in model_a."""
    second: str
    """The name in model_b."""
    winner: str
    """What the column says, in the form that names have."""
    column: str
    """The column's name."""
    count: int
    """How often."""
    source: str
    """Where it stands."""

    @property
    def as_side(self) -> Result | None:
        """What came of it, if the column holds sides."""
        return RESULT_WORDS.get(self.winner.casefold())

    @property
    def as_name(self) -> Result | None:
        """What came of it, if the column holds names; nobody's name may be a word for a tie."""
        if self.winner in (self.first, self.second):
            return "first" if self.winner == self.first else "second"
        side = self.as_side
        return side if side in ("tie", "both-bad") else None

    @property
    def as_other_capitals(self) -> Result | None:
        """The same, were capitals to make no difference."""
        winner = self.winner.casefold()
        if winner == self.first.casefold():
            return "first"
        return "second" if winner == self.second.casefold() else self.as_name

    def outcome(self, result: Result) -> PairOutcome:
        """The row with its outcome."""
        return PairOutcome(
            first=self.first, second=self.second, result=result, count=self.count, source=self.source
        )


def settle_meaning(rows: Sequence[WinnerRow], requested: Meaning = "auto") -> tuple[Meaning, str]:
    """What the column means in all rows, and a sentence on it; `auto` where all rows say the same either way.

    Raises:
        AmbiguousWinner: the rows do not tell.
        BadConfig: it is asked for, and there is no such row.
    """
    if requested != "auto":
        if not rows:
            raise no_winner_column()
        return requested, _sentence(rows[0].column, requested)
    by_name = [row for row in rows if row.as_side is None and row.as_other_capitals is not None]
    by_side = [row for row in rows if row.as_side is not None and row.as_other_capitals is None]
    fewer, more = sorted((by_name, by_side), key=len)
    if len(fewer) > STRAY * len(more):
        raise _both_kinds(by_name[0], by_side[0])
    if more:
        meaning: Meaning = "names" if more is by_name else "sides"
        _refuse_ties_by_name(rows, meaning)
        return meaning, _sentence(more[0].column, meaning)
    unclear = next((row for row in rows if row.as_side != row.as_other_capitals), None)
    if unclear is not None:
        raise _ambiguous(unclear, f"a model's name, and a word for {unclear.as_side}")
    return "auto", ""


def no_winner_column() -> BadConfig:
    """The fault of asking what a column holds that is not there."""
    return BadConfig(
        "no row has model_a, model_b and a column that says who won",
        where="--winner-column",
        action="leave the flag away",
    )


def reader(meaning: Meaning) -> Callable[[WinnerRow], PairOutcome]:
    """How a row is read where the column has this meaning; raises `WrongType` where it cannot be."""
    return {"names": _by_name, "sides": _by_side, "auto": _either}[meaning]


def _by_name(row: WinnerRow) -> PairOutcome:
    if row.as_name is not None:
        return row.outcome(row.as_name)
    if row.as_other_capitals is not None:
        what = f"{row.column} is {short(row.winner)}, which differs in capitals from the row's model"
        raise WrongType(what, where=row.source, action="write the name as in the column of models")
    models = f"{short(row.first)}, {short(row.second)}"
    raise WrongType(
        f"{row.column} is {short(row.winner)}, in a column that holds names; the row's models are {models}",
        where=row.source,
        action="give the name of one of them, tie or tie (bothbad); or --winner-column sides",
    )


def _by_side(row: WinnerRow) -> PairOutcome:
    return _sided(row, action="give model_a, model_b, tie or tie (bothbad); or --winner-column names")


def _either(row: WinnerRow) -> PairOutcome:
    return _sided(
        row, action="give model_a, model_b, tie or tie (bothbad), or the name of one of the row's models"
    )


def _sided(row: WinnerRow, *, action: str) -> PairOutcome:
    if row.as_side is None:
        raise WrongType(f"{row.column} is {short(row.winner)}", where=row.source, action=action)
    return row.outcome(row.as_side)


def _sentence(column: str, meaning: Meaning) -> str:
    holds = "names of models" if meaning == "names" else "sides, model_a or model_b"
    return f"The column {column} was read as {holds}."


def _refuse_ties_by_name(rows: Sequence[WinnerRow], meaning: Meaning) -> None:
    """Where the column holds names, a model called `tie` may have won, or nobody."""
    for row in rows:
        if meaning == "names" and row.as_side in ("tie", "both-bad") and row.as_name in ("first", "second"):
            raise _ambiguous(row, "a model's name, and a word for a tie")


def _ambiguous(row: WinnerRow, both: str) -> AmbiguousWinner:
    return AmbiguousWinner(f"{row.column} is {short(row.winner)}: {both}", where=row.source, action=FLAG)


def _both_kinds(name: WinnerRow, side: WinnerRow) -> AmbiguousWinner:
    return AmbiguousWinner(
        f"{name.column} is {short(name.winner)}, a model's name, and {short(side.winner)}, a side, "
        f"at {side.source}",
        where=name.source,
        action=f"write all rows in one way, or {FLAG}",
    )
