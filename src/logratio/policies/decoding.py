"""Batched sampling that returns the exact log-probability of every token it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logratio.errors import BadConfig, NonFiniteLogits, OutOfMemory, PromptTooLong
from logratio.policies.drawing import Drawn, draw, uniforms
from logratio.policies.kv_cache import DecodingState
from logratio.records import FinishReason

SHRINK_AT = 1 / 8
"""The share of ended rows at which the batch is made smaller: copying the rest costs about one token."""

LEAST_TEMPERATURE = 1e-6
"""Below it the quotients leave float32."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How answers are drawn."""

    max_new_tokens: int = 64
    """An answer that has not ended after so many tokens is cut off."""
    temperature: float = 1.0
    """Logits are divided by it; 1 samples from the model itself, 0 takes the most probable token."""
    top_k: int = 0
    """Draw from the k most probable tokens only; 0 draws from all."""
    top_p: float = 1.0
    """Then from the fewest that have this much probability together; 1 draws from all."""
    batch_size: int = 64
    """How many answers are decoded at a time; the answers do not depend on it."""

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "--max-new-tokens", self.max_new_tokens, "1 or more")
        _require(self.batch_size >= 1, "--batch-size", self.batch_size, "1 or more")
        _require(
            self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < math.inf,
            "--temperature",
            self.temperature,
            f"0 (the most probable token), or {LEAST_TEMPERATURE} or more",
        )
        _require(self.top_k >= 0, "--top-k", self.top_k, "0 (no limit) or more")
        _require(0 < self.top_p <= 1, "--top-p", self.top_p, "above 0 and at most 1 (no limit)")


