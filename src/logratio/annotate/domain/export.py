"""Verdicts into files that train a model, with a manifest that accounts for everything that went in.

The preferred answers stand in the form that `logratio train sft` reads, which is that of comparisons, each
answer once however many pairs it won; `completion` repeats it for trainers that read prompt and completion.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from logratio.annotate.domain.agreement import opposite_rate
from logratio.annotate.domain.pairs import Pair
from logratio.annotate.domain.smoothing import suggest_smoothing
from logratio.annotate.domain.vote_aggregation import Decision, decide, ensure_decided
from logratio.annotate.storage.snapshot import Snapshot, ratings_of
from logratio.annotate.storage.store import Vote
from logratio.data.jsonl import JUDGE
from logratio.data.preference_formats import normalise, parse_comparison
from logratio.errors import BadConfig, DataFault, TooFewLabels
from logratio.records import Comparison, Completion, Prompt
from logratio.run_directory import atomic_write, disk_faults
from logratio.version import __version__

Form = Literal["text", "messages"]
JsonRow = dict[str, Any]
COMPARISONS, SFT, UNPAIRED = "comparisons.jsonl", "sft.jsonl", "unpaired.jsonl"
VOTES, VOTES_TABLE, MANIFEST = "votes.jsonl", "votes.csv", "manifest.json"
PEOPLE = "people"
"""The judge of these labels, where `logratio label` names a reward."""
FORMAT = 1
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""What makes a spreadsheet take a cell for a formula, the wide forms included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The contents of every file, not yet written."""

    files: dict[str, bytes]
    """Contents by name; the manifest is the last."""
    manifest: dict[str, Any]
    """What `manifest.json` says."""


