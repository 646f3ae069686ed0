"""The one way from text to tokens, shared by sampling, training and scoring.

A sequence is the prompt's tokens followed by the answer's: the prompt is tokenised alone, exactly as it is
for sampling, and the answer as it stands behind the prompt. A finished answer ends in the end token, once;
an answer that was cut off has none. Tokens that were sampled are never tokenised again.

Nothing here looks at the padding token: a tokenizer that pads with its end token loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from logratio.errors import BoundaryMismatch, ChatTemplateMismatch, SpecialTokenTrouble
from logratio.records import Completion, Message, Prompt

HEADERS = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
"""How turns are headed for a model without a chat template: the form of HH transcripts."""

PROBE = "logratio"
"""An answer that no chat template changes, to see what the template writes around it."""


class Tokenizer(Protocol):
    """The parts of a transformers tokenizer that are used here."""

    @property
    def eos_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def bos_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def unk_token(self) -> str | None: ...  # noqa: D102
    @property
    def chat_template(self) -> Any: ...  # noqa: D102
    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...  # noqa: D102
    def __call__(self, text: str, *, add_special_tokens: bool) -> Any: ...  # noqa: D102
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...  # noqa: D102
    def convert_ids_to_tokens(self, ids: int) -> Any: ...  # noqa: D102
    def decode(self, token_ids: Any, **options: Any) -> Any: ...  # noqa: D102
    def get_vocab(self) -> dict[str, int]: ...  # noqa: D102


# --- what a tokenizer and its template put around texts -----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands around prompts and answers, found once by trying the tokenizer and its template."""

    prefix: tuple[int, ...]
    """Tokens that the tokenizer puts before every text, such as the begin token."""
    control: tuple[str, ...]
    """Texts that are read as control tokens."""
    closing: str | None
    """What the template writes behind the last answer, such as `<|im_end|>` and a line break; `None`: there
    is no template, or it does not write answers."""
    turn_end: int | None
    """The first control token of `closing`."""


_frames: WeakKeyDictionary[Tokenizer, tuple[tuple[Any, ...], Frame]] = WeakKeyDictionary()


def frame_of(tokenizer: Tokenizer) -> Frame:
    """The tokenizer's frame, from memory unless its template or its end token was changed."""
    state = (tokenizer.chat_template, tokenizer.eos_token_id, tokenizer.bos_token_id)
    known = _frames.get(tokenizer)
    if known is None or known[0] != state:
        known = (state, _find_frame(tokenizer))
        _frames[tokenizer] = known
    return known[1]


