"""Two answers to one prompt, as people compare them, from files of completions or of comparisons.

Which answer is A and which is B is settled by the texts alone, so that the same pair has the same name
whatever file it came from and whichever answer stood first there. It says nothing about sides of a screen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from logratio.data.jsonl import FILE_FAULTS, SourceRow, scan_rows
from logratio.data.label_metadata import REWARDS
from logratio.data.preference_formats import COLUMNS, normalise, parse_comparison
from logratio.data.record_parsing import parse_completion, parse_prompt_columns, require_column
from logratio.data.unusable_rows import UnusableRow
from logratio.errors import BadConfig, ContradictoryLabels, DataFault, EmptyAnswer, IdenticalPair, WrongType
from logratio.records import Completion, Prompt
from logratio.run_directory import hash_file

Choice = Literal["a", "b", "tie"]
"""What was judged better: a content, never a side of the screen."""
Verdict = Literal["a", "b", "tie", "bad", "skip", "flag"]
"""A choice, or: both are bad, I pass, this pair is broken."""
Pairing = Literal["all", "adjacent", "random"]
"""Which pairs of a prompt's answers are compared."""

USED_OF_ANSWERS = ("prompt", "completions", "model")
USED_OF_COMPARISONS = (*COLUMNS, "chosen_model", "rejected_model", "margin", *REWARDS, "gold")
"""The columns that are read of rows with answers, and of rows with comparisons."""
ROW_GOLD = ("chosen", "rejected", "tie")
FEW_ANSWERS = "one answer"
LEFT_OUT = {IdenticalPair: "identical", EmptyAnswer: "empty"}
OTHER: dict[Choice, Choice] = {"a": "b", "b": "a", "tie": "tie"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to one prompt."""

    id: str
    """16 hexadecimal digits of prompt, texts and models: the same whatever the file's order."""
    prompt: Prompt
    """What was answered."""
    a: Completion
    """The answer whose text comes first in the order of texts."""
    b: Completion
    """The other answer."""
    models: tuple[str, str] = ("", "")
    """Who wrote a and who wrote b, empty where unknown; annotators do not see it."""
    source: str = ""
    """Where it was read: `file:line`."""
    margin: float | None = None
    """By how much a model or a reward prefers a to b, where the row says so."""
    gold: Choice | None = None
    """The right verdict, where this pair is there to check annotators."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse."""
        return {
            "id": self.id,
            **self.prompt.columns(),
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "models": list(self.models),
            "source": self.source,
            "margin": self.margin,
            "gold": self.gold,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pair:
        """The inverse of `to_json`."""
        first, second = value["models"]
        return cls(
            id=value["id"],
            prompt=Prompt.from_columns(value),
            a=Completion.from_json(value["a"]),
            b=Completion.from_json(value["b"]),
            models=(first, second),
            source=value["source"],
            margin=value["margin"],
            gold=value["gold"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFile:
    """What a file gave: `num_considered == len(pairs) + sum(left_out.values())`."""

    pairs: list[Pair]
    """The pairs, in the file's order."""
    sha256: str
    """Of the file."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many were left out, by reason: identical, empty, duplicate, one answer, or a fault's name."""
    num_rows: int = 0
    """Rows of the file."""
    unusable: list[UnusableRow] = field(default_factory=list)
    """Those of them that cannot be used; they are counted in `left_out` too."""
    columns: dict[str, int] = field(default_factory=dict)
    """How many of the other rows have each column."""

    @property
    def num_considered(self) -> int:
        """Pairs that were looked at, and rows that gave none."""
        return len(self.pairs) + sum(self.left_out.values())


def make_pair(
    prompt: Prompt,
    first: Completion,
    second: Completion,
    *,
    models: tuple[str, str] = ("", ""),
    source: str = "",
    margin: float | None = None,
    gold: Choice | None = None,
) -> Pair:
    """The pair of two answers, put into the order of texts; it is the same pair in either order.

    Args:
        prompt: what was answered.
        first: one answer.
        second: the other.
        models: who wrote the first and who the second.
        source: `file:line`.
        margin: by how much the first is preferred by a model or a reward.
        gold: the right verdict, `a` meaning the first.
    """
    if (second.identity, models[1]) < (first.identity, models[0]):
        first, second = second, first
        models = (models[1], models[0])
        margin = None if margin is None else -margin
        gold = None if gold is None else OTHER[gold]
    named = [prompt.key, first.identity, second.identity, *models]
    digest = hashlib.sha256(json.dumps(named, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return Pair(
        id=digest.hexdigest()[:16],
        prompt=prompt,
        a=first,
        b=second,
        models=models,
        source=source,
        margin=margin,
        gold=gold,
    )


def read_pairs(
    path: Path | str,
    *,
    pairing: Pairing = "adjacent",
    pairs_per_prompt: int = 1,
    seed: int = 0,
    gold: bool = False,
    model: str = "",
) -> PairFile:
    """Pairs of a file of completions, as `logratio sample` writes it, or of comparisons.

    The answers to one prompt are compared with each other even where they stand in several rows, such as
    one row a model. Of a comparison, which answer was chosen is forgotten, unless it is there as gold.

    Args:
        path: JSON Lines, also `.gz`, or Parquet.
        pairing: of a prompt's answers: all pairs, neighbours in the file's order, or some at random.
        pairs_per_prompt: how many pairs of a prompt's answers `random` draws.
        seed: of `random`.
        gold: every comparison is there to check annotators; the chosen answer is the right one unless the
            row's column `gold` says `rejected` or `tie`.
        model: who wrote the answers of rows that do not say.

    Raises:
        FileNotReadable: there is no such file, or it is empty, cut off or of another kind.
        BadJsonLine, BadEncoding, RowNotObject: not one line is a JSON object.
        BadConfig: an unknown pairing, or too few pairs for each prompt.
    """
    if pairing not in get_args(Pairing):
        raise BadConfig(f"pairing is {pairing!r}", action="choose all, adjacent or random")
    if pairs_per_prompt < 1:
        raise BadConfig(f"pairs_per_prompt is {pairs_per_prompt}", action="give 1 or more")
    sha256 = hash_file(Path(path)) if Path(path).is_file() else ""
    reader = _Reader(gold=gold, model=model)
    reader.read(path)
    for answers in reader.answers.values():
        _pair_answers(reader, answers, _pairing_of(pairing, pairs_per_prompt, seed))
    pairs = sorted(reader.pairs.values(), key=lambda pair: reader.order[pair.id])
    return PairFile(
        pairs=pairs,
        sha256=sha256,
        left_out=dict(reader.left_out),
        num_rows=reader.num_rows,
        unusable=reader.unusable,
        columns=dict(reader.columns),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """One answer of a file of completions."""

    prompt: Prompt
    completion: Completion
    model: str
    source: str
    row: int


class _Reader:
    """Collects the pairs of a file, and counts what is left out."""

    def __init__(self, *, gold: bool, model: str) -> None:
        self.gold = gold
        self.model = model
        self.pairs: dict[str, Pair] = {}
        self.order: dict[str, int] = {}
        self.left_out: Counter[str] = Counter()
        self.answers: dict[str, list[_Answer]] = {}
        self.num_rows = 0
        self.unusable: list[UnusableRow] = []
        self.columns: Counter[str] = Counter()
        self._contradicted: set[str] = set()

    def read(self, path: Path | str) -> None:
        """All rows; a row that cannot be used is counted by its fault."""
        faults: list[DataFault] = []
        for index, row in enumerate(scan_rows(path)):
            self.num_rows += 1
            try:
                self._read_row(index, row)
            except DataFault as fault:
                faults.append(fault)
                self.left_out[LEFT_OUT.get(type(fault), fault.name)] += 1
        self.unusable = [UnusableRow.of(fault, source=str(path)) for fault in faults]
        if (
            faults
            and len(faults) == self.num_rows
            and all(isinstance(fault, FILE_FAULTS) for fault in faults)
        ):
            raise faults[0]

    def add(self, pair: Pair, *, row: int) -> None:
        """Keep a pair, unless it is there already; gold that contradicts itself is no gold."""
        standing = self.pairs.get(pair.id)
        if pair.id in self._contradicted:
            self.left_out[ContradictoryLabels.__name__] += 1
        elif standing is None:
            self.pairs[pair.id] = pair
            self.order[pair.id] = row
        elif standing.gold and pair.gold and standing.gold != pair.gold:
            self._contradicted.add(pair.id)
            del self.pairs[pair.id]
            self.left_out[ContradictoryLabels.__name__] += 2
        else:
            self.left_out["duplicate"] += 1
            if pair.gold and not standing.gold:
                self.pairs[pair.id] = replace(standing, gold=pair.gold)

    def _read_row(self, row_index: int, row: SourceRow | DataFault) -> None:
        if isinstance(row, DataFault):
            raise row
        if "completions" in row.value and not self.gold:
            self._read_answers(row_index, row)
        else:
            self._read_comparison(row_index, row)
        self.columns.update([name for name, value in row.value.items() if value is not None])

    def _read_comparison(self, row_index: int, row: SourceRow) -> None:
        comparison = parse_comparison(row.value, where=row.source)
        pair = make_pair(
            comparison.prompt,
            comparison.chosen,
            comparison.rejected,
            models=(self._model(row, "chosen_model"), self._model(row, "rejected_model")),
            source=row.source,
            margin=_margin(row),
            gold=_gold(row, default="chosen" if self.gold else None),
        )
        self.add(pair, row=row_index)

    def _read_answers(self, row_index: int, row: SourceRow) -> None:
        require_column(row.value, "completions", where=row.source)
        prompt = parse_prompt_columns(row.value, where=row.source)
        answers = row.value["completions"]
        if not isinstance(answers, list) or not answers:
            raise WrongType("completions is not a list of answers", where=row.source)
        model = self._model(row, "model")
        parsed = [
            parse_completion(answer, column=f"completions[{index}]", where=row.source)
            for index, answer in enumerate(answers)
        ]
        self.answers.setdefault(prompt.key, []).extend(
            _Answer(prompt=prompt, completion=completion, model=model, source=row.source, row=row_index)
            for completion in parsed
        )

    def _model(self, row: SourceRow, column: str) -> str:
        value = row.value.get(column)
        if value is None:
            return self.model
        if not isinstance(value, str):
            raise WrongType(f"{column} is not a text", where=row.source)
        return value


def _margin(row: SourceRow) -> float | None:
    """By how much the chosen answer is preferred, where the row says so in numbers."""
    if row.value.get("margin") is not None:
        return _number(row, "margin")
    if row.value.get("chosen_reward") is not None and row.value.get("rejected_reward") is not None:
        return _number(row, "chosen_reward") - _number(row, "rejected_reward")
    return None


def _number(row: SourceRow, column: str) -> float:
    value = row.value[column]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WrongType(f"{column} is not a finite number", where=row.source)
    return float(value)


def _gold(row: SourceRow, *, default: str | None) -> Choice | None:
    value = row.value.get("gold")
    if value is None:
        value = default
    if value is None:
        return None
    if value not in ROW_GOLD:
        raise WrongType(
            f"gold is {value!r}", where=row.source, action=f"write one of {', '.join(ROW_GOLD)}, or nothing"
        )
    gold: dict[str, Choice] = {"chosen": "a", "rejected": "b", "tie": "tie"}
    return gold[value]


# --- pairs of answers -------------------------------------------------------------------------------


def _pairing_of(
    pairing: Pairing, num_pairs: int, seed: int
) -> Callable[[list[_Answer]], Iterable[tuple[_Answer, _Answer]]]:
    if pairing == "all":
        return lambda answers: combinations(answers, 2)
    if pairing == "adjacent":
        return pairwise
    return lambda answers: _draw(answers, num_pairs, seed)


def _draw(answers: list[_Answer], num_pairs: int, seed: int) -> Iterator[tuple[_Answer, _Answer]]:
    """Some pairs at random, different ones as far as there are, the same whatever else the file holds."""

    def key(indices: tuple[int, int]) -> bytes:
        return hashlib.sha256(f"{seed} {answers[0].prompt.key} {indices}".encode()).digest()

    drawn = sorted(combinations(range(len(answers)), 2), key=key)[:num_pairs]
    for first, second in sorted(drawn):
        yield answers[first], answers[second]


def _pair_answers(
    reader: _Reader,
    answers: list[_Answer],
    choose: Callable[[list[_Answer]], Iterable[tuple[_Answer, _Answer]]],
) -> None:
    if len(answers) < 2:
        reader.left_out[FEW_ANSWERS] += 1
    for first, second in choose(answers):
        two = (first.completion, second.completion)
        if any(answer.is_empty for answer in two):
            reader.left_out["empty"] += 1
        elif normalise(two[0].identity) == normalise(two[1].identity):
            reader.left_out["identical"] += 1
        else:
            pair = make_pair(
                first.prompt,
                first.completion,
                second.completion,
                models=(first.model, second.model),
                source=second.source,
            )
            reader.add(pair, row=second.row)
