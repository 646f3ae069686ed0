"""Rows into comparisons: every form that is read, every fault by its name and line."""

from __future__ import annotations

import json
import re

import pytest

from logratio import errors
from logratio.data.preference_formats import read_comparisons
from logratio.records import Comparison, Completion, Message, Prompt

GOOD = {"prompt": "ask", "chosen": "yes", "rejected": "no"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def hh(*turns, answer):
    heads = ("\n\nHuman: ", "\n\nAssistant: ")
    return "".join(heads[place % 2] + turn for place, turn in enumerate(turns)) + "\n\nAssistant:" + answer


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_one(tmp_path, row) -> Comparison:
    result = read_comparisons(write(tmp_path / "data.jsonl", row))
    assert result.unusable == []
    return result.comparisons[0]


# --- forms -----------------------------------------------------------------------------------------

TURNS = [{"role": "system", "content": "be kind"}, user("one"), assistant("two"), user("three")]
FORMS = {
    "text": (GOOD, "ask"),
    "answers as messages": (
        {"prompt": "ask", "chosen": [assistant("yes")], "rejected": [assistant("no")]},
        "ask",
    ),
    "all messages": ({"prompt": TURNS, "chosen": [assistant("yes")], "rejected": [assistant("no")]}, TURNS),
    "prompt as messages, answers as text": ({"prompt": TURNS, "chosen": "yes", "rejected": "no"}, TURNS),
    "no prompt column": (
        {"chosen": [*TURNS, assistant("yes")], "rejected": [*TURNS, assistant("no")]},
        TURNS,
    ),
    "prompt is null": (
        {"prompt": None, "chosen": [*TURNS, assistant("yes")], "rejected": [*TURNS, assistant("no")]},
        TURNS,
    ),
    "prompt beside whole conversations": (
        {
            "prompt": "ask",
            "chosen": [user("ask"), assistant("yes")],
            "rejected": [user("ask"), assistant("no")],
        },
        [user("ask")],
    ),
    "prompt of messages beside whole conversations": (
        {"prompt": TURNS, "chosen": [*TURNS, assistant("yes")], "rejected": [*TURNS, assistant("no")]},
        TURNS,
    ),
    "transcripts": (
        {
            "chosen": hh("one", "two", "three", answer=" yes"),
            "rejected": hh("one", "two", "three", answer=" no"),
        },
        TURNS[1:],
    ),
    "transcripts beside their prompt": (
        {
            "prompt": hh("one", answer=""),
            "chosen": hh("one", answer=" yes"),
            "rejected": hh("one", answer=" no"),
        },
        [user("one")],
    ),
    "a transcript as prompt": (
        {"prompt": hh("one", answer=""), "chosen": " yes", "rejected": " no"},
        [user("one")],
    ),
}


@pytest.mark.parametrize(("row", "prompt"), FORMS.values(), ids=FORMS)
def test_every_form_is_read(tmp_path, row, prompt):
    comparison = read_one(tmp_path, row)
    assert comparison.prompt.to_json() == prompt
    assert (comparison.chosen, comparison.rejected) == (Completion(text="yes"), Completion(text="no"))
    assert comparison.source == f"{tmp_path / 'data.jsonl'}:1"


def test_answers_that_begin_alike_keep_all_their_words(tmp_path):
    row = {
        "chosen": hh("why", answer=" I think so, since it rains."),
        "rejected": hh("why", answer=" I think so."),
    }
    comparison = read_one(tmp_path, row)
    assert comparison.prompt == Prompt((Message(role="user", content="why"),))
    assert (comparison.chosen.text, comparison.rejected.text) == (
        "I think so, since it rains.",
        "I think so.",
    )


def test_labelled_rows_keep_the_sampled_tokens(tmp_path):
    labelled = Comparison(
        prompt=Prompt("ask"),
        chosen=Completion(text=" yes", token_ids=(5, 0), logprobs=(-1.0, -2.0), seed=3),
        rejected=Completion(text=" no", token_ids=(6, 7), finish_reason="length"),
    )
    read = read_one(tmp_path, labelled.to_json())
    assert (read.chosen, read.rejected) == (labelled.chosen, labelled.rejected)


def test_held_out_rows_written_again_are_the_same(tmp_path):
    first = read_one(tmp_path, {"chosen": hh("a", answer=" yes"), "rejected": hh("a", answer=" no")})
    again = read_one(tmp_path, first.to_json())
    assert again == first


def test_a_prompt_has_one_key_in_every_form(tmp_path):
    texts = ["ask", [user("ask")], [user(" ask\n")]]
    keys = {read_one(tmp_path, GOOD | {"prompt": text}).prompt.key for text in texts}
    assert len(keys) == 1


# --- faults ----------------------------------------------------------------------------------------

BAD_ROWS = {
    "chosen is missing": ({"prompt": "a", "choosen": "x", "rejected": "y"}, "MissingColumn", "choosen"),
    "rejected is null": (GOOD | {"rejected": None}, "MissingColumn", "rejected is null"),
    "prompt is missing": ({"question": "a", "chosen": "x", "rejected": "y"}, "MissingColumn", "'prompt'"),
    "prompt is null": (GOOD | {"prompt": None}, "MissingColumn", "prompt is null"),
    "answers only, no prompt": (
        {"chosen": [assistant("x")], "rejected": [assistant("y")]},
        "MissingColumn",
        "prompt",
    ),
    "chosen is an object": (GOOD | {"chosen": assistant("x")}, "WrongType", "text and rejected is|an object"),
    "chosen is a number": (GOOD | {"chosen": 3}, "WrongType", "a number"),
    "chosen is true": (GOOD | {"chosen": True, "rejected": False}, "WrongType", "true or false"),
    "chosen is a list of texts": (GOOD | {"chosen": ["x"], "rejected": ["y"]}, "WrongType", "a list of text"),
    "one text, one messages": (GOOD | {"chosen": [assistant("x")]}, "WrongType", "rejected is text"),
    "prompt is a number": (GOOD | {"prompt": 3}, "WrongType", "a number"),
    "content is a list": (GOOD | {"prompt": [user(["x"])]}, "WrongType", r"content\[0\] is text"),
    "other names for role and content": (
        GOOD | {"prompt": [{"from": "human", "value": "x"}]},
        "WrongType",
        "found: from, value",
    ),
    "edited text beside its tokens": (
        GOOD | {"chosen_completion": {"text": "oh yes", "token_ids": [1]}},
        "WrongType",
        "chosen_completion",
    ),
    "chosen is empty": (GOOD | {"chosen": ""}, "EmptyAnswer", "chosen"),
    "rejected is white space": (GOOD | {"rejected": " \n\t\u3000"}, "EmptyAnswer", "rejected"),
    "a turn's answer is empty": (
        {"prompt": "a", "chosen": [assistant("")], "rejected": [assistant("y")]},
        "EmptyAnswer",
        "chosen",
    ),
    "a transcript's answer is empty": (
        {"chosen": hh("a", answer=" "), "rejected": hh("a", answer=" y")},
        "EmptyAnswer",
        "chosen",
    ),
    "the same answer": (GOOD | {"chosen": "no"}, "IdenticalPair", "no"),
    "the same answer but for white space around it": (GOOD | {"chosen": " no\n"}, "IdenticalPair", "no"),
    "the same answer in other code points": (
        GOOD | {"chosen": "caf\u00e9", "rejected": "cafe\u0301"},
        "IdenticalPair",
        "caf",
    ),
    "transcripts of other prompts": (
        {"chosen": hh("a", answer=" x"), "rejected": hh("b", answer=" y")},
        "PromptNotShared",
        "differ",
    ),
    "transcripts of other lengths": (
        {"chosen": hh("a", "x", "b", answer=" x"), "rejected": hh("a", answer=" y")},
        "PromptNotShared",
        "differ",
    ),
    "one transcript, one answer": (
        {"chosen": hh("a", answer=" x"), "rejected": "y"},
        "PromptNotShared",
        "rejected",
    ),
    "conversations of other prompts": (
        {"chosen": [user("a"), assistant("x")], "rejected": [user("b"), assistant("y")]},
        "PromptNotShared",
        "turns before",
    ),
    "a prompt column of another conversation": (
        {"prompt": "b", "chosen": [user("a"), assistant("x")], "rejected": [user("a"), assistant("y")]},
        "PromptNotShared",
        "prompt column",
    ),
    "rejected has role user": (
        {"prompt": "a", "chosen": [assistant("x")], "rejected": [user("y")]},
        "BadRoles",
        "rejected is 'user'",
    ),
    "the last turn is the user's": (
        {
            "chosen": [user("a"), assistant("x"), user("b")],
            "rejected": [user("a"), assistant("y"), user("b")],
        },
        "BadRoles",
        "last turn of chosen",
    ),
    "no messages": (GOOD | {"chosen": [], "rejected": []}, "BadRoles", "empty"),
    "unknown role": (GOOD | {"prompt": [{"role": "human", "content": "x"}]}, "BadRoles", "'human'"),
    "a late system turn": (
        GOOD | {"prompt": [user("x"), {"role": "system", "content": "s"}, user("y")]},
        "BadRoles",
        r"prompt\[1\] is a system turn",
    ),
    "the prompt ends with the assistant": (
        GOOD | {"prompt": [user("x"), assistant("y")]},
        "BadRoles",
        "assistant",
    ),
    "an answer of two turns": (
        {
            "prompt": "a",
            "chosen": [assistant("w"), assistant("x")],
            "rejected": [assistant("w"), assistant("y")],
        },
        "BadRoles",
        "assistant",
    ),
    "a transcript that ends with the human": (
        {"chosen": hh("a", answer=" x\n\nHuman: more"), "rejected": hh("a", answer=" y")},
        "BadRoles",
        "human turn",
    ),
    "a transcript without a prompt": (
        {"chosen": "\n\nAssistant: x", "rejected": "\n\nAssistant: y"},
        "BadRoles",
        "before",
    ),
}


@pytest.mark.parametrize(("row", "fault", "word"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_left_out_by_name_and_line(tmp_path, row, fault, word):
    path = write(tmp_path / "data.jsonl", GOOD, row, GOOD)
    result = read_comparisons(path)
    assert [comparison.source for comparison in result.comparisons] == [f"{path}:1", f"{path}:3"]
    (unusable,) = result.unusable
    assert (unusable.fault_name, unusable.source) == (fault, f"{path}:2")
    assert re.search(word, unusable.what)
    assert result.num_rows == 3


def test_the_nearest_column_name_is_offered(tmp_path):
    path = write(tmp_path / "data.jsonl", GOOD, {"prompt": "a", "choosen": "x", "rejected": "y"})
    assert read_comparisons(path).unusable[0].action == "rename 'choosen' to 'chosen'"


def test_indentation_tells_answers_apart(tmp_path):
    assert read_one(tmp_path, GOOD | {"chosen": "if x:\n    y", "rejected": "if x:\n  y"})


def test_bad_lines_are_left_out_beside_bad_rows(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(
        b"\n".join([json.dumps(GOOD).encode(), b"{", b"[]", b"\xff{}", json.dumps(GOOD).encode()])
    )
    result = read_comparisons(path)
    assert [(row.fault_name, row.source) for row in result.unusable] == [
        ("BadJsonLine", f"{path}:2"),
        ("RowNotObject", f"{path}:3"),
        ("BadEncoding", f"{path}:4"),
    ]
    assert result.num_rows == 5


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"prompt,chosen,rejected\na,b,c\n", errors.BadJsonLine),
        (b"[\n1\n]\n", errors.BadJsonLine),
        ('{"prompt": "a"}\n'.encode("utf-16"), errors.BadEncoding),
        (b"\n\n", errors.FileNotReadable),
    ],
)
def test_what_is_no_json_lines_at_all_is_raised(tmp_path, content, fault):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(fault) as caught:
        read_comparisons(path)
    assert caught.value.where.startswith(str(path))


def test_the_limit_counts_rows(tmp_path):
    path = write(tmp_path / "data.jsonl", GOOD, GOOD | {"chosen": ""}, GOOD, GOOD)
    result = read_comparisons(path, limit=3)
    assert (len(result.comparisons), len(result.unusable), result.num_rows) == (2, 1, 3)
    with pytest.raises(errors.BadConfig):
        read_comparisons(path, limit=0)
