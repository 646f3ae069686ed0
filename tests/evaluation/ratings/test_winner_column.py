"""A column of winners is read as names or as sides for a file as a whole, or is refused."""

import json

import pytest

from logratio.errors import AmbiguousWinner, BadConfig, WrongType
from logratio.evaluation.ratings.reading import collect_outcomes, read_outcomes


def csv(tmp_path, *rows, column="winner"):
    path = tmp_path / "votes.csv"
    path.write_text(f"model_a,model_b,{column}\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def winners(outcomes):
    found = {"first": "first", "second": "second", "tie": "tie", "both-bad": "both-bad"}
    named = {"first": lambda one: one.first, "second": lambda one: one.second}
    return [named.get(one.result, lambda one: found[one.result])(one) for one in outcomes]


@pytest.mark.parametrize(
    ("rows", "meaning", "expected"),
    [
        # The first three could be sides; the fourth is a name.
        (["B,A,A", "B,A,A", "A,B,B", "C,A,C"], "names", ["A", "A", "B", "C"]),
        (["B,A,A", "B,A,model_a"], "sides", ["B", "B"]),
        (["B,A,A", "C,D,A"], "sides", ["B", "C"]),
        (["B,A,A", "B,A,tie", "x,y,y"], "names", ["A", "tie", "y"]),
        (["sft,dpo,dpo", "dpo,sft,tie (bothbad)"], "names", ["dpo", "both-bad"]),
        (["model_b,x,model_b", "x,model_b,x"], "names", ["model_b", "x"]),
        (["1,2,1", "2,1,1", "1.0,2,1.0"], "names", ["1", "1", "1.0"]),
        (["true,null,null", "nan,none,nan"], "names", ["null", "nan"]),
        (["left,right,right", "both,bothbad,both"], "names", ["right", "both"]),
        (["Jos\u00e9,x,Jose\u0301"], "names", ["Jos\u00e9"]),
        (["tie,x,model_a", "tie,x,tie"], "sides", ["tie", "tie"]),
        ([" gpt 4 ,x,gpt  4"], "names", ["gpt 4"]),
    ],
)
@pytest.mark.parametrize("column", ["winner", "outcome"])
def test_rows_that_can_be_read_in_one_way_tell_of_the_others(tmp_path, rows, meaning, expected, column):
    for order in (rows, rows[::-1]):
        read, said = collect_outcomes(csv(tmp_path, *order, column=column))
        assert winners(read.usable) == (expected if order is rows else expected[::-1])
        holds = "names of models" if meaning == "names" else "sides, model_a or model_b"
        assert said[0] == f"The column {column} was read as {holds}."
        assert read.unusable == []


@pytest.mark.parametrize("rows", [["A,B,A", "A,B,b", "A,B,tie"], ["x,y,tie"]])
def test_rows_that_say_the_same_either_way_need_no_meaning(tmp_path, rows):
    read, said = collect_outcomes(csv(tmp_path, *rows))
    assert winners(read.usable) == ["A", "B", "tie"][: len(rows)] if len(rows) > 1 else ["tie"]
    assert said == ()


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        (["A,B,A", "B,A,A", "B,A,A"], 3, "winner is 'A': a model's name, and a word for first"),
        # Small letters may be sides, or a name that was written carelessly.
        (["B,A,a"], 2, "winner is 'a': a model's name, and a word for first"),
        (["x,model_a,model_a"], 2, "winner is 'model_a'"),
        # A model that is called like a tie may have won, or nobody.
        (["sft,dpo,dpo", "tie,dpo,tie"], 3, "winner is 'tie': a model's name, and a word for a tie"),
        (["x,y,x", "x,y,model_a"], 2, "winner is 'x', a model's name, and 'model_a', a side, at "),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_line(tmp_path, rows, line, said):
    path = csv(tmp_path, *rows)
    for read in (collect_outcomes, read_outcomes):
        with pytest.raises(AmbiguousWinner) as caught:
            read(path)
        assert said in caught.value.what
        assert caught.value.where == f"{path}:{line}"
        assert "--winner-column names" in caught.value.action
        assert "--winner-column sides" in caught.value.action


def test_the_flag_says_which(tmp_path):
    path = csv(tmp_path, "B,A,A", "B,A,A", "B,A,A", "B,A,B")
    assert winners(read_outcomes(path, winner_column="names")) == ["A", "A", "A", "B"]
    assert winners(read_outcomes(path, winner_column="sides")) == ["B", "B", "B", "A"]
    path = csv(tmp_path, "tie,dpo,tie", "dpo,x,tie")
    assert winners(read_outcomes(path, winner_column="names")) == ["tie", "tie"]
    assert [one.result for one in read_outcomes(path, winner_column="names")] == ["first", "tie"]


def test_a_flag_that_no_row_needs_is_refused(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("winner,loser\na,b\n")
    with pytest.raises(BadConfig, match="no row has model_a, model_b"):
        collect_outcomes(path, winner_column="sides")


def test_a_few_rows_of_the_other_kind_are_left_out_and_named(tmp_path):
    path = csv(tmp_path, *["x,y,x"] * 20, "x,y,model_a", "x,y,z", "X,y,x")
    read, said = collect_outcomes(path)
    assert said[0] == "The column winner was read as names of models."
    assert winners(read.usable) == ["x"] * 20
    assert [(row.source, row.fault_name) for row in read.unusable] == [
        (f"{path}:{line}", "WrongType") for line in (22, 23, 24)
    ]
    assert [row.what for row in read.unusable] == [
        "winner is 'model_a', in a column that holds names; the row's models are 'x', 'y'",
        "winner is 'z', in a column that holds names; the row's models are 'x', 'y'",
        "winner is 'x', which differs in capitals from the row's model",
    ]
    path = csv(tmp_path, *["x,y,model_a"] * 20, "x,y,x")
    read, _ = collect_outcomes(path)
    assert [row.what for row in read.unusable] == ["winner is 'x'"]
    with pytest.raises(WrongType, match="winner is 'x'"):
        read_outcomes(path)


def test_names_are_counted_that_stood_in_another_form(tmp_path):
    path = tmp_path / "votes.jsonl"
    rows = [
        {"winner": "Jos\u00e9", "loser": "x"},
        {"winner": "x", "loser": " Jose\u0301 "},
        {"winner": "jos\u00e9", "loser": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read, said = collect_outcomes(path)
    assert [(one.first, one.second) for one in read.usable] == [
        ("Jos\u00e9", "x"),
        ("x", "Jos\u00e9"),
        ("jos\u00e9", "x"),
    ]
    assert [sentence.split(",")[0] for sentence in said] == [
        "1 times a name stood with further white space",
        "1 times a name was in another Unicode form than NFC",
        "'Jos\u00e9' and 'jos\u00e9' differ only in capitals",
    ]
