"""Requests that enter a batch as others leave it, one token of every row at a time.

A decoder whose parts are known is computed by `Grid`: an answer that has ended leaves at once, and the next
prompt takes the place of one whose answers have all ended. Any other model is computed by its own forward
pass with a cache that transformers keeps, for one batch of prompts after the other; without the cache where
it does not give what plain reading gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from logratio.batches import Precision
from logratio.models.decoder import Decoder
from logratio.models.precision import Copies
from logratio.models.turn_ends import Stop
from logratio.policies.drawing import Drawn, draw, uniforms
from logratio.policies.grid import Grid, PlaceSize
from logratio.policies.kv_cache import DecodingState
from logratio.policies.rereading import RereadRows, has_cache_to_trust
from logratio.policies.sampling_config import SamplingConfig

ADMIT_AT = 1 / 8
"""The share of places that are free before prompts are read into them: a few at a time are read faster."""
MOST_BYTES = 1 << 30
"""What keys and values may take: with longer prompts and answers fewer are decoded at a time."""
MOST_ROWS = 64
"""Answers at a time of a model whose cache is transformers' affair, and its size unknown."""
SHRINK_AT = 1 / 8
"""The share that is not needed at which a cache is made smaller: copying the rest costs about one token."""


class Request(NamedTuple):
    """An answer that is wanted."""

    prompt: int
    """The number of its prompt."""
    answer: int
    """Its number among the answers to that prompt."""
    seed: int
    """What its random numbers are a function of."""


class Drawing(NamedTuple):
    """One token each of the answers that are under way."""

    requests: list[Request]
    """Whose they are."""
    drawn: Drawn
    """The tokens."""
    stopped: Tensor
    """`[rows]` true where the token ends its answer."""


class Stops:
    """What ends an answer, held against the tokens drawn last.

    Args:
        stop_ids: tokens, and tuples of several.
    """

    def __init__(self, stop_ids: Iterable[Stop]) -> None:
        several = [(stop,) if isinstance(stop, int) else stop for stop in stop_ids]
        self._single = torch.tensor(sorted(stop[0] for stop in several if len(stop) == 1), dtype=torch.long)
        self._several = [torch.tensor(stop) for stop in several if len(stop) > 1]
        self._length = max((len(stop) for stop in several), default=1)

    def before_first(self, num_rows: int) -> Tensor:
        """`[rows, length]` where nothing has been drawn yet."""
        return torch.full((num_rows, self._length), -1)

    def reached(self, behind: Tensor) -> Tensor:
        """`[rows]` true where the tokens drawn last, `[rows, length]`, end an answer."""
        ended = torch.isin(behind[:, -1], self._single)
        for stop in self._several:
            ended |= (behind[:, -len(stop) :] == stop).all(dim=1)
        return ended


