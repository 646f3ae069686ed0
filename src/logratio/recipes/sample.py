"""Answers to prompts, with the exact log-probabilities of their tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.data.given_rows import GivenRows, Row, as_source
from logratio.data.jsonl import PromptRow, read_prompts
from logratio.data.unusable_rows import ReadRows
from logratio.errors import BadConfig, RunExists
from logratio.generation import sampler
from logratio.generation.config import SamplingConfig
from logratio.generation.resumable import PartialAnswers, ensure_parent_directory, read_header
from logratio.models import tokenisation
from logratio.models.loading import LoadedModel, check_device, check_dtype, load, load_tokenizer, read_limits
from logratio.models.template_dates import render_as_of
from logratio.progress import Progress, say
from logratio.recipes.policy import ModelName, as_policy, resolve_model
from logratio.recipes.prompt_format import PromptFormatConfig, announce_rendering, with_format_taken
from logratio.recipes.prompts import answerable
from logratio.recipes.rows import LEFT_OUT, RowConfig, settle_rows, write_rows_left_out
from logratio.records import TOOLS, Completion, Prompt, Sample
from logratio.run_directory import hash_json, write_json_lines

WRITTEN_ANEW = ("prompt", "completions", TOOLS)
"""Columns of a file of prompts that are not passed on as they are."""


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """All that `sample` is told, as `logratio sample` takes it."""

    model: str
    """The model: a transformers directory, a run directory, a .gguf file, a hub id, or `embedded`."""
    prompts: Path
    """What is answered: JSON Lines with a column `prompt`, or a .txt file with one prompt a line."""
    out: Path
    """The answers: JSON Lines. While they are drawn they stand beside it, in a file that ends in
    .partial.jsonl."""
    prompt_format: Annotated[PromptFormatConfig, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatConfig
    )
    """How prompts given as text are rendered."""
    num_samples: int = 4
    """How many answers each prompt gets."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    """The distribution that they are drawn from."""
    seed: int = 0
    """Seed of the answers."""
    limit: int = 0
    """Answer only the first so many prompts; 0 answers all."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of prompts that cannot be answered."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    dtype: str = "float32"
    """Numbers of the weights: float32 or bfloat16 (faster on a GPU; log-probabilities are less exact)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run code that a model brings along; needs --revision with a whole commit, so that you know which."""
    overwrite: bool = False
    """Replace --out if it is there, and anything that a stopped run left."""


@dataclass(frozen=True, kw_only=True)
class DrawnSamples:
    """Answers to prompts, and how many of them a stopped run had left."""

    samples: list[Sample]
    """Each prompt with its answers."""
    seconds: float
    """How long the new ones took."""
    known: list[Completion]
    """Those that were there before."""


def sample(
    policy: ModelName,
    prompts: Path | str | GivenRows | Sequence[Row],
    *,
    num_samples: int = 4,
    config: SamplingConfig | None = None,
    seed: int = 0,
    out: Path | str | None = None,
) -> list[Sample]:
    """Draw answers `y ~ π(· | x)`, each with the log-probability of every token.

    Every answer has a seed of its own, made of `seed`, the prompt and the answer's number: it depends neither
    on the other prompts nor on how many are decoded together. Prompts that cannot be answered are left out
    and counted.

    Args:
        policy: the model, or its name.
        prompts: a file, or rows as texts, `Prompt` or mappings with `prompt`; further columns are kept.
        num_samples: answers to each prompt.
        config: temperature, top-k, top-p, and the length at which an answer is cut off.
        seed: of the answers.
        out: write them there as JSON Lines, as `logratio sample` does.

    Returns:
        A `Sample` per prompt; `completion.logprobs` are those of the distribution drawn from, in nats,
        `completion.model_logprobs` those of the model itself.

    Raises:
        UnusableRows: too many prompts cannot be answered.
        BadConfig: `num_samples` is below 1.
    """
    policy = as_policy(policy)
    source = as_source(prompts, name="prompts")
    settings = SampleSettings(
        model=policy.name,
        prompts=Path(str(source)),
        out=Path(out or "answers"),
        num_samples=num_samples,
        sampling=config or SamplingConfig(precision=policy.compute.precision),
        seed=seed,
        device=policy.compute.device,
    )
    ensure_counts(settings)
    with render_as_of(datetime.now()):
        read = read_answerable(settings, source)
        settle_rows(read, settings.rows, used={*read.columns} - {"completions"})
        samples, _ = draw(settings, policy.load(), read.usable)
    if out is not None:
        ensure_parent_directory(settings.out)
        write_json_lines(settings.out, [drawn.to_json() for drawn in samples])
    return samples


def run_sample(settings: SampleSettings) -> DrawnSamples:
    """What `logratio sample` does; a call that was stopped is gone on with."""
    ensure_counts(settings)
    check_device(settings.device)
    check_dtype(settings.dtype)
    partial_path = settings.out.with_name(settings.out.name + ".partial.jsonl")
    prepare_out(settings, partial_path)
    begun = read_header(partial_path)
    # Answers that a stopped run left were drawn behind the dates of its beginning.
    moment = datetime.fromisoformat(begun["rendered_at"]) if "rendered_at" in begun else datetime.now()
    dated = {"rendered_at": moment.isoformat()} if "rendered_at" in begun or not begun else {}
    with render_as_of(moment):
        return draw_to_end(settings, partial_path, dated)


