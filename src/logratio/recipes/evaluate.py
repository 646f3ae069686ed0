"""A policy against a reference on held-out prompts: win rate, rewards, KL divergence, and a verdict."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logratio.config_file import write_settings
from logratio.data.given_rows import GivenRows, Row, as_source, hash_source
from logratio.data.jsonl import PromptRow, read_prompts
from logratio.data.normalised_names import lookalikes
from logratio.data.unusable_rows import ReadRows
from logratio.errors import BadConfig, RunExists, SplitLeak
from logratio.evaluation.evaluation_warnings import judge_saw_prompts
from logratio.evaluation.lineage import training_record
from logratio.evaluation.model_comparison import EvaluationResult
from logratio.evaluation.run_evaluation import EvaluationConfig, evaluate_policies
from logratio.progress import say
from logratio.recipes.evaluation_config import EvaluateSettings, EvaluationOptions
from logratio.recipes.out_directory import prepare_out_directory
from logratio.recipes.policy import ModelName, as_policy, resolve_model
from logratio.recipes.prompt_format import announce_rendering
from logratio.recipes.prompts import answerable, columns_of_judges, limits_of_all
from logratio.recipes.rewards import RewardSpec, as_reward
from logratio.recipes.rows import settle_rows
from logratio.rollouts.rewards import Reward
from logratio.run_directory import (
    CONFIG_FILE,
    REPORT,
    SAMPLES,
    TRAINING_DATA,
    describe_machine,
    write_json,
    write_json_lines,
)
from logratio.version import __version__

if TYPE_CHECKING:
    from logratio.models.loading import LoadedModel

ALSO = re.compile(r"(?P<name>[A-Za-z][\w-]*)=(?P<source>.+)")


def evaluate(
    policy: ModelName,
    *,
    reference: ModelName,
    prompts: Path | str | GivenRows | Sequence[Row],
    reward: RewardSpec,
    out: Path | str | None = None,
    also: Mapping[str, ModelName] | None = None,
    options: EvaluationOptions | None = None,
    overwrite: bool = False,
) -> EvaluationResult:
    """Compare a policy with a reference: the same prompts and seeds, a judge, and what it shows.

    The win rate counts ties half, with Wilson's 95 % interval (1927); the KL divergence to the reference is
    exact, in nats per answer. `result.verdict` is better, worse or not shown, never more than the interval
    allows.

    Args:
        policy: the model in question; a run stands for the model that it trained.
        reference: what it is compared with, usually what training started from.
        prompts: a file, or rows as texts, `Prompt` or mappings with `prompt`. Those that the policy was
            trained on are refused.
        reward: the judge, as for `train_ppo`.
        out: where report.json and samples.jsonl are written, if anywhere; `Run(out).report()` makes a page of
            them.
        also: models between the two, by name.
        options: how many prompts, how answers are drawn, the seed.
        overwrite: replace a report that stands in `out`.

    Returns:
        Every number of the comparison, with intervals; `to_json()` has them by name.

    Raises:
        SplitLeak: a prompt was trained on.
        RunExists: a report stands in `out`.
        ReferenceAliased: the models have different tokenizers.
        BadReward, DataFault: the judge or the prompts cannot be used.
    """
    source = as_source(prompts, name="prompts")
    options = options or EvaluationOptions()
    judge = as_reward(reward, device=options.device)
    settings = EvaluateSettings(
        policy=as_policy(policy).name,
        reference=as_policy(reference).name,
        prompts=Path(out or "") / TRAINING_DATA if isinstance(source, GivenRows) else source,
        reward=str(reward) if isinstance(reward, str | Path) else judge.name,
        out=Path(out or "runs/evaluation"),
        also=tuple(f"{name}={as_policy(model).name}" for name, model in (also or {}).items()),
        options=options,
        overwrite=overwrite,
    )
    return run_evaluate(settings, judge, source, write=out is not None)


def run_evaluate(
    settings: EvaluateSettings,
    judge: Reward | None = None,
    source: Path | GivenRows | None = None,
    *,
    write: bool = True,
) -> EvaluationResult:
    """What `logratio evaluate` does; judge and prompts are those of the settings unless they are given."""
    started = time.monotonic()
    config = evaluation_config(settings)
    sources = model_sources(settings)
    judge = judge or as_reward(settings.reward, device=settings.options.device)
    prompts = settings.prompts if source is None else source
    if write:
        prepare_out(settings)
    read = read_answerable(settings, sources, judge, prompts)
    used = columns_of_judges([judge], read.columns)
    data = settle_rows(read, settings.options.rows, used=used, noted=settings.out / REPORT)
    chosen = choose_prompts(read.usable, num_prompts=settings.options.num_prompts, seed=config.seed)
    say(f"data: {describe_chosen(chosen)}")
    trained = [source for name, source in sources.items() if name != "reference"]
    record = training_record(*trained, settings.out)
    ensure_held_out(chosen.rows, record.prompt_keys)
    models = OpenedOnDemand(sources, device=settings.options.device, dtype=settings.options.dtype)
    evaluation = evaluate_policies(
        models,
        [row.prompt for row in chosen.rows],
        judge,
        config,
        columns=[row.judge_columns for row in chosen.rows],
        trained_on_judge=judge.name in record.rewards,
        warnings=judge_saw_prompts(judge.name, count_seen(settings.reward, chosen.rows), len(chosen.rows)),
    )
    if write:
        provenance = describe_run(settings, config, models, prompts)
        provenance["seconds"] = round(time.monotonic() - started, 1)
        counts = (data if data["unusable"] or data["columns_not_used"] else {}) | chosen.counts
        write_report(settings.out, evaluation, counts=counts, provenance=provenance)
        if isinstance(prompts, GivenRows):
            prompts.write(settings.out / TRAINING_DATA)
        write_settings(settings.out / CONFIG_FILE, "evaluate", settings)
    return evaluation


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
            say(f"note: {name}: {note}")
        self.opened[name] = {"source": loaded.source, "fingerprint": loaded.fingerprint}
        return loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)


def evaluation_config(settings: EvaluateSettings) -> EvaluationConfig:
    """The settings, checked before anything is read.

    Raises:
        BadConfig: one is out of range, or the device or dtype is not there.
    """
    from logratio.models.loading import check_device, check_dtype

    if settings.options.num_prompts < 0:
        raise BadConfig(
            f"num prompts is {settings.options.num_prompts}",
            where="--num-prompts",
            action="give 0 (all) or more",
        )
    if settings.options.seed < 0:
        raise BadConfig(f"the seed is {settings.options.seed}", where="--seed", action="give 0 or more")
    check_device(settings.options.device)
    check_dtype(settings.options.dtype)
    return EvaluationConfig(sampling=settings.options.sampling, seed=settings.options.seed)


def model_sources(settings: EvaluateSettings) -> dict[str, str]:
    """Name to model: the reference, those of --also, the policy.

    Raises:
        BadConfig: --also is not name=model, or a name is taken.
    """
    between: dict[str, str] = {}
    for given in settings.also:
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
        say(f"note: --also: {sentence}")
    named = {"reference": settings.reference, **between, "policy": settings.policy}
    return {name: resolve_model(source) for name, source in named.items()}


def prepare_out(settings: EvaluateSettings) -> None:
    """Refuse to write over a report, and find out now whether --out can be written to.

    Raises:
        BadConfig: --out is a file.
        RunExists: a report stands there.
        NotWritable: no files can be made there.
    """
    report = settings.out / REPORT
    if report.exists() and not settings.overwrite:
        raise RunExists(
            "a report stands there already",
            where=str(report),
            action="give another --out, or --overwrite to replace it",
        )
    prepare_out_directory(settings.out)


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


def read_answerable(
    settings: EvaluateSettings, sources: Mapping[str, str], judge: Reward, prompts: Path | GivenRows
) -> ReadRows[PromptRow]:
    """The prompts, and which the models cannot answer or the judge cannot read, by the tokenizers alone.

    Raises:
        ReferenceAliased: two models have different tokenizers.
        DataFault: the file cannot be read.
    """
    from logratio.evaluation.run_evaluation import ensure_same_tokenizer
    from logratio.models.loading import load_tokenizer

    read = read_prompts(prompts, prompt_format=settings.options.prompt_format.prompt_format)
    reference = load_tokenizer(sources["reference"])
    for name, source in sources.items():
        if name != "reference":
            ensure_same_tokenizer(name, load_tokenizer(source), reference)
    settings.options.prompt_format.ensure_possible(reference)
    limits = limits_of_all(sources.values())
    read = read.keep(
        answerable(reference, limits, max_new_tokens=settings.options.sampling.max_new_tokens, judges=[judge])
    )
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
    settings: EvaluateSettings, config: EvaluationConfig, models: OpenedOnDemand, source: Path | GivenRows
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
        "device": settings.options.device,
        "dtype": settings.options.dtype,
        "models": models.opened,
        "prompts": {"file": str(source), "sha256": hash_source(source)},
        "judge": settings.reward,
        "evaluation": config.to_json(),
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
