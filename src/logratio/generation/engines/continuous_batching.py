"""Requests that enter a batch as others leave it, one token of every row at a time.

A known decoder is computed by `SharedPromptCache`: an answer that has ended leaves at once, and the next
prompt takes the slot of one whose answers have all ended. Any other model is computed by its own forward
pass with a cache that transformers keeps, for one batch of prompts after the other; without the cache where
it does not give what plain reading gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from logratio.generation.config import SamplingConfig
from logratio.generation.engines.kv_cache import DecodingState
from logratio.generation.engines.shared_prompt_cache import SharedPromptCache, SlotSize
from logratio.generation.engines.uncached_decoding import UncachedRows, supports_kv_cache
from logratio.generation.token_sampling import SampledTokens, sample_from_logits, uniform_numbers
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.precision import ComputeWeights, Precision
from logratio.models.end_of_turn import Stop

ADMIT_SHARE = 1 / 8
"""The share of slots that are free before prompts are read into them: a few at a time are read faster."""
MAX_CACHE_BYTES = 1 << 30
"""What keys and values may take: with longer prompts and answers fewer are decoded at a time."""
MAX_STATIC_ROWS = 64
"""Answers at a time of a model whose cache is transformers' affair, and its size unknown."""
SHRINK_SHARE = 1 / 8
"""The share that is not needed at which a cache is made smaller: copying the rest costs about one token."""


class Request(NamedTuple):
    """An answer that is wanted."""

    prompt: int
    """The number of its prompt."""
    answer: int
    """Its number among the answers to that prompt."""
    seed: int
    """What its random numbers are a function of."""


class TokenStep(NamedTuple):
    """One token each of the answers that are under way."""

    requests: list[Request]
    """The request of each row."""
    sampled: SampledTokens
    """The tokens."""
    stopped: Tensor
    """`[rows]` true where the token ends its answer."""


class StopMatcher:
    """What ends an answer, held against the tokens drawn last.

    Args:
        stop_ids: tokens, and tuples of several.
    """

    def __init__(self, stop_ids: Iterable[Stop]) -> None:
        several = [(stop,) if isinstance(stop, int) else stop for stop in stop_ids]
        self._single = torch.tensor(sorted(stop[0] for stop in several if len(stop) == 1), dtype=torch.long)
        self._several = [torch.tensor(stop) for stop in several if len(stop) > 1]
        self._length = max((len(stop) for stop in several), default=1)

    def initial(self, num_rows: int) -> Tensor:
        """`[rows, length]` where nothing has been drawn yet."""
        return torch.full((num_rows, self._length), -1)

    def matches(self, recent: Tensor) -> Tensor:
        """`[rows]` true where the tokens drawn last, `[rows, length]`, end an answer."""
        ended = torch.isin(recent[:, -1], self._single)
        for stop in self._several:
            ended |= (recent[:, -len(stop) :] == stop).all(dim=1)
        return ended


