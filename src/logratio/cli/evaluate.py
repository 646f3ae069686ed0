r"""Compare a policy with a reference: the same prompts, the same seeds, a judge, and what it shows.

    logratio evaluate --policy runs/dpo --reference runs/sft --prompts held_out.jsonl \
        --reward my_rewards:helpful --out runs/dpo/evaluation

Both models answer every prompt once; the judge, a reward function given as module:function or the directory
of a reward model, gives each answer a number. What comes out: the win rate (ties half) with its interval, the
same at equal length, mean rewards, the exact KL divergence to the reference in nats a sequence, lengths, how
many answers end, how varied they are. The verdict is better, worse or not shown, and never more than the
interval allows.

report.json in --out holds every number, samples.jsonl every answer side by side; `logratio report` makes a
page of them. Models between the two are shown beside them: --also sft=runs/sft. Prompts that the policy was
trained on are refused; where the judge is a reward model that was trained on some of them, the report warns
of it. The same command gives the same numbers.
"""

from __future__ import annotations

import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from logratio import __version__
from logratio.cli.out_directory import prepare_out_directory
from logratio.cli.prompt_format import PromptFormatFlags, announce_rendering
from logratio.cli.prompts import answerable, columns_of_judges, limits_of_all
from logratio.cli.rows import RowFlags, settle_rows
from logratio.data.jsonl import PromptRow, read_prompts
from logratio.data.normalised_names import lookalikes
from logratio.data.unusable_rows import ReadRows
from logratio.errors import BadConfig, RunExists, SplitLeak
from logratio.run_directory import (
    REPORT,
    SAMPLES,
    describe_machine,
    hash_file,
    write_json,
    write_json_lines,
)

if TYPE_CHECKING:
    from logratio.evaluation.model_comparison import EvaluationResult
    from logratio.evaluation.run_evaluation import EvaluationConfig
    from logratio.models.loading import LoadedModel
    from logratio.rollouts.rewards import Reward

ALSO = re.compile(r"(?P<name>[A-Za-z][\w-]*)=(?P<source>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Flags of `logratio evaluate`."""

    policy: str
    """The model in question: a transformers directory, a run directory, a hub id, a .gguf file, or
    `embedded`."""
    reference: str
    """What it is compared with, given likewise; usually the model that training started from."""
    prompts: Path
    """Held-out prompts: JSON Lines with a column `prompt`, or a .txt file with one prompt a line. Further
    columns are given to the judge."""
    reward: str
    """The judge: module:function, found in this directory or among the installed packages, or the directory
    of a reward model."""
    out: Path = Path("runs/evaluation")
    """Directory of report.json and samples.jsonl."""
    also: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Models between the two, as name=model: --also sft=runs/sft."""
    prompt_format: Annotated[PromptFormatFlags, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatFlags
    )
    """How prompts given as text are rendered."""
    num_prompts: int = 0
    """Evaluate on so many of the prompts, drawn by --seed; 0 takes all."""
    max_new_tokens: int = 64
    """An answer that has not ended after so many tokens is cut off."""
    temperature: float = 1.0
    """Logits are divided by it; only 1 measures the models themselves."""
    seed: int = 0
    """Seed of answers and intervals, the same for every model."""
    batch_size: int = 64
    """How many answers are decoded at a time: less takes less memory, and gives the same answers."""
    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1, mps."""
    dtype: str = "float32"
    """Numbers of the weights: float32, or bfloat16 (KL is then less exact)."""
    overwrite: bool = False
    """Replace a report that stands in --out."""
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = field(default_factory=RowFlags)
    """What becomes of prompts that cannot be answered or judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPrompts:
    """The rows to evaluate on, and what became of the others."""

    rows: tuple[PromptRow, ...]
    """Distinct prompts in the file's order."""
    counts: dict[str, Any]
    """`prompts_in_file = duplicates + not_chosen + evaluated`, and the rows left out before, by reason."""


class OpenedOnDemand(Mapping[str, "LoadedModel"]):
    """Models by name, each opened when it is asked for, so that only those in use are in memory."""

    def __init__(self, sources: Mapping[str, str], *, device: str, dtype: str) -> None:
        self.sources = sources
        self.opened: dict[str, dict[str, Any]] = {}
        """Source and fingerprint of each model that was opened, for provenance."""
        self._device, self._dtype = device, dtype

    def __getitem__(self, name: str) -> LoadedModel:
        from logratio.models.loading import load

        loaded = load(self.sources[name], device=self._device, dtype=self._dtype)
        for note in loaded.notes:
            print(f"note: {name}: {note}", file=sys.stderr)
        self.opened[name] = {"source": loaded.source, "fingerprint": loaded.fingerprint}
        return loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)


