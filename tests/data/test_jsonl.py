"""Files into rows: every fault by its name and line, every ending, prompts and answers."""

from __future__ import annotations

import datetime
import gzip
import json
import sys

import pytest

from logratio import errors
from logratio.data import text_lines
from logratio.data.jsonl import read_prompts, read_rows, read_samples
from logratio.records import Completion, Message, Prompt, Sample

GOOD = b'{"prompt": "a", "n": 1}'

BAD_LINES = {
    "cut off": (b'{"prompt": "a", ', errors.BadJsonLine),
    "single quotes": (b"{'prompt': 'a'}", errors.BadJsonLine),
    "two objects": (b"{} {}", errors.BadJsonLine),
    "a key twice": (b'{"prompt": "a", "prompt": "b"}', errors.BadJsonLine),
    "a key twice inside": (b'{"prompt": [{"role": "user", "role": "user"}]}', errors.BadJsonLine),
    "not a number": (b'{"prompt": NaN}', errors.BadJsonLine),
    "infinity": (b'{"prompt": -Infinity}', errors.BadJsonLine),
    "too deep": (b"[" * 200_000, errors.BadJsonLine),
    "a line break in a text": (b'{"prompt": "a\tb"}', errors.BadJsonLine),
    "a list": (b"[]", errors.RowNotObject),
    "null": (b"null", errors.RowNotObject),
    "a text": (b'"prompt"', errors.RowNotObject),
    "a number": (b"7", errors.RowNotObject),
    "Latin-1": ('{"prompt": "é"}'.encode("latin-1"), errors.BadEncoding),
    "a byte-order mark within": (b"\xef\xbb\xbf" + GOOD, errors.BadEncoding),
    "NUL": (b'{"prompt": "a\0"}', errors.BadEncoding),
    "a number beyond all": (b'{"prompt": "a", "n": 1e999}', errors.BadJsonLine),
    "half a surrogate pair": (b'{"prompt": [{"content": "\\ud83d"}]}', errors.BadEncoding),
    "half a pair in a key": (b'{"\\udc00": 1}', errors.BadEncoding),
}


