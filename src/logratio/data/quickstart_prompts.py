"""Prompts of our own for a first run: short remarks on everyday subjects, each asking for a short answer.

The remarks stand in `remarks.txt` under their subjects, good, bad and mixed, so that answers to them vary in
tone; each is joined to one of a few requests.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from logratio.errors import BadConfig
from logratio.records import Prompt

REQUESTS = (
    "{remark} What do you say to that? Answer in one short sentence.",
    "{remark} Reply in one short sentence.",
    "Reply to this in a few words: {remark}",
    "A friend says: “{remark}” Reply to my friend in one short sentence.",
    "{remark} What is your opinion? One short sentence, please.",
    "{remark} How would you feel about this? Tell me in one short sentence.",
    "Here is a remark about {subject}: “{remark}” Reply in a few words.",
    "{remark} Is that good or bad? Tell me in one short sentence.",
)
"""How an answer is asked for; each wants one short sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something that somebody says about a subject."""

    subject: str
    """What it is about, such as `a bakery`."""
    text: str
    """One sentence that can be read by itself."""


@lru_cache(maxsize=1)
def remarks() -> tuple[Remark, ...]:
    """Every remark, in the order of the file."""
    every_remark, subject = [], ""
    for line in files("logratio.data").joinpath("remarks.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            subject = line[2:]
        elif line:
            every_remark.append(Remark(subject=subject, text=line))
    return tuple(every_remark)


def num_quickstart_prompts() -> int:
    """How many different prompts there are."""
    return len(remarks()) * len(REQUESTS)


def quickstart_prompts(num: int, seed: int) -> list[Prompt]:
    """The first `num` prompts in an order that `seed` decides; all differ, and more begin with fewer.

    No remark comes a second time before each has come once, and then with another request.

    Args:
        num: how many.
        seed: of the order and of the requests.

    Raises:
        BadConfig: `num` is below 1, or there are not that many.
    """
    if not 1 <= num <= num_quickstart_prompts():
        raise BadConfig(
            f"{num} prompts are asked for and there are {num_quickstart_prompts()}",
            action="ask for fewer, or bring a file of prompts of your own (--prompts)",
        )
    order = sorted(remarks(), key=lambda remark: _number("order", seed, remark.text))
    rounds, rest = divmod(num, len(order))
    drawn = [(turn, remark) for turn in range(rounds) for remark in order]
    drawn += [(rounds, remark) for remark in order[:rest]]
    return [Prompt(_phrase(remark, _number("request", seed, remark.text) + turn)) for turn, remark in drawn]


def _phrase(remark: Remark, choice: int) -> str:
    return REQUESTS[choice % len(REQUESTS)].format(remark=remark.text, subject=remark.subject)


def _number(purpose: str, seed: int, text: str) -> int:
    """A number that is a function of the arguments alone, the same in every version of Python."""
    return int.from_bytes(hashlib.sha256(json.dumps([purpose, seed, text]).encode()).digest()[:8], "big")
