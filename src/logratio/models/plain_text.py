"""Answers whose text holds a tokenizer's control tokens, as the plain text that they are to their writer.

A policy may write `</s>` as an HTML tag, or as what its own tokenizer takes for a text like another. To a
judge with another tokenizer that would be the end of the answer. Here the tokens that a chat template writes
are control tokens, and those within the answer's text are spelled out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from logratio.errors import SpecialTokenTrouble
from logratio.models.end_of_turn import template_frame
from logratio.records import Completion, Message

OPENED, CLOSED, FIRST = "\U000ff000", "\U000ff001", 0xFF002
"""Private characters that stand for a control token of an answer's text while a template is applied."""

_known: WeakKeyDictionary[Any, EscapingTokenizer] = WeakKeyDictionary()


class EscapingTokenizer:
    """A tokenizer that spells out the control tokens of marked texts; in all else it is its own tokenizer.

    A text is divided at the control tokens that stand in it, as the tokenizer itself divides it, and each
    piece between them is encoded by itself.

    Args:
        tokenizer: a tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        known = {*template_frame(tokenizer).control}
        control = {
            added.content: (token, added)
            for token, added in tokenizer.added_tokens_decoder.items()
            if added.content in known
        }
        self._ids = {text: token for text, (token, _) in control.items()}
        longest_first = sorted(control, key=len, reverse=True)
        self._marks = {text: f"{OPENED}{chr(FIRST + n)}{CLOSED}" for n, text in enumerate(longest_first)}
        # White space that a token takes with it belongs to the token.
        forms = [_form(added) for _, added in (control[text] for text in longest_first)]
        self._divide = re.compile(f"({'|'.join(forms)})") if forms else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def mark(self, text: str) -> str:
        """The text with a mark in the place of each control token."""
        for token, mark in self._marks.items():
            text = text.replace(token, mark)
        return text

    def ends_once(self, text: str) -> bool:
        """Whether a control token ends the text, and there is no other in it."""
        bodies = [text.removesuffix(token) for token in self._marks if text.endswith(token)]
        return any(self.mark(body) == body for body in bodies)

    def __call__(self, text: str, **settings: Any) -> Mapping[str, Any]:
        """`{"input_ids": …}` of a text.

        Raises:
            SpecialTokenTrouble: the tokenizer has no other way to write a control token.
        """
        if self._divide is None or settings.get("add_special_tokens", True):
            return self._tokenizer(text, **settings)
        ids: list[int] = []
        for number, piece in enumerate(self._divide.split(text)):
            if number % 2:
                ids.append(self._ids[next(token for token in self._marks if token in piece)])
            elif piece:
                ids += self._spelled(piece)
        return {"input_ids": ids}

    def _spelled(self, piece: str) -> list[int]:
        for token, mark in self._marks.items():
            piece = piece.replace(mark, token)
        ids = self._tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        found = next((text for text, token in self._ids.items() if token in ids), None)
        if found is not None:
            raise SpecialTokenTrouble(
                f"the answer's text holds {found!r}, and this tokenizer has no other way to write it",
                action="take it out of the text, or leave the answer out",
            )
        return list(ids)


def _form(added: Any) -> str:
    before, after = (r"\s*" if strips else "" for strips in (added.lstrip, added.rstrip))
    return before + re.escape(added.content) + after


def escape_control_tokens(
    tokenizer: Any, completion: Completion, *, sampled: bool = False
) -> tuple[Any, Completion]:
    """What to encode an answer with, and as what, so that control tokens in its text are plain text.

    Both are as they came where the text holds none, or where the answer's tokens are known. Where the text is
    not that of `sampled` tokens, a single control token at its end is what somebody ended it with, and stays.
    """
    if completion.token_ids is not None:
        return tokenizer, completion
    plain = _known.get(tokenizer)
    if plain is None:
        plain = _known.setdefault(tokenizer, EscapingTokenizer(tokenizer))
    marked = replace(
        completion,
        text=plain.mark(completion.text),
        message=None if completion.message is None else _marked_turn(plain, completion.message),
    )
    ends_once = not sampled and completion.message is None and plain.ends_once(completion.text)
    return (tokenizer, completion) if ends_once or marked == completion else (plain, marked)


def _marked_turn(plain: EscapingTokenizer, turn: Message) -> Message:
    said = turn.to_json()
    return Message.from_json(
        {name: said[name] if name == "role" else _marked(plain, said[name]) for name in said}
    )


def _marked(plain: EscapingTokenizer, value: Any) -> Any:
    """A value of JSON with every text in it marked."""
    if isinstance(value, str):
        return plain.mark(value)
    if isinstance(value, list):
        return [_marked(plain, part) for part in value]
    return {name: _marked(plain, part) for name, part in value.items()} if isinstance(value, dict) else value