def run(arguments: Arguments) -> int:
    """Evaluate, print the verdict, write the report."""
    from logratio.evaluation.evaluation_warnings import judge_saw_prompts
    from logratio.evaluation.lineage import training_record
    from logratio.evaluation.run_evaluation import evaluate_policies
    from logratio.evaluation.summary import describe
    from logratio.rollouts.rewards import load_reward

    started = time.monotonic()
    config = evaluation_config(arguments)
    sources = model_sources(arguments)
    judge = load_reward(arguments.reward, device=arguments.device)
    prepare_out(arguments)
    read = read_answerable(arguments, sources, judge)
    used = columns_of_judges([judge], read.columns)
    data = settle_rows(read, arguments.rows, used=used, noted=arguments.out / REPORT)
    chosen = choose_prompts(read.usable, num_prompts=arguments.num_prompts, seed=arguments.seed)
    print(f"data: {describe_chosen(chosen)}", file=sys.stderr)
    trained = [source for name, source in sources.items() if name != "reference"]
    record = training_record(*trained, arguments.out)
    ensure_held_out(chosen.rows, record.prompt_keys)
    models = OpenedOnDemand(sources, device=arguments.device, dtype=arguments.dtype)
    evaluation = evaluate_policies(
        models,
        [row.prompt for row in chosen.rows],
        judge,
        config,
        columns=[row.judge_columns for row in chosen.rows],
        trained_on_judge=judge.name in record.rewards,
        warnings=judge_saw_prompts(judge.name, count_seen(arguments.reward, chosen.rows), len(chosen.rows)),
    )
    provenance = describe_run(arguments, config, models, seconds=time.monotonic() - started)
    write_report(
        arguments.out,
        evaluation,
        counts=(data if data["unusable"] or data["columns_not_used"] else {}) | chosen.counts,
        provenance=provenance,
    )
    print(describe(evaluation))
    print(f"\nreport: {arguments.out / REPORT}\npage:   logratio report {arguments.out}")
    return 0


def evaluation_config(arguments: Arguments) -> EvaluationConfig:
    """The settings, checked before anything is read.

    Raises:
        BadConfig: one is out of range, or the device or dtype is not there.
    """
    from logratio.evaluation.run_evaluation import EvaluationConfig
    from logratio.generation.config import SamplingConfig
    from logratio.models.loading import check_device, check_dtype

    if arguments.num_prompts < 0:
        raise BadConfig(
            f"num prompts is {arguments.num_prompts}", where="--num-prompts", action="give 0 (all) or more"
        )
    if arguments.seed < 0:
        raise BadConfig(f"the seed is {arguments.seed}", where="--seed", action="give 0 or more")
    check_device(arguments.device)
    check_dtype(arguments.dtype)
    sampling = SamplingConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        batch_size=arguments.batch_size,
    )
    return EvaluationConfig(sampling=sampling, seed=arguments.seed)


def model_sources(arguments: Arguments) -> dict[str, str]:
    """Name to model: the reference, those of --also, the policy.

    Raises:
        BadConfig: --also is not name=model, or a name is taken.
    """
    from logratio.cli.train.preference_options import resolve_model

    between: dict[str, str] = {}
    for given in arguments.also:
        match = ALSO.fullmatch(unicodedata.normalize("NFC", given))
        if match is None or match["name"] in ("policy", "reference", *between):
            raise BadConfig(
                f"--also {given!r} does not name another model",
                where="--also",
                action="write name=model with a new name, such as --also sft=runs/sft",
            )
        # The path stays as it was written: a file's name may be in any form.
        between[match["name"]] = given.partition("=")[2]
    for sentence in lookalikes(["policy", "reference", *between]):
        print(f"note: --also: {sentence}", file=sys.stderr)
    named = {"reference": arguments.reference, **between, "policy": arguments.policy}
    return {name: resolve_model(source) for name, source in named.items()}


def prepare_out(arguments: Arguments) -> None:
    """Refuse to write over a report, and find out now whether --out can be written to.

    Raises:
        BadConfig: --out is a file.
        RunExists: a report stands there.
        NotWritable: no files can be made there.
    """
    report = arguments.out / REPORT
    if report.exists() and not arguments.overwrite:
        raise RunExists(
            "a report stands there already",
            where=str(report),
            action="give another --out, or --overwrite to replace it",
        )
    prepare_out_directory(arguments.out)


