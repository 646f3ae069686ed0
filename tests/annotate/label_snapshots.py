"""Pairs and logs of verdicts, made by hand or drawn, without a server."""

from __future__ import annotations

import json
import random

from logratio.annotate.domain.pairs import PairFile, make_pair
from logratio.annotate.storage.snapshot import Snapshot
from logratio.annotate.storage.store import Store, Vote
from logratio.records import Completion, Message, Prompt

PEOPLE = ("anna", "ben", "eva")


def pair(number=0, *, a=None, b=None, gold=None, models=("", ""), prompt=None, tokens=False):
    """Pair `number`, whose answer A is `a` and longer than B unless told otherwise."""
    texts = a or f"a longer answer {number}", b or f"brief {number}"
    ids = ((1, 2, 3, 0), (4, 5, 0)) if tokens else (None, None)
    first, second = (Completion(text=text, token_ids=one) for text, one in zip(texts, ids, strict=True))
    made = make_pair(
        prompt or Prompt(f"question {number}"),
        first,
        second,
        models=models,
        source=f"made.jsonl:{number + 1}",
    )
    assert (made.a.text, made.b.text) == texts
    return made if gold is None else type(made).from_json(made.to_json() | {"gold": gold})


def snapshot(pairs, verdicts, **files):
    """Pairs, and verdicts as `(place of the pair, annotator, verdict, further fields)`; ids count from 1."""
    log = tuple(
        Vote(
            id=number,
            pair_id=pairs[place].id,
            annotator=annotator,
            verdict=verdict,
            nonce=f"nonce{number:04d}",
            **(fields[0] if fields else {}),
        )
        for number, (place, annotator, verdict, *fields) in enumerate(verdicts, start=1)
    )
    return Snapshot(pairs={one.id: one for one in pairs}, log=log, files=files or {"made.jsonl": "0" * 64})


def drawn(num_pairs=240, *, seed=1, error=0.15, people=PEOPLE):
    """Plausible labels: each pair by two or three people, who err now and then, with repeats and gold."""
    draw = random.Random(seed)
    pairs = [
        pair(number, a="a" * draw.randint(2, 400), b="b" * draw.randint(2, 400), models=("small", "large"))
        for number in range(num_pairs)
    ]
    pairs += [pair(num_pairs + number, gold=draw.choice(["a", "b"])) for number in range(12)]
    verdicts = []
    for place, one in enumerate(pairs):
        better = one.gold or draw.choices(["a", "b", "tie"], [4, 4, 1])[0]
        kind = "gold" if one.gold else "first"
        for person in draw.sample(people, k=min(len(people), 2 + (place % 3 == 0))):
            verdict = _say(draw, better, error)
            timing = {
                "milliseconds": round(1000 * draw.lognormvariate(2, 0.5)),
                "swapped": draw.random() < 0.5,
            }
            verdicts.append((place, person, verdict, timing | {"kind": kind}))
            if kind == "first" and draw.random() < 0.1:
                again = verdict if draw.random() < 0.85 else _say(draw, better, 0.5)
                swapped = not timing["swapped"]
                verdicts.append((place, person, again, timing | {"kind": "repeat", "swapped": swapped}))
    return snapshot(pairs, verdicts)


def _say(draw, better, error):
    chance = draw.random()
    if chance < 0.03:
        return draw.choice(["skip", "bad", "flag"])
    if chance < 0.03 + error:
        return draw.choice([one for one in ("a", "b", "tie") if one != better])
    return better


CONVERSATION = Prompt(
    (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hello. What can I do?"),
        Message(role="user", content="Tell me a joke."),
    )
)


def fill(path, made):
    """A store that holds what a snapshot holds, written row by row below the queue; its path."""
    with Store.create_or_open(path) as store:
        store.add_file("made.jsonl", PairFile(pairs=list(made.pairs.values()), sha256="0" * 64))
        for name in sorted({vote.annotator for vote in made.log}):
            store.add_annotator(name)
        with store.transaction() as connection:
            connection.executemany(INSERT, [_row(vote) for vote in made.log])
    return path


COLUMNS = (*Vote.__dataclass_fields__, "ticket")
INSERT = f"INSERT INTO votes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


def _row(vote):
    values = {name: getattr(vote, name) for name in COLUMNS[:-1]}
    ticket = None if vote.verdict == "undo" else f"ticket{vote.id}"
    return tuple((values | {"reasons": json.dumps(vote.reasons), "ticket": ticket}).values())