def draw_to_end(settings: SampleSettings, partial_path: Path, dated: dict[str, str]) -> DrawnSamples:
    """Draw what is wanted and write it; `dated` is what the partial file says of the dates in prompts."""
    noted = settings.out.with_name(settings.out.name + LEFT_OUT)
    read = read_answerable(settings, settings.prompts)
    data = settle_rows(read, settings.rows, used={*read.columns} - {"completions"}, noted=noted)
    rows, loaded = read.usable, open_model(settings)
    prompts = [row.prompt for row in rows]
    with PartialAnswers(partial_path, identity(settings, loaded, rows) | dated, prompts) as partial:
        samples, seconds = draw(settings, loaded, rows, partial)
        write_json_lines(settings.out, [drawn.to_json() for drawn in samples])
        write_rows_left_out(noted, data)
        partial.discard()
    return DrawnSamples(samples=samples, seconds=seconds, known=list(partial.known.values()))


def ensure_counts(settings: SampleSettings) -> None:
    """Raise `BadConfig` where a count is below what makes sense."""
    for flag, value, least in (("--num-samples", settings.num_samples, 1), ("--limit", settings.limit, 0)):
        if value < least:
            raise BadConfig(f"{flag.lstrip('-')} is {value}", where=flag, action=f"give {least} or more")


def prepare_out(settings: SampleSettings, partial_path: Path) -> None:
    """Refuse to write over what is there, or clear the way with --overwrite."""
    if settings.out.is_dir():
        raise BadConfig("--out is a directory", where=str(settings.out), action="give a file")
    if settings.out.resolve() == settings.prompts.resolve():
        raise BadConfig("--out is the file of prompts itself", where=str(settings.out), action="give another")
    if settings.overwrite:
        partial_path.unlink(missing_ok=True)
    elif settings.out.exists():
        raise RunExists(
            "there are answers already",
            where=str(settings.out),
            action="give another --out, or --overwrite to draw them again",
        )
    ensure_parent_directory(settings.out)


def read_answerable(settings: SampleSettings, source: Path | GivenRows) -> ReadRows[PromptRow]:
    """The prompts; those that cannot be answered are found before weights are read."""
    form = settings.prompt_format.prompt_format
    read = read_prompts(source, limit=settings.limit or None, prompt_format=form)
    model, revision, trust = resolve_model(settings.model), settings.revision, settings.trust_remote_code
    tokenizer = load_tokenizer(model, revision=revision, trust_remote_code=trust)
    limits = read_limits(model, revision=revision, trust_remote_code=trust)
    settings.prompt_format.ensure_possible(tokenizer)
    read = read.keep(answerable(tokenizer, limits, max_new_tokens=settings.sampling.max_new_tokens))
    announce_rendering(tokenizer, [row.prompt for row in read.usable])
    return read


def open_model(settings: SampleSettings) -> LoadedModel:
    """The model, with what is to be known of it printed."""
    loaded = load(
        resolve_model(settings.model),
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    for note in loaded.notes:
        say(f"note: {note}")
    return loaded


def identity(settings: SampleSettings, loaded: LoadedModel, rows: Sequence[PromptRow]) -> dict[str, Any]:
    """What must be the same for a stopped run to go on; batches and devices do not change the answers."""
    return {
        "format": 1,
        "model": loaded.fingerprint,
        "tokenizer": tokenisation.tokenizer_fingerprint(loaded.tokenizer),
        "prompts": hash_json([_identity_of(row.prompt) for row in rows])[:16],
        "num_samples": settings.num_samples,
        "max_new_tokens": settings.sampling.max_new_tokens,
        "temperature": settings.sampling.temperature,
        "top_k": settings.sampling.top_k,
        "top_p": settings.sampling.top_p,
        "seed": settings.seed,
        "dtype": settings.dtype,
        # Left out where it is as it was before there was a choice, so that old answers are gone on with.
        **({} if settings.sampling.precision == "fp32" else {"precision": settings.sampling.precision}),
    }


def _identity_of(prompt: Prompt) -> Any:
    """What decides the answers to a prompt: its columns, or its text or messages where there is no more."""
    columns = prompt.columns()
    return columns["prompt"] if len(columns) == 1 else columns


def draw(
    settings: SampleSettings,
    loaded: LoadedModel,
    rows: Sequence[PromptRow],
    partial: PartialAnswers | None = None,
) -> tuple[list[Sample], float]:
    """Draw the answers that are not there yet; all answers, and the seconds it took."""
    started = time.monotonic()
    total, done = len(rows) * settings.num_samples, 0 if partial is None else len(partial.known)
    with Progress("sampling", total, unit="answers", done=done) as progress:
        samples = sampler.sample(
            loaded.model,
            loaded.tokenizer,
            [with_format_taken(loaded.tokenizer, row.prompt) for row in rows],
            num_samples=settings.num_samples,
            seed=settings.seed,
            config=settings.sampling,
            progress=progress,
            store=partial,
        )
    seconds = time.monotonic() - started
    # A file of answers may be a file of prompts: its old answers do not shadow the new ones.
    columns = [
        {name: value for name, value in row.columns.items() if name not in WRITTEN_ANEW} for row in rows
    ]
    return [replace(drawn, columns=of) for drawn, of in zip(samples, columns, strict=True)], seconds