class Engine(Protocol):
    """What computes logits."""

    @property
    def logits(self) -> Tensor:
        """`[rows, V]` of each row's next token."""

    def room(self) -> int:
        """How many prompts can be admitted now."""

    def admit(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        """Read prompts; each has so many new rows, behind those that are there."""

    def drop(self, going: Tensor, *, last: bool) -> Tensor:
        """Leave out rows where `[rows]` is false, now or later; gives the numbers of those that stay.

        `last` says that no more prompts will come.
        """

    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row."""


def steps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    stop_ids: Iterable[Stop],
    pad_id: int,
    config: SamplingConfig,
) -> Iterator[Drawing]:
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
    waiting = deque(_runs([len(prompt) for prompt in prompts], seeds, config.batch_size))
    if not waiting:
        return
    engine = _engine(model, [(prompts[run[0].prompt], len(run)) for run in waiting], pad_id, config)
    stops = Stops(stop_ids)
    rows: list[Request] = []
    numbers = torch.empty(0, config.max_new_tokens, dtype=torch.float64)
    position = torch.empty(0, dtype=torch.long)
    ended = torch.empty(0, dtype=torch.bool)
    behind = stops.before_first(0)
    while waiting or rows:
        if room := min(engine.room(), len(waiting)):
            entering = [waiting.popleft() for _ in range(room)]
            engine.admit([prompts[run[0].prompt] for run in entering], [len(run) for run in entering])
            new = [request for run in entering for request in run]
            rows += new
            numbers = torch.cat((numbers, uniforms([one.seed for one in new], config.max_new_tokens)))
            position = torch.cat((position, position.new_zeros(len(new))))
            ended = torch.cat((ended, ended.new_zeros(len(new))))
            behind = torch.cat((behind, stops.before_first(len(new))))
        drawn = draw(
            engine.logits,
            numbers.gather(1, position[:, None])[:, 0],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        behind = torch.cat((behind, drawn.tokens[:, None]), dim=1)[:, 1:]
        stopped = stops.reached(behind)
        live = (~ended).nonzero()[:, 0]
        yield Drawing(
            [rows[row] for row in live.tolist()], Drawn(*(part[live] for part in drawn)), stopped[live]
        )
        ended |= stopped | (position + 1 == config.max_new_tokens)
        stay = engine.drop(~ended, last=not waiting)
        rows = [rows[row] for row in stay.tolist()]
        numbers, ended, behind = numbers[stay], ended[stay], behind[stay]
        position = (position[stay] + 1).clamp(max=config.max_new_tokens - 1)
        if rows:
            engine.step(drawn.tokens[stay])


def _runs(lengths: Sequence[int], seeds: Sequence[Sequence[int]], most: int) -> Iterator[list[Request]]:
    """Requests of one prompt, at most so many; the longest prompts first, so that memory fails early."""
    for prompt in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        wanted = [Request(prompt, answer, seed) for answer, seed in enumerate(seeds[prompt])]
        yield from (wanted[start : start + most] for start in range(0, len(wanted), most))


def _engine(
    model: Any, wanted: Sequence[tuple[Sequence[int], int]], pad_id: int, config: SamplingConfig
) -> Engine:
    """What computes this model, with room for as many of the `wanted` prompts as a batch has answers."""
    siblings = max(count for _, count in wanted)
    decoder = Decoder.of(model.base_model, Copies(config.precision))
    head = model.get_output_embeddings()
    if decoder is None or type(head) is not torch.nn.Linear or head.bias is not None:
        rows = min(config.batch_size, MOST_ROWS)
        places = min(max(1, rows // siblings), len(wanted))
        return OneBatch(*(model, config.precision), places=places, pad_id=pad_id, room=config.max_new_tokens)
    size = PlaceSize(
        siblings=siblings,
        prompt_room=max(len(prompt) for prompt, _ in wanted),
        room=config.max_new_tokens,
    )
    places = min(config.batch_size // siblings, MOST_BYTES // size.num_bytes(decoder), len(wanted))
    return GridEngine(Grid(decoder, head.weight, places=max(1, places), size=size))


class GridEngine:
    """Rows come and go.

    Args:
        grid: where they stand.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid, self.admit, self.step = grid, grid.admit, grid.step

    @property
    def logits(self) -> Tensor:
        """`[rows, V]` of each row's next token."""
        return self._grid.logits

    def room(self) -> int:
        """How many prompts can be admitted now: none until some are worth it."""
        free, places = len(self._grid.free_places), self._grid.num_places
        return free if free >= places * ADMIT_AT else 0

    def drop(self, going: Tensor, *, last: bool) -> Tensor:
        """Leave out rows that have ended, and places that nobody will need."""
        stay = going.nonzero()[:, 0]
        if len(stay) < len(going):
            self._grid.keep(stay)
            if last and len(self._grid.free_places) >= self._grid.num_places * SHRINK_AT:
                self._grid.shrink()
        return stay


class OneBatch:
    """Rows of one batch go on until all have ended; only then does the next come.

    Args:
        model: a causal language model of transformers.
        precision: of its products.
        places: prompts at a time.
        pad_id: any token; padding is never attended to.
        room: tokens of the longest answer.
    """

    def __init__(self, model: Any, precision: Precision, *, places: int, pad_id: int, room: int) -> None:
        self._model, self._precision = model, precision
        self._places, self._pad_id, self._room = places, pad_id, room
        self._state: DecodingState | RereadRows | None = None

    @property
    def logits(self) -> Tensor:
        """`[rows, V]` of each row's next token."""
        assert self._state is not None
        return self._state.logits

    def room(self) -> int:
        """A whole batch of prompts, or none."""
        return 0 if self._state is not None else self._places

    def admit(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        """Read prompts, padded to the longest where there is a cache to keep."""
        of = (self._model, self._precision, prompts, counts)
        if has_cache_to_trust(self._model):
            self._state = DecodingState(*of, pad_id=self._pad_id, room=self._room)
        else:
            self._state = RereadRows(*of)

    def drop(self, going: Tensor, *, last: bool) -> Tensor:
        """Leave out rows that have ended once they are many."""
        assert self._state is not None
        stay = going.nonzero()[:, 0]
        if not len(stay):
            self._state = None
        elif len(stay) <= len(going) * (1 - SHRINK_AT):
            self._state.keep(stay)
        else:
            stay = torch.arange(len(going))
        return stay

    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row."""
        assert self._state is not None
        self._state.step(tokens)
