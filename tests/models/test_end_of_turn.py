"""The end of a turn, whatever the template writes there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import tokenizer_of
from logratio import errors
from logratio.generation.engines.continuous_batching import StopMatcher
from logratio.models import tokenisation
from logratio.models.end_of_turn import (
    describe_end,
    find_ends,
    register_end_tokens,
    stop_token_ids,
    template_frame,
)
from logratio.records import Completion, Message, Prompt
from tiny_models import TEMPLATE

QUESTION, ANSWER = Prompt("the cat"), Completion(text="a good day")


def ended_by(end: str, **tokens):
    return tokenizer_of(TEMPLATE.replace("<|im_end|>", end), **tokens)


def written(tokenizer):
    """What the template writes behind the prompt."""
    turns = [*QUESTION.messages, Message(role="assistant", content=ANSWER.text)]
    whole = tokenizer.apply_chat_template([turn.to_json() for turn in turns])["input_ids"]
    return tuple(whole[len(tokenisation.encode_prompt(tokenizer, QUESTION)) :])


def test_a_token_that_is_not_special_ends_turns_as_a_special_one_does():
    tokenizer = ended_by("<|end|>", plain=("<|end|>",))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    ids = tokenisation.encode_completion(tokenizer, QUESTION, ANSWER)
    assert ids == written(tokenizer)[: len(ids)]
    assert ids[-1] == end
    assert stop_token_ids(tokenizer) == {end, tokenizer.eos_token_id}
    assert tokenisation.decode(tokenizer, (*ids, *ids)) == ANSWER.text
    assert "<|end|>" in describe_end(tokenizer)
    with pytest.raises(errors.SpecialTokenTrouble, match="control token"):
        tokenisation.encode_prompt(tokenizer, Prompt("forget it<|end|>"))


def test_marks_of_reasoning_are_no_control_tokens():
    template = TEMPLATE.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
    tokenizer = tokenizer_of(template, plain=("<think>", "</think>"))
    assert template_frame(tokenizer).control == ("<|im_end|>", "<|im_start|>")
    assert tokenisation.encode_prompt(tokenizer, Prompt("what is <think>?"))


@pytest.mark.parametrize("end", ["</s>", "### End of turn"])
def test_an_end_of_several_tokens_is_trained_on_whole_and_stops_where_it_is_over(end):
    tokenizer = ended_by(f"\n{end}")
    ids = tokenisation.encode_completion(tokenizer, QUESTION, ANSWER)
    assert ids == written(tokenizer)[: len(ids)]
    assert tokenizer.decode(ids) == f"{ANSWER.text}\n{end}"
    (several,) = [stop for stop in stop_token_ids(tokenizer) if isinstance(stop, tuple)]
    assert tokenizer.decode(several) == end
    assert len(several) > 1
    assert tokenisation.decode(tokenizer, (*ids, *ids)) == f"{ANSWER.text}\n"
    assert f"{len(several)} tokens, all of which are trained on" in describe_end(tokenizer)
    with pytest.raises(errors.SpecialTokenTrouble, match="within the answer"):
        tokenisation.encode_completion(tokenizer, QUESTION, Completion(text=f"a {end} b"))


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_template_that_writes_no_end_leaves_it_to_the_tokenizer(end):
    tokenizer = ended_by(end)
    ids = tokenisation.encode_completion(tokenizer, QUESTION, ANSWER)
    assert tokenizer.decode(ids) == f"{ANSWER.text}<|im_end|>"
    assert "writes no end" in describe_end(tokenizer)


def test_an_end_token_with_a_line_break_behind_is_the_end_token():
    tokenizer = ended_by("<|im_end|>\n\n")
    assert tokenizer.decode(tokenisation.encode_completion(tokenizer, QUESTION, ANSWER)[-1:]) == "<|im_end|>"


def test_every_end_token_of_the_generation_config_stops_and_stands_in_no_answer():
    tokenizer = ended_by("<|im_end|>", plain=("<|stop|>",))
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert tokenisation.encode_completion(tokenizer, QUESTION, Completion(text="a<|stop|>b"))
    register_end_tokens(tokenizer, [tokenizer.eos_token_id, stop])
    assert stop_token_ids(tokenizer) == {tokenizer.eos_token_id, stop}
    with pytest.raises(errors.SpecialTokenTrouble, match="within the answer"):
        tokenisation.encode_completion(tokenizer, QUESTION, Completion(text="a<|stop|>b"))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 3), max_size=12), stops=st.sets(st.sampled_from([0, (1, 2), (1, 1, 3)])))
def test_a_row_stops_at_the_token_at_which_its_first_end_is_over(ids, stops):
    watch = StopMatcher(stops)
    recent = watch.initial(1)
    matches = None
    for place, token in enumerate(ids):
        recent = torch.cat((recent, torch.tensor([[token]])), dim=1)[:, 1:]
        if bool(watch.matches(recent)):
            matches = place + 1
            break
    ends = find_ends(ids, stops)
    assert matches == (min(end for _, end in ends) if ends else None)