def choose_prompts(rows: Sequence[PromptRow], *, num_prompts: int, seed: int) -> ChosenPrompts:
    """Leave repeated prompts out and draw `num_prompts` of the others, in the file's order; 0 keeps all."""
    from logratio.evaluation.model_comparison import ensure_enough
    from logratio.evaluation.sample_rows import prompt_hash

    distinct = list({row.prompt.key: row for row in reversed(rows)}.values())[::-1]
    drawn = sorted(distinct, key=lambda row: prompt_hash(row.prompt, seed))[: num_prompts or None]
    sampled_keys = {row.prompt.key for row in drawn}
    ensure_enough(len(drawn))
    counts = {
        "prompts_in_file": len(rows),
        "duplicates": len(rows) - len(distinct),
        "not_chosen": len(distinct) - len(drawn),
        "evaluated": len(drawn),
    }
    return ChosenPrompts(rows=tuple(row for row in distinct if row.prompt.key in sampled_keys), counts=counts)


def ensure_held_out(rows: Sequence[PromptRow], trained_on: frozenset[str]) -> None:
    """Raise `SplitLeak` where a prompt was trained on."""
    leaked = [row for row in rows if row.prompt.key in trained_on]
    if leaked:
        raise SplitLeak(
            f"{len(leaked)} of {len(rows)} prompts were trained on: results on them say nothing of others",
            where=leaked[0].source,
            action="give prompts kept out of training, such as held_out.jsonl of the run",
        )


def count_seen(judge: str, rows: Sequence[PromptRow]) -> int:
    """How many prompts a reward model, or the model it started from, was trained on; 0 for a function."""
    from logratio.evaluation.lineage import training_record

    path = Path(judge).expanduser()
    seen = training_record(path).prompt_keys if path.is_dir() else frozenset()
    return sum(row.prompt.key in seen for row in rows)


def read_answerable(arguments: Arguments, sources: Mapping[str, str], judge: Reward) -> ReadRows[PromptRow]:
    """The prompts, and which the models cannot answer or the judge cannot read, by the tokenizers alone.

    Raises:
        ReferenceAliased: two models have different tokenizers.
        DataFault: the file cannot be read.
    """
    from logratio.evaluation.run_evaluation import ensure_same_tokenizer
    from logratio.models.loading import load_tokenizer

    read = read_prompts(arguments.prompts, prompt_format=arguments.prompt_format.prompt_format)
    reference = load_tokenizer(sources["reference"])
    for name, source in sources.items():
        if name != "reference":
            ensure_same_tokenizer(name, load_tokenizer(source), reference)
    arguments.prompt_format.ensure_possible(reference)
    limits = limits_of_all(sources.values())
    read = read.keep(answerable(reference, limits, max_new_tokens=arguments.max_new_tokens, judges=[judge]))
    announce_rendering(reference, [row.prompt for row in read.usable])
    return read


def describe_chosen(chosen: ChosenPrompts) -> str:
    """What became of the prompts that can be answered: those that are not evaluated are counted."""
    counts = chosen.counts
    parts = [f"{counts['evaluated']} evaluated"]
    if counts["duplicates"]:
        parts.append(f"{counts['duplicates']} repeated")
    if counts["not_chosen"]:
        parts.append(f"{counts['not_chosen']} not drawn (--num-prompts)")
    return f"{counts['prompts_in_file']} prompts: {', '.join(parts)}"


def describe_run(
    arguments: Arguments, config: EvaluationConfig, models: OpenedOnDemand, *, seconds: float
) -> dict[str, Any]:
    """Where the numbers come from."""
    import torch
    import transformers

    from logratio.runtime.memory import peak_memory_bytes

    return {
        "logratio": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": describe_machine(),
        "device": arguments.device,
        "dtype": arguments.dtype,
        "models": models.opened,
        "prompts": {"file": str(arguments.prompts), "sha256": hash_file(arguments.prompts)},
        "judge": arguments.reward,
        "evaluation": config.to_json(),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def write_report(
    out: Path,
    evaluation: EvaluationResult,
    *,
    counts: Mapping[str, int],
    provenance: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write samples.jsonl, then report.json: where a report stands, so do its answers."""
    write_json_lines(out / SAMPLES, (row.to_json() for row in evaluation.rows))
    report = evaluation.to_json() | {"data": {"evaluation": dict(counts)}, "provenance": dict(provenance)}
    write_json(out / REPORT, report | dict(extra or {}))
