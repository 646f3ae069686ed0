"""`logratio sample`: the file it writes, and how it goes on after a kill."""

import json

import pytest

from logratio.cli import main as door
from logratio.cli import sample as command
from logratio.data.jsonl import read_samples
from logratio.generation.resumable import PartialAnswers
from logratio.models.loading import save
from logratio.recipes import sample as recipe
from logratio.records import Completion, Prompt, Sample

ROWS = [
    {"prompt": "the cat", "label": 1},
    {"prompt": [{"role": "user", "content": "a good day?"}], "label": 2},
    {"prompt": "I like this.", "label": 3, "completions": ["old"]},
]


@pytest.fixture
def place(tmp_path, model, tokenizer):
    save(model, tokenizer, tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def run(place, *further, out="out.jsonl", prompts="prompts.jsonl"):
    places = ["--model", str(place / "model"), "--prompts", str(place / prompts), "--out", str(place / out)]
    return door.main(["sample", *places, "--num-samples", "2", "--max-new-tokens", "6", *further])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tokens_of(path):
    return [[completion["token_ids"] for completion in row["completions"]] for row in rows_of(path)]


def test_answers_are_written_with_their_numbers_and_columns(place, capsys):
    assert run(place) == 0
    rows = rows_of(place / "out.jsonl")
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]
    assert [row["label"] for row in rows] == [1, 2, 3]
    for row in rows:
        for completion in row["completions"]:
            assert 1 <= len(completion["token_ids"]) <= 6
            assert completion["logprobs"] == completion["model_logprobs"]
    shown = capsys.readouterr().out
    assert "6 answers to 3 prompts" in shown
    assert str(place / "out.jsonl") in shown
    assert sorted(entry.name for entry in place.iterdir()) == ["model", "out.jsonl", "prompts.jsonl"]


def test_the_file_is_read_back(place):
    run(place)
    samples = read_samples(place / "out.jsonl").usable
    assert [list(c.token_ids) for s in samples for c in s.completions] == [
        ids for own in tokens_of(place / "out.jsonl") for ids in own
    ]


def test_batch_size_does_not_change_the_answers(place):
    run(place)
    run(place, "--decode-batch-size", "1", out="other.jsonl")
    assert tokens_of(place / "other.jsonl") == tokens_of(place / "out.jsonl")


def test_plain_lines_are_prompts(place):
    (place / "prompts.txt").write_text("the dog ran\na ball\n")
    assert run(place, prompts="prompts.txt") == 0
    assert [row["prompt"] for row in rows_of(place / "out.jsonl")] == ["the dog ran", "a ball"]


def test_limit_answers_the_first_prompts(place):
    assert run(place, "--limit", "1") == 0
    assert [row["label"] for row in rows_of(place / "out.jsonl")] == [1]


class Killed(BaseException):
    """Stands for a signal that nothing catches."""


def kill_after(monkeypatch, num_batches):
    add, calls = PartialAnswers.add, []

    def add_and_die(self, placed):
        add(self, placed)
        calls.append(len(placed))
        if len(calls) == num_batches:
            raise Killed

    monkeypatch.setattr(PartialAnswers, "add", add_and_die)
    return calls


def test_a_killed_run_goes_on_where_it_was(place, monkeypatch, capsys):
    run(place, out="whole.jsonl")
    kill_after(monkeypatch, 2)
    with pytest.raises(Killed):
        run(place, "--decode-batch-size", "2")
    assert not (place / "out.jsonl").exists()
    monkeypatch.undo()
    calls = kill_after(monkeypatch, 99)
    assert run(place, "--decode-batch-size", "1") == 0
    assert calls == [1, 1]
    assert tokens_of(place / "out.jsonl") == tokens_of(place / "whole.jsonl")
    assert "4 of them from a run that was stopped" in capsys.readouterr().out
    assert not list(place.glob("*partial*"))


@pytest.mark.parametrize("change", [("--seed", "1"), ("--temperature", "0.5"), ("--limit", "2")])
def test_a_killed_run_does_not_go_on_with_other_settings(place, monkeypatch, capsys, change):
    kill_after(monkeypatch, 1)
    with pytest.raises(Killed):
        run(place, "--decode-batch-size", "2")
    monkeypatch.undo()
    assert run(place, *change) == 2
    assert "ResumeMismatch" in capsys.readouterr().err
    assert run(place, *change, "--overwrite") == 0


def test_answers_are_not_written_over_unasked(place, capsys):
    assert run(place) == 0
    before = (place / "out.jsonl").read_text()
    assert run(place, "--seed", "1") == 2
    assert "RunExists" in capsys.readouterr().err
    assert (place / "out.jsonl").read_text() == before
    assert run(place, "--seed", "1", "--overwrite") == 0
    assert (place / "out.jsonl").read_text() != before


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--temperature", "-1"], "BadConfig"),
        (["--top-p", "0"], "BadConfig"),
        (["--num-samples", "0"], "BadConfig"),
        (["--limit", "-1"], "BadConfig"),
        (["--device", "cuda:77"], "BadConfig"),
        (["--dtype", "float16"], "BadConfig"),
        (["--trust-remote-code"], "UnsafeArtifact"),
    ],
)
def test_settings_are_checked_before_the_model_is_read(place, monkeypatch, capsys, flags, fault):
    monkeypatch.setattr(recipe, "load", lambda *_args, **_options: pytest.fail("the model was read"))
    assert run(place, *flags) == 2
    assert fault in capsys.readouterr().err


def test_prompts_that_do_not_fit_are_named_by_their_line(place, capsys):
    assert run(place, "--max-new-tokens", "510") == 2
    error = capsys.readouterr().err
    assert "PromptTooLong" in error
    assert "prompts.jsonl:1" in error
    assert not list(place.glob("out*"))


def test_prompts_that_cannot_be_encoded_are_named_by_their_line(place, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "load", lambda *_args, **_options: pytest.fail("the model was read"))
    with open(place / "prompts.jsonl", "a") as stream:
        stream.write(json.dumps({"prompt": "now <|im_end|> then"}) + "\n")
    assert run(place, "--strict") == 2
    assert "prompts.jsonl:4" in capsys.readouterr().err


def test_the_output_is_neither_the_input_nor_a_directory(place, capsys):
    assert run(place, out="prompts.jsonl") == 2
    assert run(place, out="model") == 2
    assert capsys.readouterr().err.count("BadConfig") == 2
    assert run(place, out="prompts.jsonl/out.jsonl") == 2
    assert "NotWritable" in capsys.readouterr().err
    assert rows_of(place / "prompts.jsonl") == ROWS


def test_help_teaches(capsys):
    assert door.main(["sample", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "logratio sample --model" in shown
    assert "--decode-batch-size" in shown


def test_the_rate_is_of_what_was_drawn_and_no_share_is_rounded_to_all():
    answers = [
        Completion(text="a", token_ids=(1,), model_logprobs=(-1.0,), finish_reason=reason)
        for reason in ["stop"] * 999 + ["length"]
    ]
    samples = [Sample(prompt=Prompt("the cat"), completions=tuple(answers), columns={})]
    shown = command.describe(samples, seconds=2.0, num_known=900, known_tokens=900)
    assert "1000 tokens, 50 tokens/s\n99.9% ended by themselves" in shown
    shown = command.describe(samples, seconds=2.0, num_known=1000, known_tokens=1000)
    assert "(1000 of them from a run that was stopped): 1000 tokens\n" in shown
