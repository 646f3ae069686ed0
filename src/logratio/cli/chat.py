"""Talk to a model, or to two with the same words, in the terminal.

    logratio chat --model runs/mine --against SmolLM2.gguf --system "You answer in one sentence."

Each model remembers its own side of the conversation. Behind each answer stand its number of tokens, whether
it ended by itself, and its mean log-probability under the model. The same seed and the same words give the
same answer. While you talk:

    /reset     forget the conversation
    /seed 7    draw with another seed
    /quit      leave (or Ctrl-D); Ctrl-C stops an answer

Words can also come through a pipe, a turn on each line:  echo "Hello" | logratio chat --model M
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.errors import BadConfig, LogratioError
from logratio.generation.config import SamplingConfig
from logratio.generation.engines.selection import stream_tokens
from logratio.generation.sampler import answer_seed, stop_tokens
from logratio.models import tokenisation
from logratio.models.loading import check_device, check_dtype, load
from logratio.recipes.prompt_format import PromptFormatConfig
from logratio.records import Message, Prompt

UNFINISHED_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for the first bytes of a character whose other bytes are in the next token."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Flags of `logratio chat`."""

    model: str
    """The model: a transformers directory, a run directory, a .gguf file, or a hub id."""
    against: str | None = None
    """Another model that hears the same words."""
    system: str | None = None
    """A system message, before the first turn."""
    prompt_format: Annotated[PromptFormatConfig, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatConfig
    )
    """How prompts given as text are rendered."""
    temperature: float = 0.7
    """Logits are divided by it: 1 samples from the model itself, 0 takes the most probable token."""
    top_k: int = 0
    """Draw from the k most probable tokens only; 0 draws from all."""
    top_p: float = 1.0
    """Then from the fewest that have this much probability together; 1 draws from all."""
    max_new_tokens: int = 256
    """An answer that has not ended after so many tokens is cut off."""
    seed: int = 0
    """Seed of the answers."""
    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1, mps."""
    dtype: str = "float32"
    """Numbers of the weights: float32 or bfloat16."""


@dataclass
class Speaker:
    """A model with its side of the conversation."""

    name: str
    """What its answers are headed with."""
    model: Any
    """The model."""
    tokenizer: Any
    """Its tokenizer."""
    history: list[Message] = field(default_factory=list)
    """The turns so far, without the system message."""


def run(arguments: Arguments) -> int:
    """Hold the conversation until the words end."""
    config = SamplingConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
    )
    if arguments.system and arguments.prompt_format.prompt_format == "raw":
        raise BadConfig(
            "a system message is a turn, and raw words are none",
            where="--system",
            action="leave it out, or write it into the words",
        )
    check_device(arguments.device)
    check_dtype(arguments.dtype)
    speakers = open_speakers(arguments)
    seed = arguments.seed
    for line in read_turns():
        if line.startswith("/"):
            try:
                seed = obey(line, speakers, seed)
            except EOFError:
                break
            except BadConfig as fault:
                print(fault)
            continue
        for speaker in speakers:
            raw = arguments.prompt_format.prompt_format == "raw"
            answer(speaker, line, system=arguments.system, seed=seed, config=config, raw=raw)
    return 0


def open_speakers(arguments: Arguments) -> list[Speaker]:
    """Load one model or two; where their last names agree they are told apart by what was typed."""
    sources = [arguments.model, *([arguments.against] if arguments.against else [])]
    names = [Path(source).name for source in sources]
    if len(set(names)) < len(names):
        names = [f"{letter}: {source}" for letter, source in zip("AB", sources, strict=True)]
    speakers = []
    for name, source in zip(names, sources, strict=True):
        loaded = load(source, device=arguments.device, dtype=arguments.dtype)
        arguments.prompt_format.ensure_possible(loaded.tokenizer)
        speakers.append(Speaker(name=name, model=loaded.model, tokenizer=loaded.tokenizer))
    return speakers


def read_turns() -> Iterator[str]:
    """Lines that a person types, or that come through a pipe; empty ones are left out."""
    in_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input("you> ") if in_terminal else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not in_terminal:
            if not line:
                return
            print(f"you> {line.rstrip()}")
        if line.strip():
            yield line.strip()


def obey(line: str, speakers: list[Speaker], seed: int) -> int:
    """Carry out a /command; the seed from now on.

    Raises:
        EOFError: the person wants to leave.
        BadConfig: there is no such command, or the seed is not a number.
    """
    command, _, rest = line.partition(" ")
    if command == "/quit":
        raise EOFError
    if command == "/reset":
        for speaker in speakers:
            speaker.history.clear()
        print("(forgotten)")
        return seed
    if command == "/seed":
        try:
            seed = int(rest)
        except ValueError:
            raise BadConfig(f"{rest!r} is not a seed", action="give a whole number: /seed 7") from None
        print(f"(seed {seed})")
        return seed
    raise BadConfig(f"there is no command {command}", action="/reset, /seed N and /quit are there")


def answer(
    speaker: Speaker, line: str, *, system: str | None, seed: int, config: SamplingConfig, raw: bool = False
) -> None:
    """Stream one answer and remember it; a fault, or Ctrl-C before the first token, leaves no trace.

    What is continued as it stands (`raw`) is no turn of a conversation, and is not remembered.
    """
    question = Message(role="user", content=line)
    opening = (Message(role="system", content=system),) if system else ()
    prompt = Prompt(line, format="raw") if raw else Prompt((*opening, *speaker.history, question))
    print(f"{speaker.name}> ", end="", flush=True)
    try:
        text = stream_answer(speaker, prompt, seed=seed, config=config)
    except LogratioError as fault:
        # The conversation goes on: what does not fit may fit after /reset.
        print(f"\n{fault}")
        return
    if text and not raw:
        speaker.history += [question, Message(role="assistant", content=text)]


def stream_answer(speaker: Speaker, prompt: Prompt, *, seed: int, config: SamplingConfig) -> str:
    """Print an answer as it is drawn, and a line about it; the answer's text."""
    stop_ids = stop_tokens(speaker.model, speaker.tokenizer)
    ids = tokenisation.encode_prompt(speaker.tokenizer, prompt)
    drawn: list[int] = []
    logprob, shown, ended = 0.0, "", "cut off"
    try:
        for step in stream_tokens(speaker.model, ids, answer_seed(seed, prompt, 0), stop_ids, config):
            drawn.append(step.token_id)
            logprob += step.model_logprob
            text = tokenisation.decode(speaker.tokenizer, drawn)
            if not text.endswith(UNFINISHED_CHARACTER):
                print(printable(text[len(shown) :]), end="", flush=True)
                shown = text
        if tokenisation.find_end(drawn, stop_ids):
            ended = "ended"
    except KeyboardInterrupt:
        ended = "stopped"
    mean = f", {logprob / len(drawn):.2f} nats per token" if drawn else ""
    print(f"\n  [{len(drawn)} tokens, {ended}{mean}]")
    return shown


def printable(text: str) -> str:
    """Text without the control characters by which a model could move the cursor or recolour the terminal."""
    return "".join(character for character in text if character in "\n\t" or character.isprintable())
