"""What a tokenizer and its template put around texts, and the tokens that end an answer.

The end of a turn is what the template writes behind an answer: a control token as a rule, flagged special or
not, else the tokens of the text that it writes. Where it writes nothing, the tokenizer's end token ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from logratio.errors import ChatTemplateMismatch, SpecialTokenTrouble
from logratio.models.chat_template import PROBE, Tokenizer, apply_template, has_chat_template
from logratio.records import Message

TokenIds = tuple[int, ...]
Stop = int | TokenIds
"""A token that ends an answer, or several in a row that do."""

QUESTION = Message(role="user", content="?")
ANSWER = Message(role="assistant", content=PROBE)
CALL = Message(
    role="assistant",
    content="",
    fields={"tool_calls": [{"type": "function", "function": {"name": PROBE, "arguments": {}}}]},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd:
    """What the template writes behind an answer."""

    closing: str
    """All of it, such as `<|im_end|>` and a line break."""
    before: str = ""
    """What stands there before the end."""
    ids: TokenIds = ()
    """Tokens of the end; none where the template writes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFrame:
    """What stands around prompts and answers, found once by trying the tokenizer and its template."""

    prefix: TokenIds
    """Tokens that the tokenizer puts before every text, such as the begin token."""
    control: tuple[str, ...]
    """Texts that are read as control tokens: all special tokens, and others that the template divides turns
    with."""
    turn_ends: tuple[TurnEnd, ...]
    """What the template writes behind answers, the usual one first; none: there is no template, or it does
    not write answers."""


_frames: WeakKeyDictionary[Tokenizer, tuple[tuple[Any, ...], TemplateFrame]] = WeakKeyDictionary()
_configured: WeakKeyDictionary[Tokenizer, frozenset[int]] = WeakKeyDictionary()


def template_frame(tokenizer: Tokenizer) -> TemplateFrame:
    """The tokenizer's frame, from memory unless its template or its tokens were changed."""
    added = len(tokenizer.added_tokens_decoder)
    state = (tokenizer.chat_template, tokenizer.eos_token_id, tokenizer.bos_token_id, added)
    known = _frames.get(tokenizer)
    if known is None or known[0] != state:
        known = (state, _find_frame(tokenizer))
        _frames[tokenizer] = known
    return known[1]


def register_end_tokens(tokenizer: Tokenizer, ids: Iterable[int]) -> None:
    """Take note of the end tokens that stand in the model's generation config, beside this tokenizer."""
    _configured[tokenizer] = frozenset(ids)


def _find_frame(tokenizer: Tokenizer) -> TemplateFrame:
    added = tokenizer.added_tokens_decoder
    special = [one.content for one in added.values() if one.special]
    dividing = _dividing_tokens(tokenizer) if has_chat_template(tokenizer) else []
    control = dict.fromkeys(text for text in (*special, *dividing) if text != tokenizer.unk_token)
    return TemplateFrame(
        prefix=_find_prefix(tokenizer), control=tuple(control), turn_ends=tuple(_find_turn_ends(tokenizer))
    )


def _dividing_tokens(tokenizer: Tokenizer) -> list[str]:
    """Added tokens that the template writes around turns, though nobody flagged them special."""
    for turns in ((QUESTION, ANSWER, QUESTION), (QUESTION,)):
        try:
            ids = encode_plain(tokenizer, apply_template(tokenizer, turns, add_generation_prompt=False))
        except ChatTemplateMismatch:
            continue
        added = tokenizer.added_tokens_decoder
        return [added[one].content for one in ids if one in added and _is_mark(added[one].content)]
    return []


def _is_mark(text: str) -> bool:
    """Whether an added token is a mark such as `<|end|>`, and no word or white space of its own."""
    return bool(text.strip()) and not text.strip().isalnum()


def _find_prefix(tokenizer: Tokenizer) -> TokenIds:
    """What stands before a text; what the tokenizer puts behind it (an end token) belongs to no prompt."""
    bare = encode_plain(tokenizer, PROBE)
    dressed = tuple(tokenizer(PROBE, add_special_tokens=True)["input_ids"])
    starts = range(len(dressed) - len(bare) + 1)
    return next((dressed[:start] for start in starts if dressed[start : start + len(bare)] == bare), ())


# --- ends of turns ----------------------------------------------------------------------------------


def _find_turn_ends(tokenizer: Tokenizer) -> list[TurnEnd]:
    if not has_chat_template(tokenizer):
        return []
    try:
        whole = apply_template(tokenizer, (QUESTION, ANSWER), add_generation_prompt=False)
    except ChatTemplateMismatch:
        return []
    head, found, closing = whole.rpartition(PROBE)
    if not found:
        return []
    usual = _turn_end(tokenizer, head + found, closing)
    other = _end_of_call(tokenizer)
    return [usual] if other is None or other.ids == usual.ids else [usual, other]


