"""Comparisons from files: the three forms in CSV and JSON Lines, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from logratio.errors import (
    BadEncoding,
    BadJsonLine,
    FileNotReadable,
    MissingColumn,
    RowNotObject,
    WrongType,
)
from logratio.evaluation.ratings.reading import MAX_COUNT, MAX_NAME, parse_outcome, read_outcomes


@pytest.fixture
def written(tmp_path):
    def write(content, name="votes.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(path):
    return [(one.first, one.second, one.result, one.count) for one in read_outcomes(path)]


def test_winner_and_loser(written):
    path = written("winner,loser\na,b\nb,a\n\n c ,\ta\n")
    assert read(path) == [("a", "b", "first", 1), ("b", "a", "first", 1), ("c", "a", "first", 1)]
    assert [one.source for one in read_outcomes(path)] == [f"{path}:{line}" for line in (2, 3, 5)]


def test_winner_loser_tie_and_count(written):
    path = written("loser,winner,tie,count,judge\nb,a,,3,x\nb,a,1,,x\nb,a,False,0,x\nb,a,YES,2,\n")
    with pytest.raises(WrongType, match="count is ''"):
        read(path)
    path = written("loser,winner,tie,count,judge\nb,a,,3,x\nb,a,1,1,x\nb,a,False,0,x\nb,a,YES,2,\n")
    assert read(path) == [
        ("a", "b", "first", 3),
        ("a", "b", "tie", 1),
        ("a", "b", "first", 0),
        ("a", "b", "tie", 2),
    ]


def test_two_models_and_an_outcome(written):
    rows = ["model_a", "model_b", "tie", "Tie (bothbad)", " A ", "b"]
    path = written("model_a,model_b,outcome\n" + "".join(f"x,y,{row}\n" for row in rows))
    results = ["first", "second", "tie", "both-bad", "first", "second"]
    assert [one.result for one in read_outcomes(path)] == results
    assert {(one.first, one.second) for one in read_outcomes(path)} == {("x", "y")}


def test_json_lines_in_every_form(written):
    rows = [
        {"chosen_model": "x", "rejected_model": "y", "prompt": "p", "chosen": "c", "rejected": "r"},
        {"model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "judge": "z", "turn": 1},
        {"model_a": "x", "model_b": "y", "winner": "model_b", "count": 12},
        {"winner": "x", "loser": "y", "tie": True},
        {"winner": "x", "loser": "y", "tie": None},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    expected = [
        ("x", "y", "first", 1),
        ("x", "y", "both-bad", 1),
        ("x", "y", "second", 12),
        ("x", "y", "tie", 1),
        ("x", "y", "first", 1),
    ]
    assert read(written(text, "votes.jsonl")) == expected
    assert read(written(gzip.compress(text.encode()), "votes.jsonl.gz")) == expected


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"model_a": ["x", "y"], "model_b": ["y", "x"], "winner": ["model_a", "tie"]})
    parquet.write_table(table, tmp_path / "arena.parquet")
    assert read(tmp_path / "arena.parquet") == [("x", "y", "first", 1), ("y", "x", "tie", 1)]


def test_names_are_kept_as_they_are_but_for_white_space(written):
    path = written('winner,loser\n"=cmd()|\' /C calc\'!A0",<script>\n"a ""b"",  c\n d",\x1b[31m\u202e\n')
    assert read(path) == [
        ("=cmd()|' /C calc'!A0", "<script>", "first", 1),
        ('a "b", c d', "\x1b[31m\u202e", "first", 1),
    ]


def test_a_byte_order_mark_and_foreign_line_ends_are_read(written):
    assert read(written(b"\xef\xbb\xbfwinner,loser\r\na,b\r\n")) == [("a", "b", "first", 1)]


@pytest.mark.parametrize(
    ("content", "fault", "what", "line"),
    [
        ("a,b\nc,d\n", MissingColumn, "no columns of models; found: 'a', 'b'", 2),
        ("winner,looser\na,b\n", MissingColumn, "no column 'loser'", 2),
        ("winner,loser\na,\n", MissingColumn, "loser is empty", 2),
        ("winner,loser\na,b\na\n", WrongType, "1 fields and the first line names 2", 3),
        ("winner,loser\na,b,c\n", WrongType, "3 fields", 2),
        ("winner,loser,tie\na,b,perhaps\n", WrongType, "tie is 'perhaps'", 2),
        ("model_a,model_b,outcome\na,b,\n", MissingColumn, "outcome is empty", 2),
        ("model_a,model_b,outcome\na,b,a won\n", WrongType, "outcome is 'a won'", 2),
        ("model_a,model_b\na,b\n", MissingColumn, "no column 'outcome'", 2),
        ("winner,winner\na,b\n", WrongType, "two columns are called 'winner'", 1),
        ("winner;loser\na;b\n", WrongType, "the first line is one column, 'winner;loser'", 1),
        ("winner,loser,count\na,b,-1\n", WrongType, "count is '-1'", 2),
        ("winner,loser,count\na,b,1e9\n", WrongType, "count is '1e9'", 2),
        (f"winner,loser,count\na,b,{MAX_COUNT + 1}\n", WrongType, "count is", 2),
        (f"winner,loser\na,{'x' * (MAX_NAME + 1)}\n", WrongType, "too long for a name", 2),
        ('winner,loser\na,b\n"a,b\nc,d\n', FileNotReadable, "not CSV: unexpected end of data", 3),
        ('winner,loser\na,"b"c\n', FileNotReadable, "not CSV", 2),
        (b"winner,loser\na,b\nc,\xff\n", BadEncoding, "byte 0xff at column 3 is not UTF-8", 3),
        (b"winner,loser\na,b\0\n", BadEncoding, "NUL", 2),
        (b"w\0i\0n\0", BadEncoding, "NUL", 1),
    ],
)
def test_csv_that_is_wrong_is_named_with_its_line(written, content, fault, what, line):
    path = written(content)
    with pytest.raises(fault) as caught:
        read(path)
    assert what in caught.value.what
    assert caught.value.where == f"{path}:{line}"
    assert caught.value.action


@pytest.mark.parametrize(
    ("content", "fault", "what"),
    [
        ("{", BadJsonLine, "not JSON"),
        ("[1]", RowNotObject, "a list"),
        ('{"chosen_model": "a", "rejected_model": null}', MissingColumn, "rejected_model is empty"),
        ('{"chosen_model": "a"}', MissingColumn, "no column 'rejected_model'"),
        ('{"winner": 3, "loser": "b"}', WrongType, "winner is a number"),
        ('{"model_a": "a", "model_b": "b", "winner": 1}', WrongType, "winner is a number"),
        ('{"winner": "a", "loser": "b", "count": true}', WrongType, "count is 'True'"),
        ('{"winner": "a", "loser": "b", "count": 1.5}', WrongType, "count is '1.5'"),
        ('{"winner": "a", "loser": "b", "tie": [1]}', WrongType, "tie is '[1]'"),
        ('{"winner": "a\\ud800", "loser": "b"}', BadEncoding, "lone surrogate"),
        ('{"prompt": "p", "chosen": "c"}', MissingColumn, "no columns of models"),
    ],
)
def test_json_that_is_wrong_is_named_with_its_line(written, content, fault, what):
    path = written('{"winner": "a", "loser": "b"}\n' + content + "\n", "votes.jsonl")
    with pytest.raises(fault) as caught:
        read(path)
    assert what in caught.value.what
    assert caught.value.where == f"{path}:2"


def test_files_that_hold_nothing(written, tmp_path):
    for path, what in (
        (written(""), "is empty"),
        (written("\n\n", "blank.csv"), "no row"),
        (tmp_path / "none.csv", "No such file"),
        (written("", "votes.jsonl"), "is empty"),
        (written("a", "votes.txt"), "the ending '.txt'"),
    ):
        with pytest.raises(FileNotReadable, match=what) as caught:
            read(path)
        assert caught.value.where == str(path)
    (tmp_path / "directory.csv").mkdir()
    with pytest.raises(FileNotReadable, match="directory"):
        read(tmp_path / "directory.csv")
    assert read(written("winner,loser\n")) == []


def test_a_field_without_end_is_not_read_into_memory(written):
    with pytest.raises(FileNotReadable, match="not CSV: field larger"):
        read(written('winner,loser\n"' + "x" * 200_000 + '",b\n'))


def test_a_column_of_a_row_wins_over_another_form():
    row = {"model_a": "x", "model_b": "y", "winner": "model_a", "outcome": "tie"}
    assert parse_outcome(row, where="f:1").result == "tie"


def test_reading_needs_no_torch():
    code = (
        "import sys; import logratio.evaluation.ratings.reading, logratio.cli.rate;"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