class ActiveRows:
    """The answers under way, one a row, in the order of the engine's rows.

    Args:
        stops: what ends an answer.
        max_new_tokens: tokens after which an answer is cut off.
    """

    def __init__(self, stops: StopMatcher, max_new_tokens: int) -> None:
        self._stops, self._max_new_tokens = stops, max_new_tokens
        self.requests: list[Request] = []
        """What each row answers."""
        self.ended = torch.empty(0, dtype=torch.bool)
        """`[rows]` true where the answer has ended and its row is still computed."""
        self._uniform = torch.empty(0, max_new_tokens, dtype=torch.float64)
        self._position = torch.empty(0, dtype=torch.long)
        self._recent = stops.initial(0)

    def add(self, requests: Sequence[Request]) -> None:
        """New rows behind those that are there."""
        num = len(requests)
        self.requests += requests
        numbers = uniform_numbers([request.seed for request in requests], self._max_new_tokens)
        self._uniform = torch.cat((self._uniform, numbers))
        self._position = torch.cat((self._position, self._position.new_zeros(num)))
        self.ended = torch.cat((self.ended, self.ended.new_zeros(num)))
        self._recent = torch.cat((self._recent, self._stops.initial(num)))

    def uniform_numbers(self) -> Tensor:
        """`[rows]` in [0, 1), what each row's next token is drawn with."""
        return self._uniform.gather(1, self._position[:, None])[:, 0]

    def record(self, sampled: SampledTokens) -> TokenStep:
        """Note which answers end with the tokens drawn; gives those of answers that had not ended before."""
        self._recent = torch.cat((self._recent, sampled.tokens[:, None]), dim=1)[:, 1:]
        stopped = self._stops.matches(self._recent)
        live = (~self.ended).nonzero()[:, 0]
        self.ended |= stopped | (self._position + 1 == self._max_new_tokens)
        return TokenStep(
            [self.requests[row] for row in live.tolist()],
            SampledTokens(*(part[live] for part in sampled)),
            stopped[live],
        )

    def select(self, rows: Tensor) -> None:
        """Keep the rows of these numbers, and go on to their next tokens."""
        self.requests = [self.requests[row] for row in rows.tolist()]
        self._uniform, self.ended = self._uniform[rows], self.ended[rows]
        self._recent = self._recent[rows]
        self._position = (self._position[rows] + 1).clamp(max=self._max_new_tokens - 1)