def _require(holds: bool, flag: str, value: float, allowed: str) -> None:
    if not holds:
        raise BadConfig(
            f"{flag.lstrip('-').replace('-', ' ')} is {value}", where=flag, action=f"give {allowed}"
        )


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One sampled answer as tokens."""

    token_ids: tuple[int, ...]
    """The tokens; the stop token is the last one where the answer ended."""
    logprobs: tuple[float, ...]
    """Log-probability of each under the distribution it was drawn from, in nats."""
    model_logprobs: tuple[float, ...]
    """Log-probability of each under the model: temperature 1, full vocabulary, in nats."""
    finish_reason: FinishReason
    """`stop` or `length`."""


class Answered(NamedTuple):
    """An answer with its place."""

    prompt: int
    answer: int
    decoded: Decoded


class Step(NamedTuple):
    """One token of an answer that is being streamed."""

    token_id: int
    logprob: float
    model_logprob: float


class _Request(NamedTuple):
    prompt: int
    answer: int
    seed: int


def sample_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    stop_ids: Iterable[int],
    pad_id: int,
    config: SamplingConfig,
    *,
    on_batch: Callable[[list[Answered]], None] | None = None,
) -> list[list[Decoded]]:
    """Draw an answer to `prompts[i]` for every seed in `seeds[i]`.

    A token depends on the logits, its seed and its position alone: answers are the same whatever the batch
    size and the other prompts, up to the rounding of logits. Each prompt is read once for its answers.

    Args:
        model: a causal language model of transformers; it is in evaluation mode meanwhile.
        prompts: token ids, none empty.
        seeds: one non-negative number for every answer wanted.
        stop_ids: tokens that end an answer; the one drawn is kept.
        pad_id: any token of the vocabulary.
        config: how to draw.
        on_batch: called with the answers of each batch as soon as they are there.

    Raises:
        BadConfig: an empty prompt, or a token outside the vocabulary.
        PromptTooLong: prompt and answer do not fit the model's positions.
        NonFiniteLogits: the model's logits are NaN or infinite.
        OutOfMemory: no memory for a batch of this size.
    """
    check_prompts(model, prompts, config)
    answers: dict[tuple[int, int], Decoded] = {}
    with evaluation_mode(model):
        for requests in _batches([len(prompt) for prompt in prompts], seeds, config.batch_size):
            decoded = _decode(model, prompts, requests, frozenset(stop_ids), pad_id, config)
            batch = [
                Answered(request.prompt, request.answer, answer)
                for request, answer in zip(requests, decoded, strict=True)
            ]
            answers.update({(prompt, answer): value for prompt, answer, value in batch})
            if on_batch is not None:
                on_batch(batch)
    return [[answers[row, column] for column in range(len(own))] for row, own in enumerate(seeds)]


def stream_tokens(
    model: Any, prompt: Sequence[int], seed: int, stop_ids: Iterable[int], config: SamplingConfig
) -> Iterator[Step]:
    """Draw one answer token by token: the very tokens that `sample_tokens` draws for this seed.

    Raises:
        BadConfig, PromptTooLong, NonFiniteLogits, OutOfMemory: as for `sample_tokens`.
    """
    check_prompts(model, [prompt], config)
    stops = frozenset(stop_ids)
    requests = [_Request(0, 0, seed)]
    with evaluation_mode(model):
        for _, drawn, _ in _steps(model, [prompt], requests, stops, prompt[0], config):
            yield Step(int(drawn.tokens), float(drawn.logprobs), float(drawn.model_logprobs))


def check_prompts(
    model: Any,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    *,
    places: Sequence[str] | None = None,
) -> None:
    """Raise where a prompt cannot be answered by `model`; `places` are where the prompts come from."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    positions = getattr(model.config, "max_position_embeddings", None)
    for number, prompt in enumerate(prompts):
        where = places[number] if places is not None else f"prompt {number + 1}"
        if not prompt:
            raise BadConfig("the prompt has no tokens", where=where, action="give at least one word")
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise BadConfig(
                f"token {max(prompt)} is not among the model's {vocabulary}",
                where=where,
                action="use the tokenizer that belongs to the model",
            )
        if positions is not None and len(prompt) + config.max_new_tokens > positions:
            raise PromptTooLong(
                f"{len(prompt)} tokens of prompt and {config.max_new_tokens} of answer, "
                f"and the model has {positions} positions",
                where=where,
                action="shorten the prompt, or ask for less (--max-new-tokens)",
            )


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Without dropout; afterwards the model is in training mode again if it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _batches(
    lengths: Sequence[int], seeds: Sequence[Sequence[int]], batch_size: int
) -> Iterator[list[_Request]]:
    """Requests in batches, prompts of like length together; the longest first, so that memory fails early."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    requests = [
        _Request(prompt, answer, seed) for prompt in order for answer, seed in enumerate(seeds[prompt])
    ]
    for start in range(0, len(requests), batch_size):
        yield requests[start : start + batch_size]


def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[_Request],
    stops: frozenset[int],
    pad_id: int,
    config: SamplingConfig,
) -> list[Decoded]:
    shape = (len(requests), config.max_new_tokens)
    tokens = torch.zeros(shape, dtype=torch.long)
    logprobs = torch.zeros(shape, dtype=torch.float64)
    model_logprobs = torch.zeros(shape, dtype=torch.float64)
    lengths = torch.full((len(requests),), config.max_new_tokens)
    stopped = torch.zeros(len(requests), dtype=torch.bool)
    for position, (rows, drawn, ended) in enumerate(_steps(model, prompts, requests, stops, pad_id, config)):
        tokens[rows, position] = drawn.tokens
        logprobs[rows, position] = drawn.logprobs
        model_logprobs[rows, position] = drawn.model_logprobs
        first_end = rows[ended & ~stopped[rows]]
        lengths[first_end] = position + 1
        stopped[first_end] = True
    return [
        Decoded(
            token_ids=tuple(tokens[row, :length].tolist()),
            logprobs=tuple(logprobs[row, :length].tolist()),
            model_logprobs=tuple(model_logprobs[row, :length].tolist()),
            finish_reason="stop" if stopped[row] else "length",
        )
        for row, length in enumerate(lengths.tolist())
    ]


def _steps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[_Request],
    stops: frozenset[int],
    pad_id: int,
    config: SamplingConfig,
) -> Iterator[tuple[Tensor, Drawn, Tensor]]:
    """One position at a time: the rows that are still decoded, what was drawn, and which have ended.

    A row that has ended may stay for a while; what is drawn for it then means nothing.
    """
    with _named_faults(len(requests)):
        groups = [
            (prompt, len(list(same))) for prompt, same in groupby(request.prompt for request in requests)
        ]
        state = DecodingState(
            model,
            [prompts[prompt] for prompt, _ in groups],
            [count for _, count in groups],
            pad_id=pad_id,
            room=config.max_new_tokens,
        )
        numbers = uniforms([request.seed for request in requests], config.max_new_tokens)
        stop_tensor = torch.tensor(sorted(stops), dtype=torch.long)
        rows = tokens = torch.arange(len(requests))
        ended = torch.zeros(len(requests), dtype=torch.bool)
        for position in range(config.max_new_tokens):
            if position:
                state.step(tokens)
            drawn = draw(
                state.logits,
                numbers[rows, position],
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
            )
            ended = ended | torch.isin(drawn.tokens, stop_tensor)
            yield rows, drawn, ended
            if bool(ended.all()):
                return
            tokens = drawn.tokens
            going = (~ended).nonzero()[:, 0]
            if len(going) <= len(rows) * (1 - SHRINK_AT):
                state.keep(going)
                rows, ended, tokens = rows[going], ended[going], tokens[going]


@contextmanager
def _named_faults(num_rows: int) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise NonFiniteLogits(
            "the model's logits are NaN or infinite: nothing can be drawn from them",
            action="its weights are damaged, or its training diverged: use an earlier checkpoint",
        ) from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise OutOfMemory(
                f"no memory for {num_rows} answers at a time",
                where="--batch-size",
                action=f"try --batch-size {max(1, num_rows // 2)}; the answers stay the same",
            ) from error
        raise
