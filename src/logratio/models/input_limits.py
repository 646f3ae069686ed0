"""What a model can read, as its configuration says before any weight is loaded: tokens, and lengths of rows.

`loading.read_limits` finds them. A token without an embedding row and a row behind the last position have
no numbers: they are found while data is checked, by line, and not by an index out of range in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from logratio.errors import BadConfig, ChatTemplateMismatch, PromptTooLong, TokenWithoutEmbedding
from logratio.models.tokenisation import Tokenizer, encode_prompt, end_token_ids, has_chat_template
from logratio.records import Prompt

WIDEN = (
    "take the tokenizer that belongs to the weights, or widen the model in transformers "
    "(model.resize_token_embeddings(len(tokenizer))), save it, and train its new rows"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """The tokens and the lengths of rows for which a model has numbers."""

    embedding_rows: int | None = None
    """Tokens below it have an embedding; `None`: not known."""
    positions: int | None = None
    """Tokens of a row that the model is made for; `None`: there is no such number."""
    positions_hard_limit: bool = False
    """Whether a longer row has no numbers of its own, rather than numbers that nobody trained."""
    positions_reason: str = "its configuration gives it so many"
    """What limits the positions, for messages."""

    def __and__(self, other: ModelLimits) -> ModelLimits:
        """What both of two models can read."""
        rows = [one.embedding_rows for one in (self, other) if one.embedding_rows is not None]
        limited = [one for one in (self, other) if one.positions is not None]
        shorter = min(limited, key=lambda one: one.positions or 0, default=self)
        return ModelLimits(
            embedding_rows=min(rows, default=None),
            positions=shorter.positions,
            positions_hard_limit=shorter.positions_hard_limit,
            positions_reason=shorter.positions_reason,
        )

    def truncated_to(self, max_length: int) -> tuple[int, str]:
        """Tokens of the longest row that is computed where `max_length` is wanted, and what limits it."""
        if self.positions is None or not self.positions_hard_limit or self.positions >= max_length:
            return max_length, f"max_length {max_length}"
        return self.positions, f"the model's limit of {self.positions} positions ({self.positions_reason})"

    def ensure_embedded(self, tokenizer: Tokenizer, ids: Iterable[int]) -> None:
        """Raise `TokenWithoutEmbedding` where one of the tokens has no row in the model's embeddings."""
        if self.embedding_rows is None:
            return
        # A set: the same few tokens stand without a row wherever they are used.
        strange = sorted(token for token in set(ids) if not 0 <= token < self.embedding_rows)
        if strange:
            raise TokenWithoutEmbedding(
                f"{_named(tokenizer, strange)} no row in the model's embeddings, which are "
                f"{self.embedding_rows}",
                action=f"take the row out, or: {WIDEN}",
            )

    def ensure_room(self, num_tokens: int, *, answer: int = 0) -> None:
        """Raise `PromptTooLong` where a prompt with its answer does not fit the model's positions.

        Args:
            num_tokens: of the prompt, or of the whole row.
            answer: tokens that may be drawn behind them.
        """
        if self.positions is not None and num_tokens + answer > self.positions:
            what = (
                f"{num_tokens} tokens of prompt and {answer} of answer" if answer else f"{num_tokens} tokens"
            )
            raise PromptTooLong(
                f"{what}, and the model has {self.positions} positions ({self.positions_reason})",
                action="shorten the prompt" + (", or ask for less (--max-new-tokens)" if answer else ""),
            )

    def ensure_computable(self, tokenizer: Tokenizer, ids: Sequence[int]) -> None:
        """Raise where a row has no numbers of its own; where nobody trained them they are computed.

        Raises:
            TokenWithoutEmbedding: it has a token that the model does not know.
            PromptTooLong: it goes on behind positions that end.
        """
        self.ensure_embedded(tokenizer, ids)
        if self.positions_hard_limit:
            self.ensure_room(len(ids))

    def ensure_prompt(self, tokenizer: Tokenizer, ids: Sequence[int], *, answer: int) -> None:
        """Raise where a prompt cannot be answered with so many tokens.

        Raises:
            TokenWithoutEmbedding: it has a token that the model does not know.
            PromptTooLong: prompt and answer do not fit the model's positions.
        """
        self.ensure_embedded(tokenizer, ids)
        self.ensure_room(len(ids), answer=answer)


def ensure_tokenizer_fits(tokenizer: Any, limits: ModelLimits, *, source: str) -> None:
    """Raise where no text at all could be read: the tokenizer is another model's, or its frame has no rows.

    Tokens that were added without widening the model, and that nothing writes by itself, are left to the rows
    that use them.

    Raises:
        BadConfig: the vocabulary is larger than the embeddings.
        TokenWithoutEmbedding: the chat template, or what stands around every text, writes such a token.
    """
    rows = limits.embedding_rows
    if rows is None:
        return
    if max(tokenizer.vocab_size, (tokenizer.eos_token_id or 0) + 1) > rows:
        raise BadConfig(
            f"the tokenizer has {len(tokenizer)} tokens and the model has embeddings for {rows}",
            where=source,
            action="the tokenizer belongs to another model: put the right one beside the weights",
        )
    strange = sorted({token for token in _frame_tokens(tokenizer) if token >= rows})
    if strange:
        writer = "the chat template writes" if has_chat_template(tokenizer) else "the tokenizer writes"
        raise TokenWithoutEmbedding(
            f"{writer} {_names(tokenizer, strange)} into every row, for which the model has no row of its "
            f"{rows} embeddings",
            where=source,
            action=WIDEN,
        )


def _frame_tokens(tokenizer: Tokenizer) -> set[int]:
    """What stands around every text: a prompt of one character, and the token that ends answers."""
    found = set() if tokenizer.eos_token_id is None else set(end_token_ids(tokenizer))
    try:
        found.update(encode_prompt(tokenizer, Prompt("?")))
    except ChatTemplateMismatch:
        # A template that refuses this prompt says nothing of others: their own rows tell.
        return found
    return found


def _named(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    return f"{_names(tokenizer, tokens)} {'has' if len(tokens) == 1 else 'have'}"


def _names(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """`the token '<|im_start|>' (290)`; of many the first few."""
    shown = ", ".join(f"{tokenizer.convert_ids_to_tokens(token)!r} ({token})" for token in tokens[:3])
    if len(tokens) == 1:
        return f"the token {shown}"
    more = f" and {len(tokens) - 3} more" if len(tokens) > 3 else ""
    return f"the tokens {shown}{more}"