class Engine(Protocol):
    """What computes logits."""

    @property
    def logits(self) -> Tensor:
        """`[rows, V]` of each row's next token."""

    def room(self) -> int:
        """How many prompts can be admitted now."""

    def admit(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        """Read prompts; each has so many new rows, behind those that are there."""

    def drop_finished(self, active: Tensor, *, last: bool) -> Tensor:
        """Leave out rows where `[rows]` is false, now or later; gives the numbers of those that stay.

        `last` says that no more prompts will come.
        """

    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row."""


def generate_steps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    stop_ids: Iterable[Stop],
    pad_id: int,
    config: SamplingConfig,
) -> Iterator[TokenStep]:
    """Draw one token of every answer under way after another, until all that are wanted have ended.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        prompts: token ids.
        seeds: one for every answer wanted, prompt by prompt.
        stop_ids: tokens that end an answer, and tuples of several that do in a row.
        pad_id: any token.
        config: how to draw.

    Raises:
        FloatingPointError: logits that are not finite.
    """
    waiting = deque(_requests_by_prompt([len(prompt) for prompt in prompts], seeds, config.decode_batch_size))
    if not waiting:
        return
    engine = _engine(
        model, [(prompts[requests[0].prompt], len(requests)) for requests in waiting], pad_id, config
    )
    rows = ActiveRows(StopMatcher(stop_ids), config.max_new_tokens)
    while waiting or rows.requests:
        if room := min(engine.room(), len(waiting)):
            entering = [waiting.popleft() for _ in range(room)]
            engine.admit(
                [prompts[requests[0].prompt] for requests in entering],
                [len(requests) for requests in entering],
            )
            rows.add([request for requests in entering for request in requests])
        sampled = sample_from_logits(
            engine.logits,
            rows.uniform_numbers(),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        yield rows.record(sampled)
        kept_rows = engine.drop_finished(~rows.ended, last=not waiting)
        rows.select(kept_rows)
        if rows.requests:
            engine.step(sampled.tokens[kept_rows])


def _requests_by_prompt(
    lengths: Sequence[int], seeds: Sequence[Sequence[int]], max_count: int
) -> Iterator[list[Request]]:
    """Requests of one prompt, at most so many; the longest prompts first, so that memory fails early."""
    for prompt in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        wanted = [Request(prompt, answer, seed) for answer, seed in enumerate(seeds[prompt])]
        yield from (wanted[start : start + max_count] for start in range(0, len(wanted), max_count))


def _engine(
    model: Any, wanted: Sequence[tuple[Sequence[int], int]], pad_id: int, config: SamplingConfig
) -> Engine:
    """What computes this model, with room for as many of the `wanted` prompts as a batch has answers."""
    group_size = max(count for _, count in wanted)
    decoder = Decoder.of(model.base_model, ComputeWeights(config.precision))
    head = model.get_output_embeddings()
    if decoder is None or type(head) is not torch.nn.Linear or head.bias is not None:
        rows = min(config.decode_batch_size, MAX_STATIC_ROWS)
        slots = min(max(1, rows // group_size), len(wanted))
        return StaticBatchEngine(
            *(model, config.precision), slots=slots, pad_id=pad_id, room=config.max_new_tokens
        )
    size = SlotSize(
        group_size=group_size,
        max_prompt_tokens=max(len(prompt) for prompt, _ in wanted),
        room=config.max_new_tokens,
    )
    slots = min(
        config.decode_batch_size // group_size, MAX_CACHE_BYTES // size.num_bytes(decoder), len(wanted)
    )
    return ContinuousBatchEngine(SharedPromptCache(decoder, head.weight, slots=max(1, slots), size=size))


class ContinuousBatchEngine:
    """Rows come and go.

    Args:
        grid: where they stand.
    """

    def __init__(self, grid: SharedPromptCache) -> None:
        self._grid, self.admit, self.step = grid, grid.admit, grid.step

    @property
    def logits(self) -> Tensor:
        """`[rows, V]` of each row's next token."""
        return self._grid.logits

    def room(self) -> int:
        """How many prompts can be admitted now: none until some are worth it."""
        free, slots = len(self._grid.free_slots), self._grid.num_slots
        return free if free >= slots * ADMIT_SHARE else 0

    def drop_finished(self, active: Tensor, *, last: bool) -> Tensor:
        """Leave out rows that have ended, and slots that nobody will need."""
        kept_rows = active.nonzero()[:, 0]
        if len(kept_rows) < len(active):
            self._grid.select_rows(kept_rows)
            if last and len(self._grid.free_slots) >= self._grid.num_slots * SHRINK_SHARE:
                self._grid.shrink()
        return kept_rows


class StaticBatchEngine:
    """Rows of one batch go on until all have ended; only then does the next come.

    Args:
        model: a causal language model of transformers.
        precision: of its products.
        slots: prompts at a time.
        pad_id: any token; padding is never attended to.
        room: tokens of the longest answer.
    """

    def __init__(self, model: Any, precision: Precision, *, slots: int, pad_id: int, room: int) -> None:
        self._model, self._precision = model, precision
        self._slots, self._pad_id, self._room = slots, pad_id, room
        self._state: DecodingState | UncachedRows | None = None

    @property
    def logits(self) -> Tensor:
        """`[rows, V]` of each row's next token."""
        assert self._state is not None
        return self._state.logits

    def room(self) -> int:
        """A whole batch of prompts, or none."""
        return 0 if self._state is not None else self._slots

    def admit(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        """Read prompts, padded to the longest where there is a cache to keep."""
        of = (self._model, self._precision, prompts, counts)
        if supports_kv_cache(self._model):
            self._state = DecodingState(*of, pad_id=self._pad_id, room=self._room)
        else:
            self._state = UncachedRows(*of)

    def drop_finished(self, active: Tensor, *, last: bool) -> Tensor:
        """Leave out rows that have ended once they are many."""
        assert self._state is not None
        kept_rows = active.nonzero()[:, 0]
        if not len(kept_rows):
            self._state = None
        elif len(kept_rows) <= len(active) * (1 - SHRINK_SHARE):
            self._state.select_rows(kept_rows)
        else:
            kept_rows = torch.arange(len(active))
        return kept_rows

    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row."""
        assert self._state is not None
        self._state.step(tokens)
