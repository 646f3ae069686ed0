"""Files into pairs: the same pair has the same name from anywhere, and every row is accounted for."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.annotate.domain.pairs import Pair, make_pair, read_pairs
from logratio.errors import BadConfig, BadJsonLine, FileNotReadable
from logratio.records import Completion, Message, Prompt

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def completions(prompt: str, *texts: str, **columns: object) -> dict[str, object]:
    return {"prompt": prompt, "completions": [{"text": text} for text in texts]} | columns


def comparison(prompt: str, chosen: str, rejected: str, **columns: object) -> dict[str, object]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | columns


# --- the name of a pair ---


@given(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_pair_is_the_same_in_either_order(prompt, first, second, one, other):
    there = make_pair(
        Prompt(prompt),
        Completion(text=first),
        Completion(text=second),
        models=(one, other),
        margin=2.0,
        gold="a",
    )
    back = make_pair(
        Prompt(prompt),
        Completion(text=second),
        Completion(text=first),
        models=(other, one),
        margin=-2.0,
        gold="b",
    )
    if (first, one) != (second, other):
        assert there == back
    assert (there.a.text, there.models[0]) <= (there.b.text, there.models[1])
    assert len(there.id) == 16
    assert int(there.id, 16) >= 0


def test_every_part_of_a_pair_is_in_its_name():
    base = {"prompt": "q", "first": "x", "second": "y", "models": ("m", "n")}
    changed = [
        {"prompt": "r"},
        {"first": "w"},
        {"second": "z"},
        {"models": ("n", "m")},
        {"models": ("m", "")},
    ]

    def name(prompt, first, second, models):
        return make_pair(Prompt(prompt), Completion(text=first), Completion(text=second), models=models).id

    ids = {name(**base)} | {name(**(base | change)) for change in changed}
    assert len(ids) == 1 + len(changed)


def test_a_text_and_its_one_user_turn_are_the_same_prompt():
    text = make_pair(Prompt("q"), Completion(text="x"), Completion(text="y"))
    turns = Prompt((Message(role="user", content="q"),))
    assert make_pair(turns, Completion(text="y"), Completion(text="x")).id == text.id


def test_a_pair_survives_json():
    pair = make_pair(
        Prompt((Message(role="system", content="be kind"), Message(role="user", content="q"))),
        Completion(text="x", token_ids=(1, 2), logprobs=(-0.5, -1.0), finish_reason="length", seed=3),
        Completion(text="\u202eevil\u200b"),
        models=("m", "n"),
        source="f:3",
        margin=-0.25,
        gold="tie",
    )
    assert Pair.from_json(json.loads(json.dumps(pair.to_json()))) == pair


# --- completions ---


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("adjacent", [("p", "q"), ("q", "r"), ("r", "s")]),
        ("all", [("p", "q"), ("p", "r"), ("p", "s"), ("q", "r"), ("q", "s"), ("r", "s")]),
    ],
)
def test_pairings_of_a_prompts_answers(tmp_path, pairing, expected):
    path = write(tmp_path / "c.jsonl", completions("question", "p", "q", "r", "s"))
    file = read_pairs(path, pairing=pairing)
    assert [(pair.a.text, pair.b.text) for pair in file.pairs] == expected
    assert file.left_out == {}
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {pair.source for pair in file.pairs} == {f"{path}:1"}


def test_random_pairs_are_different_and_the_same_whatever_else_the_file_holds(tmp_path):
    row = completions("question", *"pqrstu")
    alone = read_pairs(write(tmp_path / "c.jsonl", row), pairing="random", pairs_per_prompt=4, seed=1)
    among = read_pairs(
        write(tmp_path / "d.jsonl", completions("other", *"vwxyz"), row),
        pairing="random",
        pairs_per_prompt=4,
        seed=1,
    )
    ids = [pair.id for pair in alone.pairs]
    assert len(set(ids)) == 4
    assert ids == [pair.id for pair in among.pairs][4:]
    other_seed = read_pairs(tmp_path / "c.jsonl", pairing="random", pairs_per_prompt=4, seed=2)
    assert ids != [pair.id for pair in other_seed.pairs]
    every = read_pairs(tmp_path / "c.jsonl", pairing="random", pairs_per_prompt=99)
    assert len(every.pairs) == 15


def test_answers_of_two_models_in_two_rows_are_compared(tmp_path):
    path = write(
        tmp_path / "c.jsonl",
        completions("question", "from one", model="one"),
        completions("another", "x", "y"),
        completions("question", "from two", model="two"),
    )
    file = read_pairs(path, model="unsaid")
    assert [(pair.a.text, pair.b.text, pair.models) for pair in file.pairs] == [
        ("x", "y", ("unsaid", "unsaid")),
        ("from one", "from two", ("one", "two")),
    ]


def test_what_is_left_out_is_counted_by_its_reason(tmp_path):
    path = tmp_path / "c.jsonl"
    write(
        path,
        completions("one", "p", "p ", "", "q", "p", "q"),  # identical, empty, empty, a pair, duplicate
        completions("two", "alone"),
        {"prompt": "three", "completions": "no list"},
        {"prompt": "four", "completions": []},
        {"completions": [{"text": "x"}]},
        [1],
        comparison("five", "x", "x"),
        comparison("six", " ", "x"),
        comparison("seven", "x", "y"),
        comparison("seven", "y", "x"),
    )
    with open(path, "ab") as stream:
        stream.write(b'{"prompt": "cut o')
    file = read_pairs(path)
    assert [pair.prompt.content for pair in file.pairs] == ["one", "seven"]
    assert file.left_out == {
        "identical": 2,
        "empty": 3,
        "duplicate": 2,
        "one answer": 1,
        "WrongType": 2,
        "MissingColumn": 1,
        "RowNotObject": 1,
        "BadJsonLine": 1,
    }
    assert file.num_considered == 2 + 13


def test_tokens_come_with_their_answers(tmp_path):
    sampled = {"text": "y", "token_ids": [3, 4], "logprobs": [-1.0, -2.0], "finish_reason": "length"}
    row = {"prompt": "question", "completions": [sampled, {"text": "x"}]}
    (pair,) = read_pairs(write(tmp_path / "c.jsonl", row)).pairs
    assert pair.b.token_ids == (3, 4)
    assert pair.b.finish_reason == "length"
    assert pair.a.token_ids is None


def test_hostile_text_is_kept_as_it_is(tmp_path):
    texts = [
        "<script>alert(1)</script>",
        "\u202e\u200b\x1b[31m=cmd()",
        "x" * 1_000_000,
        "![](http://e.example)",
    ]
    file = read_pairs(write(tmp_path / "c.jsonl", completions("javascript:1", *texts)))
    assert len(file.pairs) == 3
    assert {pair.a.text for pair in file.pairs} | {pair.b.text for pair in file.pairs} == set(texts)


# --- comparisons ---


def test_the_label_of_a_comparison_is_forgotten(tmp_path):
    there = read_pairs(write(tmp_path / "c.jsonl", comparison("question", "x", "y")))
    back = read_pairs(write(tmp_path / "d.jsonl", comparison("question", "y", "x")))
    assert [pair.id for pair in there.pairs] == [pair.id for pair in back.pairs]
    assert (
        (there.pairs[0].a.text, there.pairs[0].gold)
        == (back.pairs[0].a.text, back.pairs[0].gold)
        == ("x", None)
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"margin": 0.5}, 0.5),
        ({"chosen_reward": 1.0, "rejected_reward": 3.0}, -2.0),
        ({"margin": 0.5, "chosen_reward": 1.0, "rejected_reward": 3.0}, 0.5),
        ({"chosen_reward": 1.0}, None),
        ({"margin": None}, None),
        ({}, None),
    ],
)
def test_margins_are_of_a_over_b(tmp_path, columns, expected):
    (there,) = read_pairs(write(tmp_path / "c.jsonl", comparison("question", "x", "y", **columns))).pairs
    (back,) = read_pairs(write(tmp_path / "d.jsonl", comparison("question", "y", "x", **columns))).pairs
    assert there.margin == expected
    assert back.margin == (None if expected is None else -expected)


@pytest.mark.parametrize(
    ("value", "fault"),
    [("0.5", "WrongType"), (True, "WrongType"), ([1], "WrongType"), (1e999, "BadJsonLine")],
)
def test_a_margin_that_is_no_number_is_counted(tmp_path, value, fault):
    path = tmp_path / "c.jsonl"
    row = json.dumps(comparison("question", "x", "y", margin=value)).replace("Infinity", "1e999")
    path.write_text(row + "\n" + json.dumps(comparison("other", "x", "y")) + "\n")
    file = read_pairs(path)
    assert len(file.pairs) == 1
    assert file.left_out == {fault: 1}
    assert [row.source for row in file.unusable] == [f"{path}:1"]
    assert file.num_rows == 2


def test_models_of_a_comparison(tmp_path):
    row = comparison("question", "y", "x", chosen_model="good", rejected_model="bad")
    (pair,) = read_pairs(write(tmp_path / "c.jsonl", row)).pairs
    assert pair.models == ("bad", "good")


def test_gold(tmp_path):
    path = write(
        tmp_path / "c.jsonl",
        comparison("one", "x", "y"),
        comparison("two", "y", "x"),
        comparison("three", "x", "y", gold="rejected"),
        comparison("four", "x", "y", gold="tie"),
        comparison("five", "x", "y", gold="x"),
    )
    assert [pair.gold for pair in read_pairs(path, gold=True).pairs] == ["a", "b", "b", "tie"]
    file = read_pairs(path)
    assert [pair.gold for pair in file.pairs] == [None, None, "b", "tie"]
    assert file.left_out == {"WrongType": 1}


def test_gold_that_contradicts_itself_is_no_gold(tmp_path):
    path = write(
        tmp_path / "c.jsonl",
        comparison("one", "x", "y"),
        comparison("one", "y", "x"),
        comparison("one", "x", "y"),
        comparison("two", "x", "y"),
        comparison("two", "x", "y"),
    )
    file = read_pairs(path, gold=True)
    assert [pair.prompt.content for pair in file.pairs] == ["two"]
    assert file.left_out == {"ContradictoryLabels": 3, "duplicate": 1}


def test_completions_are_no_gold(tmp_path):
    file = read_pairs(write(tmp_path / "c.jsonl", completions("question", "x", "y")), gold=True)
    assert (file.pairs, file.left_out) == ([], {"MissingColumn": 1})


# --- files that cannot be read ---


def test_faults_of_files_are_raised(tmp_path):
    with pytest.raises(FileNotReadable):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(FileNotReadable):
        read_pairs(tmp_path)
    (tmp_path / "text.jsonl").write_text("not JSON\nat all\n")
    with pytest.raises(BadJsonLine, match="not JSON"):
        read_pairs(tmp_path / "text.jsonl")
    write(tmp_path / "c.jsonl", completions("question", "x", "y"))
    with pytest.raises(BadConfig, match="best"):
        read_pairs(tmp_path / "c.jsonl", pairing="best")
    with pytest.raises(BadConfig, match="0"):
        read_pairs(tmp_path / "c.jsonl", pairs_per_prompt=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9))
def test_the_order_of_rows_changes_no_name_and_no_count(tmp_path_factory, seed):
    draw = random.Random(seed)
    rows = [comparison(f"q{draw.randrange(4)}", draw.choice("xyz"), draw.choice("xyz ")) for _ in range(12)]
    directory = tmp_path_factory.mktemp("pairs")
    there = read_pairs(write(directory / "c.jsonl", *rows))
    draw.shuffle(rows)
    back = read_pairs(write(directory / "d.jsonl", *rows))
    assert {pair.id for pair in there.pairs} == {pair.id for pair in back.pairs}
    assert there.left_out == back.left_out
    assert there.num_considered == 12
