"""The one way from text to tokens, shared by sampling, training and scoring.

A sequence is the prompt's tokens followed by the answer's: the prompt is tokenised alone, exactly as it is
for sampling, and the answer as it stands behind the prompt. A finished answer ends in the end token, once;
an answer that was cut off has none. Tokens that were sampled are never tokenised again.

Nothing here looks at the padding token: a tokenizer that pads with its end token loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from logratio.errors import BoundaryMismatch, ChatTemplateMismatch, SpecialTokenTrouble
from logratio.models.chat_template import (
    Tokenizer,
    apply_template,
    find_unrendered,
    has_chat_template,
    uses_chat_template,
)
from logratio.models.end_of_turn import (
    Stop,
    TokenIds,
    TurnEnd,
    encode_plain,
    end_token_ids,
    find_end,
    stop_token_ids,
    template_frame,
)
from logratio.records import Completion, Message, Prompt

__all__ = ["Stop", "Tokenizer", "end_token_ids", "find_end", "has_chat_template", "stop_token_ids"]

HEADERS = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
"""How turns are headed for a model without a chat template: the form of HH transcripts."""


# --- prompts ----------------------------------------------------------------------------------------


def render_prompt(tokenizer: Tokenizer, prompt: Prompt) -> str:
    r"""The text that the model answers.

    With a chat template: the turns and the header of the answer; a text is one user turn unless its format is
    `raw`. Otherwise: a text as it stands, and messages in the form of HH transcripts,
    `"\n\nHuman: …\n\nAssistant:"`, behind the system message, if any.

    Raises:
        ChatTemplateMismatch: the template refuses these turns, or the model has none and a tool has spoken.
    """
    if uses_chat_template(tokenizer, prompt):
        return apply_template(tokenizer, prompt.messages, prompt.tools, add_generation_prompt=True)
    if isinstance(prompt.content, str):
        return prompt.content
    if any(turn.role == "tool" for turn in prompt.content):
        raise ChatTemplateMismatch(
            "the model has no chat template, and transcripts have no form for what a tool says",
            action="take a model with a chat template that renders tools, or take the row out",
        )
    return render_transcript(prompt.content)


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
    templated = uses_chat_template(tokenizer, prompt)
    if templated:
        _refuse_control_tokens(tokenizer, prompt.messages)
    ids = _rendered_ids(tokenizer, rendered, templated=templated)
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
    control = template_frame(tokenizer).control
    for turn in turns:
        texts = list(_texts([turn.text, turn.known_fields]))
        found = next((token for token in control if any(token in text for text in texts)), None)
        if found is not None:
            raise SpecialTokenTrouble(
                f"the text of the {turn.role} turn holds the control token {found!r}",
                action="give the plain text or the messages: the chat template is applied here",
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def name_unrendered(tokenizer: Tokenizer, prompt: Prompt, answers: Sequence[Completion] = ()) -> list[str]:
    """What of a prompt and its answers the model does not read: names, each once.

    Answers whose tokens are known are read as those tokens.
    """
    if prompt.format == "raw" and isinstance(prompt.content, str):
        return []
    found = find_unrendered(tokenizer, prompt.messages, prompt.tools, add_generation_prompt=True)
    for answer in answers:
        if answer.token_ids is None and answer.message is not None:
            turns = (*prompt.messages, answer.message)
            found += find_unrendered(
                tokenizer, turns, prompt.tools, add_generation_prompt=False, only_last=True
            )
    return list(dict.fromkeys(found))


def _spaced(turn: Message) -> str:
    """A turn's text behind its header: one space between, unless the text begins with white space itself."""
    bare = turn.role in ("system", "developer") or not turn.text or turn.text[0].isspace()
    return turn.text if bare else f" {turn.text}"


