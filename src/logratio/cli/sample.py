"""Answer prompts, and keep each answer's tokens with their exact log-probabilities.

    logratio sample --model SmolLM2.gguf --prompts prompts.jsonl --out completions.jsonl

reads prompts from JSON Lines (a column `prompt` with a text or with messages; further columns are kept) or
from a .txt file with one prompt a line, and writes one row a prompt:

    {"prompt": "...", "completions": [{"text": "...", "token_ids": [...], "logprobs": [...], ...}]}

`logprobs` are those of the distribution that was drawn from, temperature, top-k and top-p included;
`model_logprobs` those of the model itself. Every answer has its own seed, made of --seed, the prompt and the
answer's number, so that answers do not depend on --batch-size or on the other prompts. A run that was
stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.cli.prompt_format import PromptFormatFlags, announce_rendering, with_format_taken
from logratio.cli.prompts import answerable
from logratio.cli.rows import LEFT_OUT, RowFlags, settle_rows, write_rows_left_out
from logratio.data.jsonl import PromptRow, read_prompts
from logratio.data.unusable_rows import ReadRows
from logratio.errors import BadConfig, RunExists
from logratio.generation.config import SamplingConfig
from logratio.generation.resumable import PartialAnswers, ensure_parent_directory, read_header
from logratio.generation.sampler import sample
from logratio.models import tokenisation
from logratio.models.loading import LoadedModel, check_device, check_dtype, load, load_tokenizer, read_limits
from logratio.models.template_dates import render_as_of
from logratio.progress import Progress
from logratio.records import TOOLS, Prompt, Sample
from logratio.run_directory import hash_json, write_json_lines
from logratio.stats.wilson import percent

WRITTEN_ANEW = ("prompt", "completions", TOOLS)
"""Columns of a file of prompts that are not passed on as they are."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Flags of `logratio sample`."""

    model: str
    """The model: a transformers directory, a run directory, a .gguf file, or a hub id."""
    prompts: Path
    """What is answered: JSON Lines with a column `prompt`, or a .txt file with one prompt a line."""
    out: Path
    """The answers: JSON Lines. While they are drawn they stand beside it, in a file that ends in
    .partial.jsonl."""
    prompt_format: Annotated[PromptFormatFlags, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatFlags
    )
    """How prompts given as text are rendered."""
    num_samples: int = 4
    """How many answers each prompt gets."""
    max_new_tokens: int = 64
    """An answer that has not ended after so many tokens is cut off."""
    temperature: float = 1.0
    """Logits are divided by it: 1 samples from the model itself, 0 takes the most probable token."""
    top_k: int = 0
    """Draw from the k most probable tokens only; 0 draws from all."""
    top_p: float = 1.0
    """Then from the fewest that have this much probability together; 1 draws from all."""
    seed: int = 0
    """Seed of the answers."""
    batch_size: int = 256
    """How many answers are decoded at a time, fewer where they would take more than a gigabyte: less takes
    less memory, and gives the same answers."""
    limit: int = 0
    """Answer only the first so many prompts; 0 answers all."""
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = field(default_factory=RowFlags)
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


def run(arguments: Arguments) -> int:
    """Sample, write the answers and print the counts."""
    config = sampling_config(arguments)
    check_device(arguments.device)
    check_dtype(arguments.dtype)
    partial_path = arguments.out.with_name(arguments.out.name + ".partial.jsonl")
    prepare_out(arguments, partial_path)
    begun = read_header(partial_path)
    # Answers that a stopped run left were drawn behind the dates of its beginning.
    moment = datetime.fromisoformat(begun["rendered_at"]) if "rendered_at" in begun else datetime.now()
    dated = {"rendered_at": moment.isoformat()} if "rendered_at" in begun or not begun else {}
    with render_as_of(moment):
        return draw_to_end(arguments, config, partial_path, dated)


def draw_to_end(
    arguments: Arguments, config: SamplingConfig, partial_path: Path, dated: dict[str, str]
) -> int:
    """Draw what is wanted and write it; `dated` is what the partial file says of the dates in prompts."""
    noted = arguments.out.with_name(arguments.out.name + LEFT_OUT)
    read = read_answerable(arguments)
    data = settle_rows(read, arguments.rows, used={*read.columns} - {"completions"}, noted=noted)
    rows, loaded = read.usable, open_model(arguments)
    prompts = [row.prompt for row in rows]
    with PartialAnswers(partial_path, identity(arguments, loaded, rows) | dated, prompts) as partial:
        samples, seconds = draw_rest(arguments, config, loaded, rows, partial)
        write_json_lines(arguments.out, [drawn.to_json() for drawn in samples])
        write_rows_left_out(noted, data)
        partial.discard()
    known = len(partial.known)
    print(
        describe(samples, seconds=seconds, num_known=known, known_tokens=count_tokens(partial.known.values()))
    )
    print(f"written to {arguments.out}")
    return 0


