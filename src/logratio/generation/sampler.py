"""Answers to prompts, with the tokens and log-probabilities they were drawn with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from logratio.errors import BadConfig, SpecialTokenTrouble
from logratio.generation.config import SamplingConfig
from logratio.generation.engines.selection import IndexedAnswer, SampledAnswer, sample_tokens
from logratio.models import tokenisation
from logratio.models.tokenisation import Stop
from logratio.progress import Progress
from logratio.records import Completion, Prompt, Sample

SEED_BITS = 53
"""Seeds stay below 2^53, so that every reader of JSON gets them back whole."""


class IndexedCompletion(NamedTuple):
    """An answer with the number of its prompt and its number among the prompt's answers."""

    prompt: int
    answer: int
    completion: Completion


class AnswerStore(Protocol):
    """Where answers are kept as they come, so that none is drawn twice."""

    @property
    def known(self) -> Mapping[tuple[int, int], Completion]:
        """Answers that are there already, by (prompt, answer)."""

    def add(self, placed: Sequence[IndexedCompletion]) -> None:
        """Keep the answers of a batch."""


def sample(
    policy_model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    num_samples: int,
    seed: int,
    config: SamplingConfig,
    progress: Progress | None = None,
    store: AnswerStore | None = None,
) -> list[Sample]:
    """Draw `num_samples` answers to each prompt.

    Answer j to a prompt depends on the model, the prompt, `seed` and j: not on batches, on the order of the
    prompts, or on which other prompts there are. The same prompt given twice gets the same answers.

    Args:
        policy_model: a causal language model of transformers.
        tokenizer: its tokenizer.
        prompts: what is answered.
        num_samples: answers to each prompt.
        seed: any whole number.
        config: how answers are drawn.
        progress: advanced by the number of answers after each batch.
        store: answers that are not drawn again, and what is told of each batch as soon as it is there.

    Raises:
        BadConfig: `num_samples` below 1, or what `sample_tokens` raises.
        SpecialTokenTrouble: the tokenizer has no token that ends an answer.
    """
    if num_samples < 1:
        raise BadConfig(f"num samples is {num_samples}", where="--num-samples", action="give 1 or more")
    completions = {} if store is None else dict(store.known)
    meter = _ThroughputMeter(progress)
    stop_ids = stop_tokens(policy_model, tokenizer)
    missing = _missing_answers(completions, num_prompts=len(prompts), num_samples=num_samples)
    seeds = [
        [answer_seed(seed, prompt, answer) for answer in own]
        for prompt, own in zip(prompts, missing, strict=True)
    ]

    def receive(batch: list[IndexedAnswer]) -> None:
        placed = _records(tokenizer, batch, missing, seeds)
        completions.update({(row, answer): completion for row, answer, completion in placed})
        if store is not None:
            store.add(placed)
        meter.count(batch)

    encoded = [tokenisation.encode_prompt(tokenizer, prompt) for prompt in prompts]
    sample_tokens(
        policy_model, encoded, seeds, stop_ids, padding_token(tokenizer, stop_ids), config, on_batch=receive
    )
    answers = [
        tuple(completions[row, answer] for answer in range(num_samples)) for row in range(len(prompts))
    ]
    return [
        Sample(prompt=prompt, completions=own, columns={})
        for prompt, own in zip(prompts, answers, strict=True)
    ]


def _missing_answers(
    completions: Mapping[tuple[int, int], Completion], *, num_prompts: int, num_samples: int
) -> list[list[int]]:
    """For each prompt the numbers of its answers that are not there yet."""
    return [
        [answer for answer in range(num_samples) if (row, answer) not in completions]
        for row in range(num_prompts)
    ]


def _records(
    tokenizer: Any,
    batch: Sequence[IndexedAnswer],
    missing: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
) -> list[IndexedCompletion]:
    """The answers of a batch by their numbers among all that are wanted, not among the missing ones."""
    return [
        IndexedCompletion(row, missing[row][index], to_completion(tokenizer, sampled, seed=seeds[row][index]))
        for row, index, sampled in batch
    ]


class _ThroughputMeter:
    """Tokens drawn so far, shown beside the progress if there is any."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self._tokens = 0

    def count(self, batch: Sequence[IndexedAnswer]) -> None:
        if self._progress is not None:
            self._tokens += sum(len(answered.sampled.token_ids) for answered in batch)
            rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
            self._progress.advance(len(batch), **{"tokens/s": round(rate)})


def answer_seed(seed: int, prompt: Prompt, answer: int) -> int:
    """The seed of an answer: a hash of the run's seed, the prompt and the answer's number."""
    digest = hashlib.sha256(f"{seed}:{prompt.key}:{answer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def stop_tokens(policy_model: Any, tokenizer: Any) -> frozenset[Stop]:
    """The tokens that end an answer of this model.

    Raises:
        SpecialTokenTrouble: there is none.
    """
    stop_ids = tokenisation.stop_token_ids(tokenizer, policy_model.generation_config)
    if not stop_ids:
        raise SpecialTokenTrouble(
            "the tokenizer has no end token, so that no answer could ever end",
            action="set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json",
        )
    return stop_ids


def padding_token(tokenizer: Any, stop_ids: frozenset[Stop]) -> int:
    """A token to pad with; it is masked, so that any will do."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return min(stop if isinstance(stop, int) else min(stop) for stop in stop_ids)


def to_completion(tokenizer: Any, sampled: SampledAnswer, *, seed: int) -> Completion:
    """The record of a decoded answer."""
    return Completion(
        text=tokenisation.decode(tokenizer, sampled.token_ids),
        token_ids=sampled.token_ids,
        logprobs=sampled.logprobs,
        model_logprobs=sampled.model_logprobs,
        finish_reason=sampled.finish_reason,
        seed=seed,
    )