@pytest.mark.parametrize(("line", "fault"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_with_its_physical_line(tmp_path, line, fault):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD)
    with pytest.raises(fault) as caught:
        list(read_rows(path))
    assert type(caught.value) is fault
    assert caught.value.where == f"{path}:3"
    assert caught.value.what


def test_blank_lines_and_line_endings_hold_no_row_but_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n" + GOOD + b"\r\n  \r\n\n" + '{"prompt": "line\u2028separator \U0001f600"}'.encode())
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [2, 5]
    assert rows[0].value == {"prompt": "a", "n": 1}
    assert rows[1].value == {"prompt": "line\u2028separator \U0001f600"}
    assert rows[1].source == f"{path}:5"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.ndjson", "rows.jsonl.gz"])
def test_json_lines_by_their_endings(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(GOOD + b"\n") if name.endswith("gz") else GOOD + b"\n")
    assert [row.value for row in read_rows(path)] == [{"prompt": "a", "n": 1}]


@pytest.mark.parametrize("name", ["rows.csv", "rows", "rows.csv.gz", "rows.txt"])
def test_other_endings_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(GOOD)
    with pytest.raises(errors.FileNotReadable, match="ending"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet", "rows.csv"])
def test_missing_files_directories_and_empty_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(errors.FileNotReadable, match="no such file"):
        list(read_rows(path))
    path.touch()
    with pytest.raises(errors.FileNotReadable, match="empty"):
        list(read_rows(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.FileNotReadable, match="directory"):
        list(read_rows(path))


def test_a_gzip_file_cut_off_says_where(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    text_lines = b"".join(json.dumps({"n": n, "x": str(hash(str(n)))}).encode() + b"\n" for n in range(2000))
    path.write_bytes(gzip.compress(text_lines, mtime=0)[:-2000])
    with pytest.raises(errors.FileNotReadable, match="cut off") as caught:
        list(read_rows(path))
    assert int(caught.value.where.removeprefix(f"{path}:")) > 1


# A name of its own for each: a gzip header holds the time, and two workers must collect the same tests.
@pytest.mark.parametrize(
    "content",
    [b"not gzip at all", gzip.compress(GOOD * 100, mtime=0)[:20] + b"\0" * 20],
    ids=["not gzip", "overwritten"],
)
def test_a_damaged_gzip_file_is_named(tmp_path, content):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(errors.FileNotReadable, match="damaged"):
        list(read_rows(path))


def test_an_endless_line_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "MAX_LINE_BYTES", 100)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + b'{"prompt": "' + b"a" * 200)
    with pytest.raises(errors.FileNotReadable, match="longer") as caught:
        list(read_rows(path))
    assert caught.value.where == f"{path}:2"


# --- Parquet ---------------------------------------------------------------------------------------


def test_parquet_rows_are_those_of_json(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    values = [
        {"prompt": [{"role": "user", "content": "é"}], "score": 1.5, "day": datetime.date(2026, 1, 2)},
        {"prompt": [{"role": "user", "content": "b"}], "score": float("nan"), "day": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(values), path)
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [1, 2]
    assert rows[0].value == values[0] | {"day": "2026-01-02"}
    assert rows[1].value == values[1] | {"score": None}
    assert read_prompts(path).usable[1].prompt == Prompt((Message(role="user", content="b"),))


def test_a_damaged_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(errors.FileNotReadable, match="Parquet"):
        list(read_rows(path))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.MissingExtra) as caught:
        list(read_rows(path))
    assert "pip install" in caught.value.action


# --- prompts ---------------------------------------------------------------------------------------


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prompts_keep_their_further_columns(tmp_path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = write_rows(tmp_path / "prompts.jsonl", {"prompt": "a", "label": 1}, {"prompt": turns})
    first, second = read_prompts(path).usable
    assert (first.prompt, first.columns, first.source) == (Prompt("a"), {"label": 1}, f"{path}:1")
    assert second.prompt.to_json() == turns


def test_plain_lines_are_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("first one\r\n\n  second: {}  \n", encoding="utf-8")
    rows = read_prompts(path).usable
    assert [(row.prompt.content, row.source) for row in rows] == [
        ("first one", f"{path}:1"),
        ("second: {}", f"{path}:3"),
    ]


def test_a_transcript_prompt_becomes_turns(tmp_path):
    path = write_rows(tmp_path / "prompts.jsonl", {"prompt": "\n\nHuman: hi\n\nAssistant:"})
    assert read_prompts(path).usable[0].prompt == Prompt((Message(role="user", content="hi"),))


@pytest.mark.parametrize(
    ("row", "fault", "word"),
    [
        ({"promt": "a"}, errors.MissingColumn, "rename 'promt' to 'prompt'"),
        ({}, errors.MissingColumn, "found: none"),
        ({"prompt": None}, errors.MissingColumn, "null"),
        ({"prompt": 3}, errors.WrongType, "a number"),
        ({"prompt": ["a"]}, errors.WrongType, "a list of text"),
        ({"prompt": {"role": "user", "content": "a"}}, errors.WrongType, "an object"),
        ({"prompt": []}, errors.BadRoles, "empty"),
        ({"prompt": [{"role": "assistant", "content": "a"}]}, errors.BadRoles, "assistant"),
    ],
)
def test_a_bad_prompt_is_named_with_its_line(tmp_path, row, fault, word):
    path = write_rows(tmp_path / "prompts.jsonl", {"prompt": "good"}, row)
    read = read_prompts(path)
    assert [row.prompt for row in read.usable] == [Prompt("good")]
    (left_out,) = read.unusable
    assert (left_out.fault_name, left_out.source) == (fault.__name__, f"{path}:2")
    assert word in f"{left_out.what} {left_out.action}"


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_file_of_blank_lines_holds_no_prompt(tmp_path, name):
    path = tmp_path / name
    path.write_text("\n\n")
    with pytest.raises(errors.FileNotReadable, match="no prompt"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl", "prompts.jsonl.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_in_another_encoding_is_refused_by_its_name(tmp_path, name, encoding):
    path = tmp_path / name
    content = '{"prompt": "a"}\n'.encode(encoding)
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(errors.BadEncoding, match=encoding.upper()) as caught:
        read_prompts(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl", "prompts.jsonl.gz"])
def test_a_byte_order_mark_at_the_beginning_is_passed_over(tmp_path, name):
    path = tmp_path / name
    text_lines = b"one\ntwo\n" if name.endswith("txt") else b'{"prompt": "one"}\n{"prompt": "two"}\n'
    content = b"\xef\xbb\xbf" + text_lines
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    read = read_prompts(path)
    assert [(row.prompt.content, row.source) for row in read.usable] == [
        ("one", f"{path}:1"),
        ("two", f"{path}:2"),
    ]
    assert read.unusable == []


def test_a_nul_that_json_writes_is_a_character_like_others(tmp_path):
    path = write_rows(tmp_path / "prompts.jsonl", {"prompt": "a\0b", "note": "\0"})
    (row,) = read_prompts(path).usable
    assert (row.prompt.content, row.columns) == ("a\0b", {"note": "\0"})


def test_every_row_is_usable_or_left_out_and_columns_are_counted(tmp_path):
    path = tmp_path / "prompts.jsonl"
    text_lines = [
        b'{"prompt": "a", "n": 1}',
        b"no json",
        b"",
        b'{"prompt": 3, "n": 2}',
        b'{"prompt": "b", "m": null}',
    ]
    path.write_bytes(b"\n".join(text_lines))
    read = read_prompts(path)
    assert (read.num_rows, len(read.usable)) == (4, 2)
    assert [(row.fault_name, row.source) for row in read.unusable] == [
        ("BadJsonLine", f"{path}:2"),
        ("WrongType", f"{path}:4"),
    ]
    assert read.columns == {"prompt": 2, "n": 1}
    assert [row.source for row in read_prompts(path, limit=3).usable] == [f"{path}:1"]
    with pytest.raises(errors.BadConfig, match="limit"):
        read_prompts(path, limit=0)


def test_a_file_of_another_kind_is_refused_as_a_whole(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"no json\n[]\n")
    with pytest.raises(errors.BadJsonLine, match="no line is a JSON object") as caught:
        read_prompts(path)
    assert caught.value.where == f"{path}:1"


# --- samples ---------------------------------------------------------------------------------------

ANSWER = {"text": "yes", "token_ids": [1, 2], "logprobs": [-0.5, -1], "finish_reason": "length", "seed": 3}


def test_samples_come_back_as_they_were_written(tmp_path):
    completion = Completion(
        text="yes", token_ids=(4, 0), logprobs=(-1.5, -0.25), model_logprobs=(-1.0, -0.5), seed=7
    )
    sample = Sample(prompt=Prompt("a"), completions=(completion, Completion(text="")), columns={"label": [1]})
    path = write_rows(tmp_path / "completions.jsonl", sample.to_json())
    assert read_samples(path).usable == [sample]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"text": None}, "text"),
        ({"text": 3}, "text"),
        ({"token_ids": "12"}, "token_ids"),
        ({"token_ids": [1, "2"]}, "token_ids"),
        ({"token_ids": [1, True]}, "token_ids"),
        ({"token_ids": [1, -2]}, "token_ids"),
        ({"token_ids": [1, 2**31]}, "token_ids"),
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": None}, "logprobs"),
        ({"logprobs": [-0.5]}, "logprobs"),
        ({"logprobs": ["-0.5", -1]}, "logprobs"),
        ({"model_logprobs": [1, 2, 3]}, "model_logprobs"),
        ({"finish_reason": "eos"}, "finish_reason"),
    ],
)
def test_a_bad_answer_is_named_with_its_line_and_number(tmp_path, change, word):
    path = write_rows(
        tmp_path / "completions.jsonl", {"prompt": "a", "completions": [ANSWER, ANSWER | change]}
    )
    (left_out,) = read_samples(path).unusable
    assert (left_out.fault_name, left_out.source) == ("WrongType", f"{path}:1")
    assert "completions[1]" in left_out.what
    assert word in left_out.what


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "a"}, errors.MissingColumn),
        ({"prompt": "a", "completions": []}, errors.WrongType),
        ({"prompt": "a", "completions": "yes"}, errors.WrongType),
        ({"completions": [ANSWER]}, errors.MissingColumn),
    ],
)
def test_a_row_without_answers_is_named(tmp_path, row, fault):
    (left_out,) = read_samples(write_rows(tmp_path / "completions.jsonl", row)).unusable
    assert left_out.fault_name == fault.__name__