def _turn_end(tokenizer: Tokenizer, head: str, closing: str) -> TurnEnd:
    added = tokenizer.added_tokens_decoder
    ids = encode_plain(tokenizer, closing)
    marks = [one for one in ids if one in added and (added[one].special or _is_mark(added[one].content))]
    if marks:
        before = closing.partition(added[marks[0]].content)[0]
        return TurnEnd(closing=closing, before=before, ids=(marks[0],))
    text = closing.strip()
    if not text:
        return TurnEnd(closing=closing)
    before = closing[: closing.index(text)]
    start = encode_plain(tokenizer, head + before)
    together = encode_plain(tokenizer, head + before + text)
    apart = together[: len(start)] == start
    written = together[len(start) :] if apart else encode_plain(tokenizer, text)
    return TurnEnd(closing=closing, before=before, ids=written)


def _end_of_call(tokenizer: Tokenizer) -> TurnEnd | None:
    """The special token behind a tool call, which some templates end otherwise than a text."""
    try:
        whole = apply_template(tokenizer, (QUESTION, CALL), add_generation_prompt=False)
    except ChatTemplateMismatch:
        return None
    added = tokenizer.added_tokens_decoder
    last = encode_plain(tokenizer, whole.rstrip())[-1:]
    if PROBE not in whole or not last or last[0] not in added or not added[last[0]].special:
        return None
    text = added[last[0]].content
    return TurnEnd(closing=text + whole.rpartition(text)[2], ids=last)


def encode_plain(tokenizer: Tokenizer, text: str) -> TokenIds:
    """Tokens of a text as it stands."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def stop_token_ids(tokenizer: Tokenizer, generation_config: Any = None) -> frozenset[Stop]:
    """What ends an answer: the end tokens of the tokenizer, the template and the generation config.

    A token is a number; an end of several tokens is a tuple of them.
    """
    configured = getattr(generation_config, "eos_token_id", None)
    configured = configured if isinstance(configured, list | tuple) else [configured]
    of_turns: list[Stop] = [
        end.ids[0] if len(end.ids) == 1 else end.ids for end in template_frame(tokenizer).turn_ends if end.ids
    ]
    found = [tokenizer.eos_token_id, *of_turns, *configured, *_configured.get(tokenizer, ())]
    return frozenset(stop for stop in found if stop is not None)


def end_token_ids(tokenizer: Tokenizer, *, templated: bool = True) -> TokenIds:
    """The tokens that are put once behind a finished answer: the template's turn end, else the end token.

    Raises:
        SpecialTokenTrouble: there is neither.
    """
    turn_ends = template_frame(tokenizer).turn_ends
    if templated and turn_ends and turn_ends[0].ids:
        return turn_ends[0].ids
    if tokenizer.eos_token_id is None:
        raise SpecialTokenTrouble(
            "the tokenizer has no end token, so that the model could never learn to stop",
            action="set eos_token in the model's tokenizer_config.json",
        )
    return (tokenizer.eos_token_id,)


def find_end(ids: Sequence[int], stops: Collection[Stop]) -> tuple[int, int] | None:
    """Where the first end in `ids` begins and where it is over; `None`: there is none."""
    return next(iter(find_ends(ids, stops)), None)


def find_ends(ids: Sequence[int], stops: Collection[Stop]) -> list[tuple[int, int]]:
    """Where each end in `ids` begins and where it is over; an end within another is part of it."""
    singles = {stop for stop in stops if isinstance(stop, int)}
    several = [stop for stop in stops if not isinstance(stop, int)]
    found, position = [], 0
    while position < len(ids):
        lengths = [len(stop) for stop in several if tuple(ids[position : position + len(stop)]) == stop]
        length = 1 if ids[position] in singles else min(lengths, default=0)
        if length:
            found.append((position, position + length))
        position += length or 1
    return found


def describe_end(tokenizer: Tokenizer) -> str:
    """What ends a finished answer in training, in a sentence."""
    ids = end_token_ids(tokenizer)
    tokens = " ".join(str(tokenizer.convert_ids_to_tokens(one)) for one in ids)
    turn_ends = template_frame(tokenizer).turn_ends
    if not has_chat_template(tokenizer):
        return f"finished answers end in the tokenizer's end token {tokens}"
    if turn_ends and turn_ends[0].ids:
        several = f", {len(ids)} tokens, all of which are trained on" if len(ids) > 1 else ""
        return f"finished answers end as the chat template ends them: {tokens}{several}"
    return f"the chat template writes no end behind an answer: the tokenizer's end token {tokens} is used"
