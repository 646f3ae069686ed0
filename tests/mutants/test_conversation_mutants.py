"""Pitfalls of conversations, turn ends and the format of prompts, each built in on purpose."""

import pytest

from mutants.harness import Mutant, survivors, unsound

TEMPLATE, TURN_ENDS = "logratio.models.chat_template", "logratio.models.end_of_turn"
TOKENISATION, TURNS = "logratio.models.tokenisation", "logratio.data.turns"
BATCHING, RECORDS = "logratio.generation.engines.continuous_batching", "logratio.records"

GOLDEN = "models/test_chat_template.py::test_tokens_are_those_of_transformers"
RAW = "models/test_chat_template.py::test_a_raw_text_has_the_tokens_that_trl_gives_it"
TURN_BY_TURN = "data/test_conversations.py::test_each_turn_carries_loss_where_it_stands_and_nowhere_else"


def of_ends(test: str) -> str:
    return f"models/test_end_of_turn.py::{test}"


# What is wrong | symbol | text | what stands there instead | tests that must fail
PITFALLS = (
    (
        "tools do not reach the chat template",
        f"{TEMPLATE}:_render",
        "tools=list(tools) or None,",
        "tools=None,",
        (GOLDEN,),
    ),
    (
        "fields of messages do not reach the chat template",
        f"{RECORDS}:Message.to_json",
        '"content": content, **self.fields}',
        '"content": content}',
        (GOLDEN, "data/test_conversations.py::test_everything_that_a_row_says_comes_back"),
    ),
    (
        "a field is taken for rendered where one of two turns has it in vain",
        f"{TEMPLATE}:find_unrendered",
        "if any(is_ignored(changed) for changed in",
        "if all(is_ignored(changed) for changed in",
        (
            "models/test_chat_template.py"
            "::test_reasoning_that_only_the_last_turn_keeps_is_named_where_an_earlier_turn_has_it",
        ),
    ),
    (
        "what divides turns may stand in a text where it is not flagged special",
        f"{TURN_ENDS}:_find_frame",
        "for text in (*special, *dividing) if",
        "for text in special if",
        (of_ends("test_a_token_that_is_not_special_ends_turns_as_a_special_one_does"),),
    ),
    (
        "an end of several tokens stops at the first of them",
        f"{BATCHING}:StopMatcher.matches",
        "(recent[:, -len(stop) :] == stop).all(dim=1)",
        "(recent[:, -len(stop) :] == stop).any(dim=1)",
        (of_ends("test_a_row_stops_at_the_token_at_which_its_first_end_is_over"),),
    ),
    (
        "a tool call ends as a text does",
        f"{TURN_ENDS}:_find_turn_ends",
        "return [usual] if other is None or other.ids == usual.ids else [usual, other]",
        "return [usual]",
        ("models/test_chat_template.py::test_a_call_ends_as_its_template_ends_calls",),
    ),
    (
        "a raw text is rendered as a turn",
        f"{TEMPLATE}:uses_chat_template",
        "return has_chat_template(tokenizer) and not raw",
        "return has_chat_template(tokenizer)",
        (RAW,),
    ),
    (
        "an earlier turn is learned behind turns that came after it",
        f"{TURNS}:encode_earlier_turns",
        "before = replace(prompt, content=content[:index])",
        "before = replace(prompt, content=content)",
        (TURN_BY_TURN,),
    ),
)
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PITFALLS
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_pitfall_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


@pytest.mark.slow
def test_the_same_tests_pass_on_an_unchanged_copy(tmp_path):
    assert unsound(MUTANTS, tmp_path) == []
