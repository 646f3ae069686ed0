"""Conversations with tools, reasoning and parts, held against transformers' own rendering."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chat_templates import HERMES, KINDS, ONLY_PARTS, PARTS, REASONING_OF_THE_LAST_TURN, tokenizer_of
from logratio import errors
from logratio.models import tokenisation
from logratio.models.chat_template import content_form, find_unrendered
from logratio.records import Completion, Message, Prompt
from tiny_models import TEMPLATE, tiny_tokenizer

TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}},)
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}]
USER = {"role": "user", "content": "weather?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": CALL}
RESULT = {"role": "tool", "content": "rain", "tool_call_id": "abc", "name": "weather"}
SAID = {"role": "assistant", "content": "It rains."}
THOUGHT = SAID | {"reasoning_content": "The tool says so."}


def prompt_of(*turns, tools=TOOLS):
    return replace(Prompt.from_json(turns), tools=tools)


def rendered(tokenizer, turns, *, tools=TOOLS, **options):
    return tokenizer.apply_chat_template(list(turns), tools=list(tools) or None, **options)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "turns",
    [(USER, SAID), (USER, CALLED), (USER, CALLED, RESULT, SAID), (USER, THOUGHT)],
    ids=["text", "call", "result", "reasoning"],
)
@pytest.mark.parametrize("tools", [TOOLS, ()], ids=["tools", "none"])
def test_tokens_are_those_of_transformers(kind, turns, tools):
    tokenizer = tokenizer_of(KINDS[kind])
    *lead, last = turns
    prompt = prompt_of(*lead, tools=tools)
    question = tokenisation.encode_prompt(tokenizer, prompt)
    assert list(question) == rendered(tokenizer, lead, tools=tools, add_generation_prompt=True)
    answer = tokenisation.encode_completion(tokenizer, prompt, Completion.of_turn(Message.from_json(last)))
    whole = rendered(tokenizer, turns, tools=tools)
    assert list(question + answer) == whole[: len(question + answer)]
    assert tokenizer.decode(whole[len(question + answer) :]).strip() == "", "only white space is left over"
    assert tokenisation.find_end(answer, tokenisation.stop_token_ids(tokenizer)) == (
        len(answer) - 1,
        len(answer),
    )


def test_a_call_ends_as_its_template_ends_calls():
    tokenizer = tokenizer_of(KINDS["another end for calls"])
    prompt = prompt_of(USER)
    answers = [Completion.of_turn(Message.from_json(one)) for one in (SAID, CALLED)]
    ends = [tokenisation.encode_completion(tokenizer, prompt, one)[-1] for one in answers]
    assert ends == tokenizer.convert_tokens_to_ids(["<|return|>", "<|call|>"])
    assert set(ends) <= tokenisation.stop_token_ids(tokenizer)


@pytest.mark.parametrize("arguments", [{"city": "Ulm"}, '{"city": "Ulm"}'], ids=["object", "text"])
def test_arguments_of_calls_stay_as_they_were_given(arguments):
    call = CALLED | {"tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]}
    assert Message.from_json(call).to_json() == call
    tokenizer = tokenizer_of(HERMES)
    ids = tokenisation.encode_prompt(tokenizer, prompt_of(USER, call, RESULT))
    assert list(ids) == rendered(tokenizer, (USER, call, RESULT), add_generation_prompt=True)


# --- parts -----------------------------------------------------------------------------------------

IN_PARTS = {"role": "user", "content": [{"type": "text", "text": "sun"}, {"type": "text", "text": "or rain"}]}


def test_parts_go_to_a_template_that_reads_them():
    tokenizer = tokenizer_of(PARTS)
    assert content_form(tokenizer) == "both"
    ids = tokenisation.encode_prompt(tokenizer, prompt_of(IN_PARTS, tools=()))
    assert list(ids) == rendered(tokenizer, [IN_PARTS], tools=(), add_generation_prompt=True)


@pytest.mark.parametrize("template", [TEMPLATE, HERMES.replace("(m.content or '')", "(m.content | string)")])
def test_a_template_that_reads_texts_alone_is_given_the_text_of_the_parts(template):
    tokenizer = tokenizer_of(template)
    assert content_form(tokenizer) == "text"
    together = {"role": "user", "content": "sun\nor rain"}
    assert tokenisation.encode_prompt(tokenizer, prompt_of(IN_PARTS)) == tokenisation.encode_prompt(
        tokenizer, prompt_of(together)
    )


def test_a_template_that_reads_parts_alone_is_given_parts():
    tokenizer = tokenizer_of(ONLY_PARTS)
    assert content_form(tokenizer) == "parts"
    text = tokenisation.render_prompt(tokenizer, prompt_of(USER))
    assert text == "<|im_start|>user\nweather?<|im_end|>\n<|im_start|>assistant\n"


# --- what is not rendered --------------------------------------------------------------------------


def unrendered(tokenizer, *turns, tools=()):
    return find_unrendered(
        tokenizer, [Message.from_json(turn) for turn in turns], tools, add_generation_prompt=False
    )


def test_fields_that_change_nothing_are_named():
    tokenizer = tiny_tokenizer()
    turns = (USER | {"name": "ben"}, THOUGHT | {"id": 7, "tool_calls": []})
    assert unrendered(tokenizer, *turns, tools=TOOLS) == [
        "field `name`",
        "field `reasoning_content`",
        "field `id`",
        "column `tools`",
    ]
    assert unrendered(tokenizer, USER, SAID) == []


def test_what_is_rendered_is_not_named():
    tokenizer = tokenizer_of(REASONING_OF_THE_LAST_TURN)
    assert unrendered(tokenizer, USER, CALLED, THOUGHT, tools=TOOLS) == []


def test_reasoning_that_only_the_last_turn_keeps_is_named_where_an_earlier_turn_has_it():
    tokenizer = tokenizer_of(REASONING_OF_THE_LAST_TURN)
    earlier = SAID | {"reasoning_content": "Quite another thought."}
    last = SAID | {"reasoning_content": "So."}
    assert unrendered(tokenizer, USER, last) == []
    assert unrendered(tokenizer, USER, earlier, USER, last) == ["field `reasoning_content`"]


def test_a_role_whose_content_the_template_passes_over_is_named():
    tokenizer = tokenizer_of(
        "{% for m in messages if m.role != 'tool' %}"
        "{{ m.role + (m.content or '') + '<|im_end|>' }}{% endfor %}"
    )
    assert unrendered(tokenizer, USER, CALLED, RESULT | {"content": "thunder"}) == [
        "field `tool_calls`",
        "field `tool_call_id`",
        "field `name`",
        "content of role `tool`",
    ]


def test_without_a_template_every_field_is_named_and_a_tool_has_no_form():
    tokenizer = tiny_tokenizer(chat=False)
    assert unrendered(tokenizer, USER, THOUGHT, tools=TOOLS) == [
        "field `reasoning_content`",
        "column `tools`",
    ]
    with pytest.raises(errors.ChatTemplateMismatch, match="no chat template"):
        tokenisation.encode_prompt(tokenizer, prompt_of(USER, CALLED, RESULT))


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_a_control_token_in_any_field_of_a_prompt_is_refused(field):
    tokenizer = tokenizer_of(HERMES)
    turn = SAID | {field: "so<|im_end|>"}
    with pytest.raises(errors.SpecialTokenTrouble, match="control token"):
        tokenisation.encode_prompt(tokenizer, prompt_of(USER, turn, USER))


# --- texts as they stand ---------------------------------------------------------------------------


def test_a_raw_text_has_the_tokens_that_trl_gives_it():
    tokenizer = tokenizer_of(KINDS["instructions"])
    prompt, answer = Prompt("The weather", format="raw"), Completion(text=" is fine.")
    question = tokenisation.encode_prompt(tokenizer, prompt)
    assert list(question) == tokenizer("The weather")["input_ids"]
    ids = tokenisation.encode_completion(tokenizer, prompt, answer)
    assert list(question + ids) == [*tokenizer("The weather is fine.")["input_ids"], tokenizer.eos_token_id]
    assert question != tokenisation.encode_prompt(tokenizer, Prompt("The weather"))


def test_a_raw_answer_ends_in_the_end_token_and_not_in_the_template_s_turn_end():
    tokenizer = tokenizer_of(HERMES.replace("<|im_end|>", "<|end|>"), plain=("<|end|>",))
    ids = tokenisation.encode_completion(tokenizer, Prompt("hi", format="raw"), Completion(text=" you"))
    assert ids[-1] == tokenizer.eos_token_id
    chat = tokenisation.encode_completion(tokenizer, Prompt("hi"), Completion(text=" you"))
    assert chat[-1] == tokenizer.convert_tokens_to_ids("<|end|>") != tokenizer.eos_token_id


def test_a_raw_text_may_hold_control_tokens():
    text = "<|im_start|>user\nhi<|im_end|>\n"
    ids = tokenisation.encode_prompt(tokenizer_of(HERMES), Prompt(text, format="raw"))
    assert tokenizer_of(HERMES).decode(ids) == text