@dataclass(slots=True, kw_only=True)
class _Labels:
    """Rows for training, as they are collected."""

    comparisons: list[JsonRow] = field(default_factory=list)
    preferred: dict[tuple[str, str], JsonRow] = field(default_factory=dict)
    answers: dict[tuple[str, str], tuple[Prompt, Completion, set[bool]]] = field(default_factory=dict)
    margins: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def make_export(
    snapshot: Snapshot, *, form: Form = "text", min_votes: int = 1, table: bool = False, store: str = ""
) -> Export:
    """Everything that is to be written.

    Args:
        snapshot: of the store.
        form: prompts and answers as text, or as messages as other trainers read them. Texts come with the
            sampled tokens where they are known, and a conversation stays a list of messages.
        min_votes: verdicts that a pair needs to become a label.
        table: also the verdicts as CSV.
        store: the store's name, for the manifest.

    Raises:
        TooFewLabels: no pair was decided.
        UndecidedAsLabel: a label was not what most people said; never, if this module is right.
    """
    by_pair = _first_votes(snapshot.standing)
    labels = _Labels()
    for pair in snapshot.pairs.values():
        votes = by_pair.get(pair.id, [])
        _add_pair(labels, decide(pair, votes, min_votes=min_votes), votes, form)
    _ensure_some(labels, len(snapshot.pairs))
    unpaired = list(_unpaired(labels, form))
    files = {
        COMPARISONS: _lines(labels.comparisons),
        SFT: _lines(labels.preferred.values()),
        UNPAIRED: _lines(unpaired),
        VOTES: _lines(_vote_row(vote, snapshot) for vote in snapshot.log),
    }
    if table:
        files[VOTES_TABLE] = _csv([_vote_row(vote, snapshot) for vote in snapshot.log])
    manifest = {
        "format_version": FORMAT,
        "made_by": f"logratio {__version__}",
        "store": store,
        "inputs": [{"name": name, "sha256": sha256} for name, sha256 in snapshot.files.items()],
        "settings": {"format": form, "min_votes": min_votes},
        "pairs": {
            "in": len(snapshot.pairs),
            "exported": len(labels.comparisons),
            "dropped": dict(sorted(labels.dropped.items())),
        },
        "votes": count_votes(snapshot),
        "rows": _count_rows(labels, unpaired, len(snapshot.log)),
        "label_smoothing": suggest_smoothing(
            opposite_rate(ratings_of([vote for vote in snapshot.standing if vote.at_random])), labels.margins
        ).to_json(),
        "files": {name: _describe(content) for name, content in files.items()},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return Export(files=files | {MANIFEST: text.encode()}, manifest=manifest)


def write_export(export: Export, out: Path) -> None:
    """Write all files, or none where one of them finds no room; the manifest takes its place last.

    A process killed at any moment leaves whole files; one killed between two of them leaves a manifest whose
    hashes are not those of the files beside it.

    Raises:
        BadConfig: `out` is a file.
        DiskFull, NotWritable: the directory takes no file; what was there is as it was.
    """
    if out.exists() and not out.is_dir():
        raise BadConfig("--out is a file", where=str(out), action="give a directory")
    with ExitStack() as stack:
        # What is entered first is left last, so the manifest goes in before the others.
        for name, content in reversed(export.files.items()):
            stream = stack.enter_context(atomic_write(out / name, "wb"))
            with disk_faults(out / name):
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
    for name in {VOTES_TABLE} - set(export.files):
        # A table of an earlier export would not be of these verdicts.
        (out / name).unlink(missing_ok=True)


def count_votes(snapshot: Snapshot) -> dict[str, Any]:
    """What became of every row of the log; the numbers add up.

    `log = standing + withdrawn + undo`, and `standing = counted + repeat + gold`.
    """
    standing = snapshot.standing
    kinds = Counter(vote.kind for vote in standing)
    num_undo = sum(vote.verdict == "undo" for vote in snapshot.log)
    return {
        "log": len(snapshot.log),
        "standing": len(standing),
        "withdrawn": len(snapshot.log) - len(standing) - num_undo,
        "undo": num_undo,
        "counted": kinds["first"],
        "not_counted": {"repeat": kinds["repeat"], "gold": kinds["gold"]},
    }


def escape_cell(value: object) -> object:
    """A text that no spreadsheet takes for a formula; numbers stay numbers."""
    if isinstance(value, str) and value.lstrip(" \u00a0").startswith(FORMULA):
        return "'" + value
    return value


# --- labels -----------------------------------------------------------------------------------------


def _first_votes(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    by_pair: dict[str, list[Vote]] = {}
    for vote in votes:
        if vote.kind == "first":
            by_pair.setdefault(vote.pair_id, []).append(vote)
    return by_pair


def _add_pair(labels: _Labels, decision: Decision, votes: Sequence[Vote], form: Form) -> None:
    pair = decision.pair
    if decision.reason == "both bad":
        for answer in (pair.a, pair.b):
            _add_answer(labels, pair, answer, is_good=False)
    if decision.reason is not None:
        labels.dropped[decision.reason] += 1
        return
    ensure_decided(decision, votes)
    chosen, rejected = (pair.a, pair.b) if decision.chosen == "a" else (pair.b, pair.a)
    row = _comparison(pair, chosen, rejected, form)
    try:
        parse_comparison(row, where=pair.source)
    except DataFault as fault:
        # What cannot be read back would stop a training run later.
        labels.dropped[fault.name] += 1
        return
    for_it, against = (decision.counts[side] for side in ("ab" if decision.chosen == "a" else "ba"))
    votes_of = {"votes_chosen": for_it, "votes_rejected": against, JUDGE: PEOPLE}
    labels.comparisons.append(row | _models(pair, first=decision.chosen == "a") | votes_of)
    labels.preferred.setdefault(_answer_key(pair, chosen), row | {"completion": row["chosen"], JUDGE: PEOPLE})
    labels.margins.append(decision.margin)
    _add_answer(labels, pair, chosen, is_good=True)
    _add_answer(labels, pair, rejected, is_good=False)


def _comparison(pair: Pair, chosen: Completion, rejected: Completion, form: Form) -> JsonRow:
    if form == "text":
        return Comparison(prompt=pair.prompt, chosen=chosen, rejected=rejected).to_json()
    return {
        **_prompt(pair.prompt, form),
        "chosen": _answer(chosen, form),
        "rejected": _answer(rejected, form),
    }


def _prompt(prompt: Prompt, form: Form) -> JsonRow:
    if form == "text":
        return prompt.columns()
    return replace(prompt, content=prompt.messages, format="auto").columns()


def _answer(answer: Completion, form: Form) -> Any:
    as_text = form == "text" and answer.message is None
    return answer.text if as_text else [answer.turn.to_json()]


def _models(pair: Pair, *, first: bool) -> JsonRow:
    """Who wrote the two, where it is known: annotators never see it, `logratio rate` reads it here."""
    if not any(pair.models):
        return {}
    chosen, rejected = pair.models if first else reversed(pair.models)
    return {"chosen_model": chosen, "rejected_model": rejected}


def _answer_key(pair: Pair, answer: Completion) -> tuple[str, str]:
    return pair.prompt.key, normalise(answer.identity)


def _add_answer(labels: _Labels, pair: Pair, answer: Completion, *, is_good: bool) -> None:
    if answer.is_empty:
        return
    key = _answer_key(pair, answer)
    labels.answers.setdefault(key, (pair.prompt, answer, set()))[2].add(is_good)


def _unpaired(labels: _Labels, form: Form) -> Iterable[JsonRow]:
    """Answers that won every pair, or none; what won one and lost another is neither good nor bad."""
    for prompt, answer, labels_of_answer in labels.answers.values():
        if len(labels_of_answer) == 1:
            (label,) = labels_of_answer
            yield _prompt(prompt, form) | {"completion": _answer(answer, form), "label": label}


def _ensure_some(labels: _Labels, num_pairs: int) -> None:
    if labels.comparisons:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(labels.dropped.items()))
    raise TooFewLabels(
        f"of {num_pairs} pairs not one was decided{f': {reasons}' if reasons else ''}",
        action="judge some pairs first (`logratio annotate serve`)"
        + (", or give a lower --min-votes" if labels.dropped["too few verdicts"] else ""),
    )


def _count_rows(labels: _Labels, unpaired: Sequence[JsonRow], num_votes: int) -> dict[str, Any]:
    """Rows of each file, and why they are not as many as the comparisons would give."""
    return {
        COMPARISONS: len(labels.comparisons),
        SFT: len(labels.preferred),
        "preferred_again": len(labels.comparisons) - len(labels.preferred),
        UNPAIRED: len(unpaired),
        "answers": len(labels.answers),
        "answers_won_and_lost": len(labels.answers) - len(unpaired),
        VOTES: num_votes,
    }


# --- the log ----------------------------------------------------------------------------------------


def _vote_row(vote: Vote, snapshot: Snapshot) -> JsonRow:
    """A row of the log with what was on the screen; `left` says which answer stood there."""
    pair = snapshot.pairs[vote.pair_id]
    return {
        "id": vote.id,
        "pair": vote.pair_id,
        "annotator": vote.annotator,
        "verdict": vote.verdict,
        "left": "b" if vote.swapped else "a",
        "left_won": vote.left_won,
        "strength": vote.strength,
        "reasons": list(vote.reasons),
        "note": vote.note,
        "kind": vote.kind,
        "at_random": vote.at_random,
        "shown_at": vote.shown_at,
        "sent_at": vote.sent_at,
        "milliseconds": vote.milliseconds,
        "supersedes": vote.supersedes,
        "nonce": vote.nonce,
        **pair.prompt.columns(),
        "a": pair.a.readable,
        "b": pair.b.readable,
        "a_model": pair.models[0],
        "b_model": pair.models[1],
        "gold": pair.gold,
        "source": pair.source,
    }


def _csv(rows: Sequence[JsonRow]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([escape_cell(_cell(value)) for value in row.values()])
    return stream.getvalue().encode()


def _cell(value: Any) -> object:
    if isinstance(value, list):
        return "" if not value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if isinstance(value, bool) else value


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()


def _describe(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
