"""Transcripts: the last header ends the prompt, and turns read back to exactly the text they came from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.data.transcripts import (
    looks_like_transcript_prompt,
    parse_transcript_prompt,
    split_transcript,
    strip_space,
)
from logratio.models.tokenisation import render_prompt
from logratio.records import Completion, Message, Prompt

PIECES = ["\n\nHuman:", "\n\nAssistant:", " ", "\n", "why", "Human:", "a\n\nb", "  x", "System text"]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
def test_every_prompt_reads_back_to_its_text(plain_tokenizer, pieces):
    text = "".join(pieces) + "\n\nAssistant:"
    assert render_prompt(plain_tokenizer, parse_transcript_prompt(text)) == text


def test_turns_and_a_system_text_are_told_apart():
    prompt = parse_transcript_prompt("Be kind.\n\nHuman: a \n\nAssistant:  b\n\nHuman: c\nd\n\nAssistant:")
    assert prompt.content == (
        Message(role="system", content="Be kind."),
        Message(role="user", content="a "),
        Message(role="assistant", content="  b"),
        Message(role="user", content="c\nd"),
    )


@pytest.mark.parametrize("text", ["\n\nHuman:no space\n\nAssistant:", "Human: old\n\nAssistant:"])
def test_what_would_not_read_back_stays_one_text(text):
    assert parse_transcript_prompt(text) == Prompt(text)


def test_the_last_header_ends_the_prompt():
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\n\ne"
    prompt, answer = split_transcript(text, column="chosen", where="")
    assert prompt.endswith("Human: c\n\nAssistant:")
    assert answer == " d\n\ne"
    assert prompt + answer == text


def test_a_transcript_trains_on_exactly_its_own_text(plain_tokenizer):
    from logratio.models.tokenisation import encode_completion, encode_prompt

    text = "\n\nHuman: the cat?\n\nAssistant: sat on the mat."
    head, answer = split_transcript(text, column="chosen", where="")
    prompt = parse_transcript_prompt(head)
    ids = encode_prompt(plain_tokenizer, prompt) + encode_completion(
        plain_tokenizer, prompt, Completion(text=strip_space(answer))
    )
    assert plain_tokenizer.decode(ids, skip_special_tokens=True) == text


def test_one_space_behind_a_header_is_no_part_of_the_turn():
    assert [strip_space(text) for text in (" a", "  a", "a", "\na", " ", "")] == [
        "a",
        "  a",
        "a",
        "\na",
        " ",
        "",
    ]


def test_a_question_about_transcripts_is_no_transcript():
    assert not looks_like_transcript_prompt("What does \n\nAssistant: mean?")
    assert not looks_like_transcript_prompt("\n\nAssistant:")