def sampling_config(arguments: Arguments) -> SamplingConfig:
    """The flags that say how to draw; `BadConfig` where one is out of range."""
    for flag, value, least in (
        ("--num-samples", arguments.num_samples, 1),
        ("--limit", arguments.limit, 0),
    ):
        if value < least:
            raise BadConfig(f"{flag.lstrip('-')} is {value}", where=flag, action=f"give {least} or more")
    return SamplingConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        batch_size=arguments.batch_size,
    )


def prepare_out(arguments: Arguments, partial_path: Path) -> None:
    """Refuse to write over what is there, or clear the way with --overwrite."""
    if arguments.out.is_dir():
        raise BadConfig("--out is a directory", where=str(arguments.out), action="give a file")
    if arguments.out.resolve() == arguments.prompts.resolve():
        raise BadConfig(
            "--out is the file of prompts itself", where=str(arguments.out), action="give another"
        )
    if arguments.overwrite:
        partial_path.unlink(missing_ok=True)
    elif arguments.out.exists():
        raise RunExists(
            "there are answers already",
            where=str(arguments.out),
            action="give another --out, or --overwrite to draw them again",
        )
    ensure_parent_directory(arguments.out)


def read_answerable(arguments: Arguments) -> ReadRows[PromptRow]:
    """The prompts; those that cannot be answered are found before weights are read."""
    form = arguments.prompt_format.prompt_format
    read = read_prompts(arguments.prompts, limit=arguments.limit or None, prompt_format=form)
    model, revision, trust = arguments.model, arguments.revision, arguments.trust_remote_code
    tokenizer = load_tokenizer(model, revision=revision, trust_remote_code=trust)
    limits = read_limits(model, revision=revision, trust_remote_code=trust)
    arguments.prompt_format.ensure_possible(tokenizer)
    read = read.keep(answerable(tokenizer, limits, max_new_tokens=arguments.max_new_tokens))
    announce_rendering(tokenizer, [row.prompt for row in read.usable])
    return read


def open_model(arguments: Arguments) -> LoadedModel:
    """The model, with what is to be known of it printed."""
    loaded = load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        revision=arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
    )
    for note in loaded.notes:
        print(f"note: {note}")
    return loaded


def identity(arguments: Arguments, loaded: LoadedModel, rows: Sequence[PromptRow]) -> dict[str, Any]:
    """What must be the same for a stopped run to go on; batches and devices do not change the answers."""
    return {
        "format": 1,
        "model": loaded.fingerprint,
        "tokenizer": tokenisation.tokenizer_fingerprint(loaded.tokenizer),
        "prompts": hash_json([_identity_of(row.prompt) for row in rows])[:16],
        "num_samples": arguments.num_samples,
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "seed": arguments.seed,
        "dtype": arguments.dtype,
    }


def _identity_of(prompt: Prompt) -> Any:
    """What decides the answers to a prompt: its columns, or its text or messages where there is no more."""
    columns = prompt.columns()
    return columns["prompt"] if len(columns) == 1 else columns


def draw_rest(
    arguments: Arguments,
    config: SamplingConfig,
    loaded: LoadedModel,
    rows: Sequence[PromptRow],
    partial: PartialAnswers,
) -> tuple[list[Sample], float]:
    """Draw the answers that are not there yet; all answers, and the seconds it took."""
    started = time.monotonic()
    total = len(rows) * arguments.num_samples
    with Progress("sampling", total, unit="answers", done=len(partial.known)) as progress:
        samples = sample(
            loaded.model,
            loaded.tokenizer,
            [with_format_taken(loaded.tokenizer, row.prompt) for row in rows],
            num_samples=arguments.num_samples,
            seed=arguments.seed,
            config=config,
            progress=progress,
            store=partial,
        )
    seconds = time.monotonic() - started
    # A file of answers may be a file of prompts: its old answers do not shadow the new ones.
    columns = [
        {name: value for name, value in row.columns.items() if name not in WRITTEN_ANEW} for row in rows
    ]
    return [replace(own, columns=of) for own, of in zip(samples, columns, strict=True)], seconds


def count_tokens(completions: Any) -> int:
    """Tokens of the answers, end tokens included."""
    return sum(len(completion.token_ids or ()) for completion in completions)


def describe(samples: Sequence[Sample], *, seconds: float, num_known: int, known_tokens: int) -> str:
    """What was drawn, in two lines."""
    completions = [completion for drawn in samples for completion in drawn.completions]
    tokens = count_tokens(completions)
    ended = sum(completion.finish_reason == "stop" for completion in completions)
    logprob = sum(sum(completion.model_logprobs or ()) for completion in completions)
    before = f" ({num_known} of them from a run that was stopped)" if num_known else ""
    new = tokens - known_tokens
    # Where all answers were there already, none was drawn at any rate.
    rate = f", {new / max(seconds, 1e-9):.0f} tokens/s" if new else ""
    return (
        f"{len(completions)} answers to {len(samples)} prompts{before}: "
        f"{tokens} tokens{rate}\n"
        f"{percent(ended / len(completions), 0)} ended by themselves; mean log-probability under the model "
        f"{logprob / len(completions):.2f} nats an answer, {logprob / tokens:.3f} a token"
    )
