"""Batched sampling that returns the exact log-probability of every token it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from logratio.errors import BadConfig, NonFiniteLogits, OutOfMemory, PromptTooLong
from logratio.generation.config import SamplingConfig
from logratio.generation.engines.continuous_batching import TokenStep, generate_steps
from logratio.models.config_limits import limits_of_model
from logratio.models.end_of_turn import Stop
from logratio.records import FinishReason

REPORT_SHARE = 1 / 8
"""Answers are handed over when they are so large a share of a batch."""


@dataclass(frozen=True, kw_only=True)
class SampledAnswer:
    """One sampled answer as tokens."""

    token_ids: tuple[int, ...]
    """The tokens; the stop token is the last one where the answer ended."""
    logprobs: tuple[float, ...]
    """Log-probability of each under the distribution it was drawn from, in nats."""
    model_logprobs: tuple[float, ...]
    """Log-probability of each under the model: temperature 1, full vocabulary, in nats."""
    finish_reason: FinishReason
    """`stop` or `length`."""


class IndexedAnswer(NamedTuple):
    """An answer with its place."""

    prompt: int
    answer: int
    sampled: SampledAnswer


class StreamedToken(NamedTuple):
    """One token of an answer that is being streamed."""

    token_id: int
    logprob: float
    model_logprob: float


def sample_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    stop_ids: Iterable[Stop],
    pad_id: int,
    config: SamplingConfig,
    *,
    on_batch: Callable[[list[IndexedAnswer]], None] | None = None,
) -> list[list[SampledAnswer]]:
    """Draw an answer to `prompts[i]` for every seed in `seeds[i]`.

    A token depends on the logits, its seed and its position alone: answers are the same whatever the batch
    size and the other prompts, up to the rounding of logits. Each prompt is read once for its answers.

    Args:
        model: a causal language model of transformers; it is in evaluation mode meanwhile.
        prompts: token ids, none empty.
        seeds: one non-negative number for every answer wanted.
        stop_ids: tokens that end an answer, and tuples of several that do in a row; what is drawn is kept.
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
    answers: dict[tuple[int, int], SampledAnswer] = {}
    with evaluation_mode(model), _named_faults(min(config.decode_batch_size, sum(map(len, seeds)))):
        for batch in _finished_batches(
            generate_steps(model, prompts, seeds, stop_ids, pad_id, config), config
        ):
            answers.update({(prompt, answer): value for prompt, answer, value in batch})
            if on_batch is not None:
                on_batch(batch)
    return [[answers[row, column] for column in range(len(own))] for row, own in enumerate(seeds)]


def stream_tokens(
    model: Any, prompt: Sequence[int], seed: int, stop_ids: Iterable[Stop], config: SamplingConfig
) -> Iterator[StreamedToken]:
    """Draw one answer token by token: the very tokens that `sample_tokens` draws for this seed.

    Raises:
        BadConfig, PromptTooLong, NonFiniteLogits, OutOfMemory: as for `sample_tokens`.
    """
    check_prompts(model, [prompt], config)
    with evaluation_mode(model), _named_faults(1):
        for _, sampled, _ in generate_steps(model, [prompt], [[seed]], stop_ids, prompt[0], config):
            yield StreamedToken(int(sampled.tokens), float(sampled.logprobs), float(sampled.model_logprobs))


def check_prompts(
    model: Any,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig,
    *,
    places: Sequence[str] | None = None,
) -> None:
    """Raise where a prompt cannot be answered by `model`; `places` are where the prompts come from."""
    limits = limits_of_model(model)
    vocabulary = limits.embedding_rows or 0
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
        try:
            limits.ensure_room(len(prompt), answer=config.max_new_tokens)
        except PromptTooLong as fault:
            fault.where = where
            raise


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Without dropout; afterwards the model is in training mode again if it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _PartialAnswer(NamedTuple):
    """An answer that has not ended yet."""

    tokens: list[int]
    logprobs: list[float]
    model_logprobs: list[float]

    def finish(self, reason: FinishReason) -> SampledAnswer:
        return SampledAnswer(
            token_ids=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            model_logprobs=tuple(self.model_logprobs),
            finish_reason=reason,
        )


def _finished_batches(
    token_steps: Iterable[TokenStep], config: SamplingConfig
) -> Iterator[list[IndexedAnswer]]:
    """Answers as they end, some at a time."""
    partial_answers: dict[tuple[int, int], _PartialAnswer] = {}
    batch: list[IndexedAnswer] = []
    for requests, sampled, stopped in token_steps:
        columns = (sampled.tokens, sampled.logprobs, sampled.model_logprobs, stopped)
        for request, token, logprob, model_logprob, stop in zip(
            requests, *(column.tolist() for column in columns), strict=True
        ):
            answer = partial_answers.setdefault((request.prompt, request.answer), _PartialAnswer([], [], []))
            answer.tokens.append(token)
            answer.logprobs.append(logprob)
            answer.model_logprobs.append(model_logprob)
            if stop or len(answer.tokens) == config.max_new_tokens:
                partial = partial_answers.pop((request.prompt, request.answer))
                ended = partial.finish("stop" if stop else "length")
                batch.append(IndexedAnswer(request.prompt, request.answer, ended))
        if len(batch) >= config.decode_batch_size * REPORT_SHARE:
            yield batch
            batch = []
    if batch:
        yield batch


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
                where="--decode-batch-size",
                action=f"try --batch-size {max(1, num_rows // 2)}; the answers stay the same",
            ) from error
        raise
