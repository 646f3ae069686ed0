"""Conversations as the model's chat template writes them, and what of them it leaves out.

Messages go to the template as transformers gives them to it: every field that was given, and the tools. A
template that reads no list of parts is given their text, and one that reads nothing else is given parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

from logratio.errors import ChatTemplateMismatch
from logratio.models.template_dates import fixed_dates
from logratio.records import TOOLS, Message, Prompt

PROBE = "logratio"
"""A text that no chat template changes, to see what the template does with it."""
REPRESENTED = ("'text'", '"text"')
"""What a template writes that prints a list of parts as a program would instead of reading it."""
LONG_ENOUGH = 8
"""Characters of a text that, found in what was rendered, is no accident."""

ContentForm = Literal["text", "parts", "both"]


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
    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...  # noqa: D102
    def convert_ids_to_tokens(self, ids: int) -> Any: ...  # noqa: D102
    def decode(self, token_ids: Any, **options: Any) -> Any: ...  # noqa: D102
    def get_vocab(self) -> dict[str, int]: ...  # noqa: D102


def has_chat_template(tokenizer: Tokenizer) -> bool:
    """Whether prompts are rendered as turns of a conversation."""
    return bool(tokenizer.chat_template)


def uses_chat_template(tokenizer: Tokenizer, prompt: Prompt) -> bool:
    """Whether this prompt is: a text that is to be continued as it stands is not."""
    raw = prompt.format == "raw" and isinstance(prompt.content, str)
    return has_chat_template(tokenizer) and not raw


def apply_template(
    tokenizer: Tokenizer, turns: Sequence[Message], tools: Sequence[Any] = (), *, add_generation_prompt: bool
) -> str:
    """What the template writes.

    Raises:
        ChatTemplateMismatch: it refuses these turns.
    """
    form = content_form(tokenizer)
    return _render(tokenizer, [_as_read(turn, form) for turn in turns], tools, add_generation_prompt)


def _render(
    tokenizer: Tokenizer,
    conversation: list[dict[str, Any]],
    tools: Sequence[Any],
    add_generation_prompt: bool,
) -> str:
    try:
        with fixed_dates(tokenizer.chat_template):
            rendered = tokenizer.apply_chat_template(
                conversation,
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
    except Exception as error:  # a template is a program of the model's maker: it may raise anything
        raise ChatTemplateMismatch(
            f"the chat template refuses these turns: {error}",
            action="change the roles or their order to what the model's template takes",
        ) from error
    return str(rendered)


# --- texts and lists of parts -----------------------------------------------------------------------

_forms: WeakKeyDictionary[Tokenizer, tuple[Any, ContentForm]] = WeakKeyDictionary()


def content_form(tokenizer: Tokenizer) -> ContentForm:
    """What the template reads as a message's content: a text, a list of parts, or both."""
    known = _forms.get(tokenizer)
    if known is None or known[0] != tokenizer.chat_template:
        known = (tokenizer.chat_template, _find_content_form(tokenizer))
        _forms[tokenizer] = known
    return known[1]


def _find_content_form(tokenizer: Tokenizer) -> ContentForm:
    if not _reads(tokenizer, [{"type": "text", "text": PROBE}]):
        return "text"
    return "both" if _reads(tokenizer, PROBE) else "parts"


def _reads(tokenizer: Tokenizer, content: Any) -> bool:
    try:
        rendered = _render(tokenizer, [{"role": "user", "content": content}], (), True)
    except ChatTemplateMismatch:
        return False
    return PROBE in rendered and not any(mark in rendered for mark in REPRESENTED)


def _as_read(turn: Message, form: ContentForm) -> dict[str, Any]:
    message = turn.to_json()
    if turn.content is None:
        del message["content"]
    elif isinstance(turn.content, str):
        message["content"] = [{"type": "text", "text": turn.content}] if form == "parts" else turn.content
    elif form == "text":
        message["content"] = turn.text
    return message


# --- what is not rendered ---------------------------------------------------------------------------


def find_unrendered(
    tokenizer: Tokenizer,
    turns: Sequence[Message],
    tools: Sequence[Any] = (),
    *,
    add_generation_prompt: bool,
    only_last: bool = False,
) -> list[str]:
    """Fields, contents and tools whose presence does not change what the model reads.

    A field is named where at least one turn has it in vain; without a chat template, every field.

    Args:
        tokenizer: with its template.
        turns: of the conversation.
        tools: that it may call.
        add_generation_prompt: whether the header of an answer is written behind them.
        only_last: look at the last turn alone.

    Returns:
        Names such as ``field `reasoning_content` ``, each once.
    """
    if not has_chat_template(tokenizer):
        return [*(f"field `{name}`" for name in _names(turns)), *([f"column `{TOOLS}`"] if tools else [])]
    first = len(turns) - 1 if only_last else 0
    try:
        rendered = apply_template(tokenizer, turns, tools, add_generation_prompt=add_generation_prompt)
    except ChatTemplateMismatch:
        return []

    def is_ignored(changed: Sequence[Message], changed_tools: Sequence[Any] = tools) -> bool:
        try:
            return (
                apply_template(tokenizer, changed, changed_tools, add_generation_prompt=add_generation_prompt)
                == rendered
            )
        except ChatTemplateMismatch:  # a template that misses what is taken out reads it
            return False

    unrendered = [
        f"field `{name}`"
        for name in _names(turns)
        if any(is_ignored(changed) for changed in _without(turns, name, rendered, first=first))
    ]
    for index, turn in enumerate(turns):
        content = turn.text.strip()
        if (
            index >= first
            and content not in rendered
            and is_ignored(_with(turns, index, content=PROBE + content))
        ):
            unrendered.append(f"content of role `{turn.role}`")
    if tools and not only_last and is_ignored(turns, ()):
        unrendered.append(f"column `{TOOLS}`")
    return list(dict.fromkeys(unrendered))


def _names(turns: Sequence[Message]) -> list[str]:
    return list(dict.fromkeys(name for turn in turns for name, value in turn.fields.items() if _says(value)))


def _says(value: Any) -> bool:
    """Whether a field has a value at all: an empty list of tool calls says nothing."""
    return value is not None and value not in ("", [], {})


def _without(turns: Sequence[Message], name: str, rendered: str, *, first: int) -> Iterator[list[Message]]:
    """The turns with this field taken out of one of those that have it, for each that may be in vain."""
    for index, turn in enumerate(turns):
        value = turn.fields.get(name)
        if index < first or not _says(value):
            continue
        if isinstance(value, str) and len(value) >= LONG_ENOUGH and value in rendered:
            continue
        rest = {other: of for other, of in turn.fields.items() if other != name}
        yield _with(turns, index, fields=rest)


def _with(turns: Sequence[Message], index: int, **changes: Any) -> list[Message]:
    return [replace(turn, **changes) if at == index else turn for at, turn in enumerate(turns)]