def _find_frame(tokenizer: Tokenizer) -> Frame:
    control = {
        token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    closing = _find_closing(tokenizer) if has_chat_template(tokenizer) else None
    closing_ids = _plain_ids(tokenizer, closing or "")
    return Frame(
        prefix=_find_prefix(tokenizer),
        control=tuple(text for text in control.values() if text != tokenizer.unk_token),
        closing=closing,
        turn_end=next((token for token in closing_ids if token in control), None),
    )


def _find_closing(tokenizer: Tokenizer) -> str | None:
    turns = (Message(role="user", content="?"), Message(role="assistant", content=PROBE))
    try:
        _, found, closing = _apply_template(tokenizer, turns, answer_follows=False).rpartition(PROBE)
    except ChatTemplateMismatch:
        return None
    return closing if found else None


def _find_prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What stands before a text; what the tokenizer puts behind it (an end token) belongs to no prompt."""
    bare = _plain_ids(tokenizer, PROBE)
    dressed = tuple(tokenizer(PROBE, add_special_tokens=True)["input_ids"])
    starts = range(len(dressed) - len(bare) + 1)
    return next((dressed[:start] for start in starts if dressed[start : start + len(bare)] == bare), ())


def has_chat_template(tokenizer: Tokenizer) -> bool:
    """Whether prompts are rendered as turns of a conversation."""
    return bool(tokenizer.chat_template)


def stop_token_ids(tokenizer: Tokenizer, generation_config: Any = None) -> frozenset[int]:
    """Tokens that end an answer: the end tokens of the tokenizer, the template and the generation config."""
    configured = getattr(generation_config, "eos_token_id", None)
    configured = configured if isinstance(configured, list | tuple) else [configured]
    found = [tokenizer.eos_token_id, frame_of(tokenizer).turn_end, *configured]
    return frozenset(token for token in found if token is not None)


def end_token_id(tokenizer: Tokenizer) -> int:
    """The token that is put once behind a finished answer: the template's turn end, else the end token.

    Raises:
        SpecialTokenTrouble: there is neither.
    """
    turn_end = frame_of(tokenizer).turn_end
    token = tokenizer.eos_token_id if turn_end is None else turn_end
    if token is None:
        raise SpecialTokenTrouble(
            "the tokenizer has no end token, so that the model could never learn to stop",
            action="set eos_token in the model's tokenizer_config.json",
        )
    return token


# --- prompts ----------------------------------------------------------------------------------------


def render_prompt(tokenizer: Tokenizer, prompt: Prompt) -> str:
    r"""The text that the model answers.

    With a chat template: the turns and the header of the answer; a text is one user turn. Without: a text as
    it stands, and messages in the form of HH transcripts, `"\n\nHuman: …\n\nAssistant:"`, behind the system
    message, if any.

    Raises:
        ChatTemplateMismatch: the template refuses these turns.
    """
    if has_chat_template(tokenizer):
        return _apply_template(tokenizer, prompt.messages, answer_follows=True)
    return prompt.content if isinstance(prompt.content, str) else render_transcript(prompt.content)


def render_transcript(turns: Iterable[Message]) -> str:
    """Turns in the form of HH transcripts, up to and with the header of the answer."""
    return "".join(HEADERS.get(turn.role, "") + _spaced(turn) for turn in turns) + HEADERS["assistant"]


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt) -> tuple[int, ...]:
    """The prompt's tokens, with one begin token where the tokenizer or its template uses one.

    Raises:
        ChatTemplateMismatch: the template refuses these turns.
        SpecialTokenTrouble: no token at all, a doubled begin token, or a text for a chat template that holds
            control tokens itself (it was rendered before, or pretends to be another turn).
    """
    return _encode_rendered(tokenizer, prompt, render_prompt(tokenizer, prompt))


def _encode_rendered(tokenizer: Tokenizer, prompt: Prompt, rendered: str) -> tuple[int, ...]:
    if has_chat_template(tokenizer):
        _refuse_control_tokens(tokenizer, prompt.messages)
    ids = _rendered_ids(tokenizer, rendered)
    if not ids:
        raise SpecialTokenTrouble(
            "the prompt has no token, and the tokenizer has no begin token to start from",
            action="give a prompt that is not empty",
        )
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        raise SpecialTokenTrouble(
            f"the begin token {tokenizer.convert_ids_to_tokens(ids[0])!r} stands twice at the beginning",
            action="leave the begin token out of the prompt's text",
        )
    return ids


def _refuse_control_tokens(tokenizer: Tokenizer, turns: Iterable[Message]) -> None:
    control = frame_of(tokenizer).control
    for turn in turns:
        found = next((token for token in control if token in turn.content), None)
        if found is not None:
            raise SpecialTokenTrouble(
                f"the text of the {turn.role} turn holds the control token {found!r}",
                action="give the plain text or the messages: the chat template is applied here",
            )


def _apply_template(tokenizer: Tokenizer, turns: Iterable[Message], *, answer_follows: bool) -> str:
    try:
        rendered = tokenizer.apply_chat_template(
            [turn.to_json() for turn in turns], tokenize=False, add_generation_prompt=answer_follows
        )
    except Exception as error:  # a template is a program of the model's maker: it may raise anything
        raise ChatTemplateMismatch(
            f"the chat template refuses these turns: {error}",
            action="change the roles or their order to what the model's template takes",
        ) from error
    return str(rendered)


def _spaced(turn: Message) -> str:
    """A turn's text behind its header: one space between, unless the text begins with white space itself."""
    bare = turn.role == "system" or not turn.content or turn.content[0].isspace()
    return turn.content if bare else f" {turn.content}"


def _plain_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _rendered_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Tokens of a rendered text: a template has put its begin token there already, else it is put here."""
    ids = _plain_ids(tokenizer, text)
    prefix = () if has_chat_template(tokenizer) else frame_of(tokenizer).prefix
    return ids if ids[: len(prefix)] == prefix else prefix + ids


# --- answers ----------------------------------------------------------------------------------------


def encode_completion(tokenizer: Tokenizer, prompt: Prompt, completion: Completion) -> tuple[int, ...]:
    """The answer's tokens as they stand behind the prompt's, with the end token once if it is finished.

    Sampled tokens are returned as they are.

    Raises:
        ChatTemplateMismatch: the template's prompt is not the beginning of its prompt with answer.
        BoundaryMismatch: the last characters of the prompt and the first of the answer share a token.
        SpecialTokenTrouble: there is no end token, or it stands within the answer's text.
    """
    if completion.token_ids is not None:
        return completion.token_ids
    prompt_ids, joined = _joined_ids(tokenizer, prompt, completion)
    if joined[: len(prompt_ids)] != prompt_ids:
        raise BoundaryMismatch(
            f"the prompt's last characters and the answer's first make one token: "
            f"{render_prompt(tokenizer, prompt)[-12:]!r} + {completion.text[:12]!r}",
            action="move white space from the prompt's end to the answer's beginning, or take it out",
        )
    return _end_once(tokenizer, joined[len(prompt_ids) :], finished=completion.finish_reason == "stop")


def boundary_holds(tokenizer: Tokenizer, prompt: Prompt, completion: Completion) -> bool:
    """Whether the prompt's tokens are the beginning of the tokens of prompt and answer.

    Always true of sampled tokens, which were drawn behind exactly those of the prompt.

    Raises:
        ChatTemplateMismatch: as `encode_completion`.
    """
    if completion.token_ids is not None:
        return True
    prompt_ids, joined = _joined_ids(tokenizer, prompt, completion)
    return joined[: len(prompt_ids)] == prompt_ids


def _joined_ids(
    tokenizer: Tokenizer, prompt: Prompt, completion: Completion
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of the prompt alone, and of prompt and answer as one text."""
    rendered = render_prompt(tokenizer, prompt)
    answer = _answer_text(tokenizer, prompt, rendered, completion)
    return _encode_rendered(tokenizer, prompt, rendered), _rendered_ids(tokenizer, rendered + answer)


def _answer_text(tokenizer: Tokenizer, prompt: Prompt, rendered: str, completion: Completion) -> str:
    """What stands between the rendered prompt and the end token."""
    answer = Message(role="assistant", content=completion.text)
    if not has_chat_template(tokenizer):
        return completion.text if isinstance(prompt.content, str) else _spaced(answer)
    full = _apply_template(tokenizer, (*prompt.messages, answer), answer_follows=False)
    closing = frame_of(tokenizer).closing
    if closing is None or not (full.startswith(rendered) and full.endswith(closing)):
        raise ChatTemplateMismatch(
            "the chat template writes the prompt differently when an answer follows: "
            f"{_first_difference(rendered, full)}",
            action="use a chat template whose prompt with add_generation_prompt begins the conversation",
        )
    body = full[len(rendered) : len(full) - len(closing)]
    if completion.finish_reason == "length":
        return body
    # White space that a template writes before the end token is the model's to write when it is sampled.
    end = str(tokenizer.convert_ids_to_tokens(end_token_id(tokenizer)))
    before_end, found, _ = closing.partition(end)
    return body + before_end if found else body


def _first_difference(left: str, right: str) -> str:
    place = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
    return f"{left[place : place + 20]!r} against {right[place : place + 20]!r}"


def _end_once(tokenizer: Tokenizer, ids: tuple[int, ...], *, finished: bool) -> tuple[int, ...]:
    end = end_token_id(tokenizer)
    body = ids[:-1] if finished and ids[-1:] == (end,) else ids
    inside = stop_token_ids(tokenizer).intersection(body)
    if inside:
        raise SpecialTokenTrouble(
            f"the end token {tokenizer.convert_ids_to_tokens(min(inside))!r} stands within the answer",
            action="cut the answer's text there, or take the end token out of it",
        )
    return (*body, end) if finished else body


def decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The answer as a person reads it: cut before the first stop token, without control tokens."""
    stops = stop_token_ids(tokenizer)
    kept = list(takewhile(lambda token: token not in stops, token_ids))
    return str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def fingerprint(tokenizer: Tokenizer) -> str:
    """16 hexadecimal digits of vocabulary and chat template: equal where texts have equal tokens."""
    parts = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