def _rendered_ids(tokenizer: Tokenizer, text: str, *, templated: bool) -> TokenIds:
    """Tokens of a rendered text: a template has put its begin token there already, else it is put here."""
    ids = encode_plain(tokenizer, text)
    prefix = () if templated else template_frame(tokenizer).prefix
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
    prompt_ids, joined, end = _joined_ids(tokenizer, prompt, completion)
    if joined[: len(prompt_ids)] != prompt_ids:
        raise BoundaryMismatch(
            f"the prompt's last characters and the answer's first make one token: "
            f"{render_prompt(tokenizer, prompt)[-12:]!r} + {completion.text[:12]!r}",
            action="move white space from the prompt's end to the answer's beginning, or take it out",
        )
    return _end_once(tokenizer, joined[len(prompt_ids) :], end, finished=completion.finish_reason == "stop")


def boundary_holds(tokenizer: Tokenizer, prompt: Prompt, completion: Completion) -> bool:
    """Whether the prompt's tokens are the beginning of the tokens of prompt and answer.

    Always true of sampled tokens, which were drawn behind exactly those of the prompt.

    Raises:
        ChatTemplateMismatch: as `encode_completion`.
    """
    if completion.token_ids is not None:
        return True
    prompt_ids, joined, _ = _joined_ids(tokenizer, prompt, completion)
    return joined[: len(prompt_ids)] == prompt_ids


def _joined_ids(
    tokenizer: Tokenizer, prompt: Prompt, completion: Completion
) -> tuple[TokenIds, TokenIds, TokenIds]:
    """Tokens of the prompt alone, of prompt and answer as one text, and of the end behind them."""
    rendered = render_prompt(tokenizer, prompt)
    templated = uses_chat_template(tokenizer, prompt)
    if templated:
        answer, end = _answer_text(tokenizer, prompt, rendered, completion)
    else:
        answer = completion.text if isinstance(prompt.content, str) else _spaced(completion.turn)
        end = end_token_ids(tokenizer, templated=False)
    joined = _rendered_ids(tokenizer, rendered + answer, templated=templated)
    return _encode_rendered(tokenizer, prompt, rendered), joined, end


def _answer_text(
    tokenizer: Tokenizer, prompt: Prompt, rendered: str, completion: Completion
) -> tuple[str, TokenIds]:
    """What stands between the rendered prompt and the end, and the tokens of the end."""
    full = apply_template(
        tokenizer, (*prompt.messages, completion.turn), prompt.tools, add_generation_prompt=False
    )
    end = _turn_end_of(tokenizer, full)
    if end is None or not full.startswith(rendered):
        raise ChatTemplateMismatch(
            "the chat template writes the prompt differently when an answer follows: "
            f"{_first_difference(rendered, full)}",
            action="use a chat template whose prompt with add_generation_prompt begins the conversation",
        )
    body = full[len(rendered) : len(full) - len(end.closing)]
    if completion.finish_reason == "length":
        return body, ()
    # White space that a template writes before the end token is the model's to write when it is sampled.
    return (body + end.before, end.ids) if end.ids else (body, end_token_ids(tokenizer))


def _turn_end_of(tokenizer: Tokenizer, full: str) -> TurnEnd | None:
    """What ends this conversation: of the ends that the template writes, the longest that stands there."""
    turn_ends = sorted(template_frame(tokenizer).turn_ends, key=lambda end: -len(end.closing))
    return next((end for end in turn_ends if full.endswith(end.closing)), None)


def _first_difference(left: str, right: str) -> str:
    place = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
    return f"{left[place : place + 20]!r} against {right[place : place + 20]!r}"


def _end_once(tokenizer: Tokenizer, ids: TokenIds, end: TokenIds, *, finished: bool) -> TokenIds:
    doubled = finished and ids[-len(end) :] == end
    body = ids[: -len(end)] if doubled else ids
    inside = find_end(body, stop_token_ids(tokenizer))
    if inside is not None:
        found = "".join(str(tokenizer.convert_ids_to_tokens(one)) for one in body[slice(*inside)])
        raise SpecialTokenTrouble(
            f"the end token {found!r} stands within the answer",
            action="cut the answer's text there, or take the end token out of it",
        )
    return (*body, *end) if finished else body


def decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The answer as a person reads it: cut before the first end, without control tokens."""
    end = find_end(token_ids, stop_token_ids(tokenizer))
    kept = list(token_ids if end is None else token_ids[: end[0]])
    return str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """16 hexadecimal digits of vocabulary and chat template: equal where texts have equal tokens."""
    parts = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
