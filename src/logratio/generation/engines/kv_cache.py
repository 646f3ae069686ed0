"""KV cache: what a model remembers of rows that are being decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from logratio.kernels.precision import Precision, autocast


class PreallocatedCacheLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types that mypy reads
    """Keys and values with room for the tokens to come.

    transformers' own layer copies everything it holds for every token that is added.

    Args:
        room: how many tokens to leave room for whenever memory is taken.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self._store: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add `[rows, heads, new, width]` keys and values; return all of them."""
        if not self.is_initialized:
            # A prompt's own pass is kept as it is: it is about to be repeated for the prompt's answers.
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        length, longer = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._store is None or self._store[0].shape[-2] < longer:
            self._store = self._with_reserve(self.keys), self._with_reserve(self.values)
        for store, new in zip(self._store, (key_states, value_states), strict=True):
            store[:, :, length:longer] = new
        self.keys, self.values = (store[:, :, :longer] for store in self._store)
        return self.keys, self.values

    def select_rows(self, rows: Tensor, *, drop: int) -> None:
        """Keep `rows` (one may be named many times) and forget the first `drop` tokens of all."""
        selected = tuple(states[:, :, drop:].index_select(0, rows) for states in (self.keys, self.values))
        self._store = None
        self.keys, self.values = selected

    def _with_reserve(self, states: Tensor) -> Tensor:
        rows, heads, length, width = states.shape
        store = states.new_empty(rows, heads, length + self.room, width)
        store[:, :, :length] = states
        return store


class DecodingState:
    """Rows that are being answered: a cache, and how long and how padded each row is.

    Prompts are padded on the left, positions are given explicitly and count from a row's first real token.

    Args:
        model: a causal language model of transformers.
        precision: of its products.
        prompts: token ids of the prompts, each read once.
        repeats: how many rows each prompt gets.
        pad_id: any token; padding is never attended to.
        room: how many tokens will follow at most.
    """

    def __init__(
        self,
        model: Any,
        precision: Precision,
        prompts: Sequence[Sequence[int]],
        repeats: Sequence[int],
        *,
        pad_id: int,
        room: int,
    ) -> None:
        self._model, self._precision = model, precision
        self._device = next(model.parameters()).device
        self._cache = _new_cache(model, room)
        longest = max(len(prompt) for prompt in prompts)
        ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self._padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=self._device)
        self._length = 0
        rows = torch.arange(len(prompts)).repeat_interleave(torch.tensor(repeats))
        self.logits = self._advance(torch.tensor(ids, device=self._device))[rows.to(self._device)]
        """Logits of the next token: `[rows, vocabulary]`."""
        if rows.tolist() != list(range(len(prompts))):
            self.select_rows(rows)

    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row: `[rows]`."""
        self.logits = self._advance(tokens.to(self._device)[:, None])

    def select_rows(self, rows: Tensor) -> None:
        """Go on with `rows` alone, and without the padding that none of them needs."""
        rows = rows.to(self._device)
        self._padding = self._padding[rows]
        layers = self._cache.layers
        if all(isinstance(layer, PreallocatedCacheLayer) for layer in layers):
            drop = int(self._padding.min())
            for layer in layers:
                layer.select_rows(rows, drop=drop)
            self._padding = self._padding - drop
            self._length -= drop
        else:
            self._cache.reorder_cache(rows)

    # Not inference mode: buffers that a model makes on the way could not be trained with afterwards.
    @torch.no_grad()
    def _advance(self, ids: Tensor) -> Tensor:
        positions = torch.arange(self._length, self._length + ids.shape[1], device=self._device)
        self._length += ids.shape[1]
        columns = torch.arange(self._length, device=self._device)
        with autocast(self._precision, self._device):
            output = self._model(
                input_ids=ids,
                attention_mask=(columns[None] >= self._padding[:, None]).long(),
                position_ids=(positions[None] - self._padding[:, None]).clamp(min=0),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1]


def _new_cache(model: Any, room: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [PreallocatedCacheLayer(room) for _ in cache.layers]
    return cache
