"""Decoding without a KV cache: every token is computed from its whole answer again.

It is for models whose cache does not do. Recurrent models keep other things than keys and values, under other
names, and padding may enter what they keep. They are told apart by their numbers, not by a list of names.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from logratio.generation.engines.kv_cache import DecodingState
from logratio.kernels.precision import Precision, autocast
from logratio.models.forward_errors import refuses_input
from logratio.progress import say

ROWS = 8
"""Rows at a time: more take memory, and no less time for each."""
PROBE_LENGTHS, PROBE_REPEATS = (9, 4), (2, 1)
"""Tokens of two prompts, one of them padded, and how many rows each has."""
LIMIT, HALF_LIMIT = 0.01, 0.5
"""Nats by which log-probabilities may differ, of weights in float32 or wider and of those in fewer bits."""
_trusted: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class UncachedRows:
    """Rows that are being answered, as `DecodingState` has them, with nothing remembered but their tokens.

    Args:
        model: a causal language model of transformers.
        precision: of its products.
        prompts: token ids of the prompts.
        repeats: how many rows each prompt gets.
    """

    def __init__(
        self, model: Any, precision: Precision, prompts: Sequence[Sequence[int]], repeats: Sequence[int]
    ) -> None:
        self._model, self._precision = model, precision
        self._device = next(model.parameters()).device
        parameters = inspect.signature(model.forward).parameters
        self._last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._rows = [
            list(prompt) for prompt, count in zip(prompts, repeats, strict=True) for _ in range(count)
        ]
        self.logits = self._read()
        """Logits of the next token: `[rows, vocabulary]`."""

    def step(self, tokens: Tensor) -> None:
        """Read one more token of every row: `[rows]`."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        self.logits = self._read()

    def select_rows(self, rows: Tensor) -> None:
        """Go on with `rows` alone."""
        self._rows = [self._rows[number] for number in rows.tolist()]

    def _read(self) -> Tensor:
        """Rows of one length are read together, since padding would be read as well."""
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(self._rows):
            by_length.setdefault(len(row), []).append(number)
        found: dict[int, Tensor] = {}
        for numbers in by_length.values():
            for start in range(0, len(numbers), ROWS):
                part = numbers[start : start + ROWS]
                found |= zip(part, self._last_logits([self._rows[number] for number in part]), strict=True)
        return torch.stack([found[number] for number in range(len(self._rows))])

    # Not inference mode: buffers that a model makes on the way could not be trained with afterwards.
    @torch.no_grad()
    def _last_logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor(rows, device=self._device)
        with autocast(self._precision, self._device):
            logits: Tensor = self._model(input_ids=ids, use_cache=False, **self._last_logits_only).logits
        return logits[:, -1]


def supports_kv_cache(model: Any) -> bool:
    """Whether a model decodes a padded batch with a cache as it reads plain rows; looked at once a model."""
    if model not in _trusted:
        reason = find_cache_mismatch(model)
        _trusted[model] = not reason
        if reason:
            say(
                f"this architecture cannot decode a padded batch with its cache ({reason}); each token is "
                "computed from its whole answer again, which is slower and as exact"
            )
    return _trusted[model]


def find_cache_mismatch(model: Any) -> str:
    """What is wrong with decoding rows of two prompts, of which one leaves; empty where nothing is."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompts = [[(7 * place + length) % vocabulary for place in range(length)] for length in PROBE_LENGTHS]
    plain = UncachedRows(model, "fp32", prompts, PROBE_REPEATS)
    worst = 0.0
    try:
        cached = DecodingState(model, "fp32", prompts, PROBE_REPEATS, pad_id=0, room=2)
        all_rows, without_one = torch.arange(3), torch.tensor([0, 2])
        for kept_rows in (all_rows, without_one, all_rows[:2]):
            worst = max(worst, _logprob_distance(plain.logits, cached.logits))
            for rows in (plain, cached):
                rows.select_rows(kept_rows)
                rows.step((kept_rows + 1) % vocabulary)
        worst = max(worst, _logprob_distance(plain.logits, cached.logits))
    except Exception as error:
        if not refuses_input(error):
            raise
        return f"{type(error).__name__}: {error}"
    low_precision = next(model.parameters()).dtype.itemsize < 4
    limit = HALF_LIMIT if low_precision else LIMIT
    return f"a log-probability is off by {worst:.3g} nats" if worst > limit else ""


def _logprob_distance(ours: Tensor, theirs: Tensor) -> float:
    """The farthest that two log-probabilities are apart, in nats; ∞ where one alone is no number."""
    ours, theirs = (logits.cpu().double().log_softmax(-1) for logits in (ours, theirs))
    # What has no weight, or no number, in either is alike: who draws from it says what is wrong.
    alike = (ours == theirs) | (ours.isnan() & theirs.isnan())
    difference = (ours - theirs).masked_fill(alike, 0.0)
    return float(difference.nan_to_num(nan=torch.inf).abs().max())
