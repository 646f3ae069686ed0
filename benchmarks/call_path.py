"""Which files one update of a trainer runs through, in the order of their first call: `make bench-call-path`.

    PYTHONPATH=tests python benchmarks/call_path.py --write docs/architecture.md

A small Llama with random weights is trained by DPO and by PPO. Between the choice of a batch and the row of
metrics that is written of it, every Python function of the package that is called is noted with its file. It
is the second update of a run: the first has checks of its own, of what holds before anything was learned.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import tyro

import logratio
from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.policies.actor_critic import LanguageActor, ValueHead
from logratio.policies.language import LanguagePolicy
from logratio.records import Prompt
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.reward_shaping import WeightedReward
from logratio.run_directory import RunDirectory
from logratio.training.loop import Session
from tiny_models import random_groups, tiny_llama, tiny_tokenizer

PACKAGE = Path(logratio.__file__).parent
BEGIN, END = "<!-- written by make bench-call-path -->", "<!-- to here -->"
BATCH, UPDATES = 4, 2


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is written where."""

    write: Path | None = None
    """The page whose table is replaced."""


def dpo(run: RunDirectory) -> None:
    policy = LanguagePolicy(tiny_llama(60), None)
    config = DPOConfig.of(batch_size=BATCH, checkpoint_every=0)
    train_dpo(policy, random_groups(UPDATES * BATCH, vocab_size=60), config, run)


def ppo(run: RunDirectory) -> None:
    tokenizer = tiny_tokenizer(chat=False)
    policy, reference = (LanguagePolicy(tiny_llama(len(tokenizer)), tokenizer) for _ in range(2))
    actor = LanguageActor(policy, row_tokens=64, value_head=ValueHead(policy.model.config.hidden_size))
    collector = LanguageCollector(
        actor,
        [Prompt("the cat"), Prompt("a good day"), Prompt("I like"), Prompt("this")],
        [WeightedReward(name="length", reward=lengths)],
        reference=reference,
        at_reference=True,
        config=CollectorConfig(num_samples=2, max_new_tokens=6),
    )
    train_ppo(actor, collector, PPOConfig.of(batch_size=BATCH, epochs=UPDATES, checkpoint_every=0), run)


TRAINERS: dict[str, Callable[[RunDirectory], None]] = {"DPO": dpo, "PPO": ppo}


def lengths(samples: Any) -> list[list[float]]:
    return [[float(len(answer.text)) for answer in sample.completions] for sample in samples]


@contextlib.contextmanager
def calls_of_one_update() -> Iterator[dict[str, str]]:
    """The files of the package that an update in here calls, each with the function that it calls first."""
    called: dict[str, str] = {}
    begin, end, prefix = Session.batch.__code__, Session.log.__code__, f"{PACKAGE}/"
    running, updates = False, 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal running, updates
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(prefix):
            return
        updates += code is begin
        running = (running or code is begin) and code is not end
        if running and updates == 2 and code.co_name != "<module>":
            # A function that is defined within another is a part of it.
            called.setdefault(code.co_filename.removeprefix(prefix), code.co_qualname.split(".<locals>")[0])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(before)


def call_path(train: Callable[[RunDirectory], None]) -> dict[str, str]:
    """Files and first functions of one update, when everything that is imported late has been."""
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stderr(io.StringIO()):
        for name in ("first", "second"):
            with (
                RunDirectory.begin(Path(directory) / name, {"identity": {}}) as run,
                calls_of_one_update() as called,
            ):
                train(run)
    return called


def as_markdown(paths: dict[str, dict[str, str]]) -> str:
    """One column a trainer, one row a file."""
    columns = [[f"`{file}:{function}`" for file, function in path.items()] for path in paths.values()]
    rows = [
        "| " + " | ".join(["", *(f"{name} ({len(path)} files)" for name, path in paths.items())]) + " |",
        "|" + "---|" * (len(paths) + 1),
    ]
    for number in range(max(map(len, columns))):
        cells = [column[number] if number < len(column) else "" for column in columns]
        rows.append("| " + " | ".join([str(number + 1), *cells]) + " |")
    return "\n".join(rows)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    table = as_markdown({name: call_path(train) for name, train in TRAINERS.items()})
    if arguments.write is None:
        print(table)
        return
    head, found, rest = arguments.write.read_text(encoding="utf-8").partition(BEGIN)
    if not found or END not in rest:
        raise SystemExit(f"{arguments.write} lacks the marks {BEGIN} and {END}")
    tail = rest.partition(END)[2]
    arguments.write.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
