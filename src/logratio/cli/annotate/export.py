"""What people said, as files that train a model.

    logratio annotate export --store labels.db --out labels
    logratio train sft --data labels/sft.jsonl --out runs/sft
    logratio train dpo --data labels/comparisons.jsonl --model runs/sft --out runs/dpo

writes comparisons.jsonl (prompt, chosen, rejected), sft.jsonl (each preferred answer once, in the same
form), unpaired.jsonl (prompt, completion, label, as KTO takes it), votes.jsonl (every row of the log, with
sides and models) and manifest.json, which accounts for every pair and every verdict. A pair is a label where
more than half of its verdicts prefer one answer; ties, skips, flags, pairs with two bad answers and
contradictions never are, and neither are gold pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logratio.annotate.domain.export import (
    COMPARISONS,
    MANIFEST,
    SFT,
    UNPAIRED,
    Form,
    make_export,
    write_export,
)
from logratio.annotate.storage.snapshot import Snapshot
from logratio.annotate.storage.store import Store
from logratio.data.normalised_names import lookalikes
from logratio.errors import BadConfig
from logratio.report.html import visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Flags of `logratio annotate export`."""

    store: Path
    """The file of labels that `logratio annotate serve` keeps; people may be judging meanwhile."""
    out: Path
    """The directory to write to; files of an earlier export are replaced, others are left."""
    format: Form = "text"
    """Answers as text, with the tokens that were sampled, or as messages in the form of other trainers."""
    min_votes: int = 1
    """How many verdicts a pair needs to become a label; skips are none."""
    csv: bool = False
    """Also write votes.csv; no cell of it is taken for a formula."""


def run(arguments: Arguments) -> int:
    """Write the files and print what became of every pair."""
    if arguments.min_votes < 1:
        raise BadConfig(f"--min-votes is {arguments.min_votes}", action="give 1 or more")
    with Store.open(arguments.store) as store:
        snapshot = Snapshot.of(store)
    export = make_export(
        snapshot,
        form=arguments.format,
        min_votes=arguments.min_votes,
        table=arguments.csv,
        store=arguments.store.name,
    )
    write_export(export, arguments.out)
    print("\n".join(describe(export.manifest, arguments.out)))
    models = {name for pair in snapshot.pairs.values() for name in pair.models if name}
    for names in ({vote.annotator for vote in snapshot.log}, models):
        for sentence in lookalikes(names):
            print(f"note:     {visible(sentence)}")
    return 0


def describe(manifest: Mapping[str, Any], out: Path) -> Iterator[str]:
    """What went in and what came out, in lines whose numbers add up, and what to do next."""
    pairs, votes, rows = manifest["pairs"], manifest["votes"], manifest["rows"]
    dropped = "".join(f" + {num} {reason}" for reason, num in pairs["dropped"].items())
    yield f"pairs:    {pairs['exported']} exported{dropped} = {pairs['in']}"
    yield (
        f"verdicts: {votes['counted']} counted + {votes['not_counted']['repeat']} repeats"
        f" + {votes['not_counted']['gold']} on gold pairs = {votes['standing']} that stand;"
        f" {votes['withdrawn']} were taken back"
    )
    yield (
        f"rows:     {rows[COMPARISONS]} comparisons, {rows[SFT]} preferred answers, {rows[UNPAIRED]} unpaired"
        f" ({rows['answers_won_and_lost']} answers won one pair and lost another)"
    )
    smoothing = manifest["label_smoothing"]
    value = smoothing["value"]
    yield f"smoothing: {'none suggested' if value is None else f'{value:.3f}'}: {smoothing['reason']}"
    yield f"written to {out}; {MANIFEST} accounts for everything"
    flag = f" --label-smoothing {value:.3f}" if value else ""
    yield f"next:     logratio train sft --data {out / SFT} --out runs/sft"
    yield f"then:     logratio train dpo --data {out / COMPARISONS} --model runs/sft{flag} --out runs/dpo"
