r"""Whole transcripts as in HH: `"\n\nHuman: …\n\nAssistant: …"`, several turns in one text.

The prompt is everything up to and with the last `"\n\nAssistant:"`. It is never found by the longest common
beginning of two transcripts: answers that begin alike would lose their first words to the prompt.

The prompt becomes messages, so that a chat template sees turns. A model without a template reads them back as
the text that they came from, character by character; the few prompts where that would fail, since no white
space follows a header, stay one text.
"""

from __future__ import annotations

import re

from logratio.errors import BadRoles, PromptNotShared
from logratio.models.tokenisation import HEADERS, render_transcript
from logratio.records import Message, Prompt, Role

HEADER = re.compile("({user}|{assistant})".format(**HEADERS))
ROLE_OF: dict[str, Role] = {HEADERS["user"]: "user", HEADERS["assistant"]: "assistant"}


def looks_like_transcript(text: str) -> bool:
    """Whether the text holds an answer's header."""
    return HEADERS["assistant"] in text


def looks_like_transcript_prompt(text: str) -> bool:
    """Whether the text ends with the header of an answer, and a human turn stands before."""
    return text.endswith(HEADERS["assistant"]) and HEADERS["user"] in text


def split_transcript(text: str, *, column: str, where: str) -> tuple[str, str]:
    """The prompt, up to and with the last answer's header, and the answer as it stands behind it.

    Raises:
        PromptNotShared: there is no answer's header.
        BadRoles: a human turn comes last, or nothing stands before the answer.
    """
    head, separator, answer = text.rpartition(HEADERS["assistant"])
    if not separator:
        raise PromptNotShared(
            f"{column} has no {HEADERS['assistant'].strip()!r} header, and the other answer has",
            where=where,
            action="give whole transcripts on both sides, or a prompt column",
        )
    if HEADERS["user"] in answer:
        raise BadRoles(
            f"{column} ends with a human turn",
            where=where,
            action="cut the transcript behind its last answer",
        )
    if not head.strip():
        raise BadRoles(f"nothing stands before the answer in {column}", where=where, action="add the prompt")
    return head + separator, answer


def parse_transcript_prompt(text: str) -> Prompt:
    """The prompt's turns where they render back to exactly `text`, else `text` itself."""
    preamble, *parts = HEADER.split(text.removesuffix(HEADERS["assistant"]))
    turns = [Message(role="system", content=preamble)] if preamble else []
    for header, content in zip(parts[::2], parts[1::2], strict=True):
        turns.append(Message(role=ROLE_OF[header], content=strip_space(content)))
    exact = len(turns) > bool(preamble) and render_transcript(turns) == text
    return Prompt(tuple(turns)) if exact else Prompt(text)


def strip_space(text: str) -> str:
    """A turn's text without the one space that divides it from its header; more white space is its own."""
    return text[1:] if re.match(r" \S", text) else text
