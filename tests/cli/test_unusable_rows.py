"""Rows that cannot be used, in every command: left out, counted and named; with --strict they end it."""

from __future__ import annotations

import codecs
import gzip
import json
import sys

import pytest
import torch

from annotate.live_server import running, vote_on
from logratio.annotate.storage.store import Store
from logratio.cli.annotate import serve
from logratio.cli.main import main
from logratio.errors import UnusableRows
from logratio.models.loading import save
from logratio.recipes.rows import RowConfig
from logratio.report.collect import read_object
from logratio.run_directory import read_json_lines
from tiny_models import END, tiny_llama, tiny_tokenizer

GOOD = [{"prompt": f"the cat {n}", "note": n} for n in range(12)]
LINES = {
    "PromptTooLong": json.dumps({"prompt": "the cat sat on the mat " * 12}),
    "SpecialTokenTrouble": json.dumps({"prompt": f"now {END} then"}),
    "WrongType": json.dumps({"prompt": 3}),
    "MissingColumn": json.dumps({"text": "no prompt"}),
    "BadEncoding": '{"prompt": "half \\ud83d"}',
}
"""A line for each of five faults; they come behind the good rows, in this order."""
PAIRS = [
    {"prompt": f"say {n}", "chosen": f"a good {n}", "rejected": f"I hate {n} and more", "note": n}
    for n in range(16)
]
SMALL = ["--batch-size", "4", "--threads", "1", "--held-out", "0"]
REWARDS = """
def length(completions, **columns):
    return [float(len(one)) for one in completions]

def of_notes(completions, note):
    return [len(one) + (n or 0) for one, n in zip(completions, note)]

def texts_alone(completions):
    return [float(len(one)) for one in completions]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of 64 positions that hardly prefers one byte to another, so that NUL is drawn too."""
    tokenizer = tiny_tokenizer()
    llama = tiny_llama(len(tokenizer), tied=False)
    llama.config.max_position_embeddings = 64
    with torch.no_grad():
        llama.lm_head.weight.mul_(0.1)
    path = tmp_path_factory.mktemp("start") / "model"
    save(llama, tokenizer, path)
    return str(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "odd_rewards.py").write_text(REWARDS)
    write_lines("prompts.jsonl", [*map(json.dumps, GOOD), *LINES.values()])
    write_lines("pairs.jsonl", [*map(json.dumps, PAIRS), '{"prompt": "a", "chosen": "b"}'])
    yield tmp_path
    sys.modules.pop("odd_rewards", None)


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def call(*words):
    return main([*map(str, words)])


def answering(model, kind, *further, prompts="prompts.jsonl"):
    """The words of a command that answers prompts."""
    words = {
        "sample": ("sample", "--model", model, "--out", "out.jsonl", "--num-samples", "2"),
        "evaluate": ("evaluate", "--policy", model, "--reference", model, "--out", "out"),
    }
    trains = ("train", kind, "--model", model, "--out", "out", *SMALL)
    reward = () if kind == "sample" else ("--reward", "odd_rewards:length")
    return (*words.get(kind, trains), "--prompts", prompts, "--max-new-tokens", "8", *reward, *further)


@pytest.mark.parametrize(
    ("kind", "noted"),
    [
        ("sample", "out.jsonl.left_out.json"),
        ("evaluate", "out/report.json"),
        ("ppo", "out/data.json"),
        ("reinforce", "out/data.json"),
    ],
)
def test_prompts_that_cannot_be_answered_are_left_out_and_named(place, model, capsys, kind, noted):
    assert call(*answering(model, kind)) == 0
    shown = capsys.readouterr().err
    assert "data: 17 rows: 12 usable, 5 left out" in shown
    assert "data:   prompts.jsonl:13  PromptTooLong: " in shown
    assert f"and 2 more; all are in {noted}" in shown
    found = read_object(place / noted)
    counts = found["data"]["evaluation"] if kind == "evaluate" else found
    assert counts["unusable"] == dict.fromkeys(LINES, 1)
    assert counts["num_rows"] == 17 == counts["num_usable"] + sum(counts["unusable"].values())
    places = {name: [row["where"] for row in rows] for name, rows in counts["faults"].items()}
    assert places == {name: [f"prompts.jsonl:{13 + n}"] for n, name in enumerate(LINES)}
    if kind == "sample":
        assert [row["note"] for row in read_json_lines(place / "out.jsonl")] == [row["note"] for row in GOOD]
    if kind == "evaluate":
        assert counts["evaluated"] == 12 == counts["prompts_in_file"]
        assert "data: 12 prompts: 12 evaluated" in shown
    if kind in ("ppo", "reinforce"):
        assert counts["train"] + counts["held_out"] == counts["num_usable"]


@pytest.mark.parametrize("kind", ["sample", "evaluate", "ppo", "reinforce"])
def test_strict_ends_before_a_model_is_loaded(place, model, capsys, monkeypatch, kind):
    monkeypatch.setattr("logratio.models.loading.load", None)
    monkeypatch.setattr("logratio.recipes.sample.load", None)
    assert call(*answering(model, kind, "--strict")) == 2
    error = capsys.readouterr().err
    assert "UnusableRows: --strict: 5 of 17 rows cannot be used (1 PromptTooLong, " in error
    assert "where: prompts.jsonl:13" in error
    assert not (place / "out").exists() or not any((place / "out").iterdir())


@pytest.mark.parametrize("kind", ["sample", "evaluate", "ppo"])
def test_a_file_without_a_usable_prompt_is_refused(place, model, capsys, monkeypatch, kind):
    monkeypatch.setattr("logratio.models.loading.load", None)
    monkeypatch.setattr("logratio.recipes.sample.load", None)
    write_lines("none.jsonl", [LINES["PromptTooLong"]] * 3)
    assert call(*answering(model, kind, prompts="none.jsonl")) == 2
    error = capsys.readouterr().err
    assert (
        "nothing is left: 3 of 3 rows cannot be used (3 PromptTooLong); the first: PromptTooLong: " in error
    )
    assert "where: none.jsonl:1" in error


def test_the_share_that_may_be_left_out_is_one_rule(place, model, capsys):
    words = answering(model, "sample", "--overwrite")
    # Five are more than a tenth, and few.
    assert call(*words) == 0
    capsys.readouterr()
    assert call(*words, "--max-unusable-share", "0.29") == 2
    assert "5 of 17 rows cannot be used" in capsys.readouterr().err
    assert call(*words, "--max-unusable-share", "0.3") == 0
    assert call(*words, "--max-unusable-share", "1.5") == 2
    assert "--max-unusable-share" in capsys.readouterr().err
    # Six are more than a tenth and more than five.
    write_lines("prompts.jsonl", [*map(json.dumps, GOOD), *LINES.values(), LINES["WrongType"]])
    assert call(*words) == 2
    write_lines("prompts.jsonl", map(json.dumps, GOOD))
    assert call(*words) == 0
    assert not (place / "out.jsonl.left_out.json").exists()


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward"])
def test_comparisons_left_out_are_named_where_training_begins(place, model, capsys, kind):
    words = ("train", kind, "--data", "pairs.jsonl", "--model", model, "--out", "out", *SMALL)
    assert call(*words, "--strict") == 2
    assert "UnusableRows: --strict: 1 of 17 rows" in capsys.readouterr().err
    assert not (place / "out").exists()
    assert call(*words) == 0
    shown = capsys.readouterr().err
    assert "data: 17 rows: 16 usable, 1 left out (1 MissingColumn)" in shown
    assert "data:   pairs.jsonl:17  MissingColumn: there is no column 'rejected'" in shown
    assert "data: columns not used: note (16 rows)" in shown
    assert read_object(place / "out/data.json")["columns_not_used"] == {"note": 16}


def test_check_says_the_same_and_has_a_status_for_strict(place, capsys):
    assert call("check", "--data", "pairs.jsonl") == 0
    assert "columns not used: note (16 rows)" in capsys.readouterr().out
    assert call("check", "--data", "pairs.jsonl", "--strict") == 2
    assert "where: pairs.jsonl:17" in capsys.readouterr().err


def test_a_row_without_its_margin_is_left_out(place, model, capsys):
    rows = [row | {"margin": 0.5} for row in PAIRS]
    rows[3]["margin"] = "large"
    write_lines("graded.jsonl", map(json.dumps, rows))
    words = ("train", "reward", "--data", "graded.jsonl", "--margin", "margin", "--model", model)
    assert call(*words, "--out", "out", *SMALL) == 0
    assert "16 rows: 15 usable, 1 left out (1 WrongType)\ndata:   graded.jsonl:4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reward", "unused"), [("length", ""), ("of_notes", ""), ("texts_alone", "note (12 rows)")]
)
def test_columns_that_no_reward_is_given_are_named(place, model, capsys, reward, unused):
    write_lines("prompts.jsonl", map(json.dumps, GOOD))
    words = ("evaluate", "--policy", model, "--reference", model, "--prompts", "prompts.jsonl")
    assert call(*words, "--reward", f"odd_rewards:{reward}", "--max-new-tokens", "4") == 0
    shown = capsys.readouterr().err
    assert (f"data: columns not used: {unused}" in shown) if unused else ("not used" not in shown)


def test_rows_that_are_not_evaluated_are_counted_and_said(place, model, capsys):
    write_lines("prompts.jsonl", map(json.dumps, [*GOOD, *GOOD[:2]]))
    assert call(*answering(model, "evaluate", "--num-prompts", "9")) == 0
    line = "data: 14 prompts: 9 evaluated, 2 repeated, 3 not drawn (--num-prompts)"
    assert line in capsys.readouterr().err


# --- what one command writes, the others read ----------------------------------------------------------


def test_answers_with_nul_go_all_the_way(place, model, capsys):
    write_lines("prompts.jsonl", map(json.dumps, GOOD))
    words = ("--num-samples", "8", "--max-new-tokens", "32")
    assert (
        call("sample", "--model", model, "--prompts", "prompts.jsonl", "--out", "answers.jsonl", *words) == 0
    )
    answers = [one["text"] for row in read_json_lines(place / "answers.jsonl") for one in row["completions"]]
    assert any("\0" in text for text in answers)
    words = ("--completions", "answers.jsonl", "--reward", "odd_rewards:length", "--pairs", "all")
    assert call("label", *words, "--out", "labelled.jsonl", "--strict") == 0
    pairs = read_json_lines(place / "labelled.jsonl")
    assert any("\0" in pair["chosen"] + pair["rejected"] for pair in pairs)
    write_lines("few.jsonl", [json.dumps(pair) for pair in pairs if "\0" in pair["chosen"]][:8])
    assert call("check", "--data", "few.jsonl", "--model", model, "--max-unusable-share", "0") == 0
    for kind in ("sft", "dpo", "reward"):
        words = ("--data", "few.jsonl", "--model", model, "--out", kind, "--max-unusable-share", "0", *SMALL)
        assert call("train", kind, *words) == 0
    # A file of answers is a file of prompts too.
    assert call(*answering(model, "sample", "--strict", prompts="answers.jsonl")) == 0
    assert "columns not used: completions (12 rows)" in capsys.readouterr().err


# --- marks at the beginning of files -------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_costs_no_row_in_any_command(place, model, capsys, packed):
    def marked(name, lines):
        content = codecs.BOM_UTF8 + "".join(f"{line}\n" for line in lines).encode()
        packs = packed and name.endswith("jsonl")
        path = place / (f"{name}.gz" if packs else name)
        path.write_bytes(gzip.compress(content) if packs else content)
        return path

    pairs = marked("marked.jsonl", map(json.dumps, PAIRS))
    prompts = marked("few.jsonl", map(json.dumps, GOOD[:2]))
    votes = ['{"winner": "x", "loser": "y"}', '{"winner": "y", "loser": "x"}']
    assert call("check", "--data", pairs, "--strict") == 0
    assert call(*answering(model, "sample", "--strict", prompts=prompts)) == 0
    assert call("rate", "--comparisons", marked("votes.jsonl", votes), "--bootstrap", "0", "--strict") == 0
    table = capsys.readouterr().out
    csv = marked("votes.csv", ["winner,loser", "x,y", "y,x"])
    assert call("rate", "--comparisons", csv, "--bootstrap", "0", "--strict") == 0
    assert capsys.readouterr().out in table
    text = marked("lines.txt", ["one", "two"])
    assert call(*answering(model, "sample", "--strict", "--overwrite", prompts=text)) == 0
    assert [row["prompt"] for row in read_json_lines(place / "out.jsonl")] == ["one", "two"]


# --- ratings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bad"), [("votes.csv", "x"), ("votes.jsonl", "no json")])
def test_a_vote_that_cannot_be_used_is_left_out(place, capsys, name, bad):
    pairs = [("x", "y"), ("y", "x"), ("x", "y")]
    if name.endswith("csv"):
        lines = ["winner,loser,place", bad, *(f"{a},{b},here" for a, b in pairs)]
    else:
        lines = ["", bad, *(json.dumps({"winner": a, "loser": b, "place": "here"}) for a, b in pairs)]
    write_lines(name, lines)
    assert call("rate", "--comparisons", name, "--bootstrap", "0", "--out", "out") == 0
    shown = capsys.readouterr()
    fault = "WrongType" if name.endswith("csv") else "BadJsonLine"
    assert f"data: 4 rows: 3 usable, 1 left out (1 {fault})\ndata:   {name}:2  {fault}: " in shown.err
    assert "data: columns not used: place (3 rows)" in shown.err
    assert f"1 left out: {fault} (the first at {name}:2)." in shown.out
    counts = read_object(place / "out/ratings.json")["counts"]
    assert (counts["comparisons"], counts["left_out"]) == (3, {fault: 1})
    assert call("rate", "--comparisons", name, "--bootstrap", "0", "--strict") == 2
    assert f"where: {name}:2" in capsys.readouterr().err


# --- people who compare --------------------------------------------------------------------------------

NUL_ANSWERS = {"prompt": "the \0 cat", "completions": [{"text": "yes\0"}, {"text": "no\0\0"}], "note": 1}


def serving(place, **settings):
    given = {"store": place / "labels.db", "data": place / "answers.jsonl", "open": False}
    return serve.Arguments(**given | settings)


def test_answers_that_cannot_be_shown_are_left_out_and_named(place, capsys):
    rows = [NUL_ANSWERS | {"prompt": f"say {n}"} for n in range(3)]
    write_lines("answers.jsonl", [*map(json.dumps, rows), '{"prompt": "a", "completions": 3}'])
    with Store.create_or_open(place / "labels.db") as store:
        assert serve.fill(store, serving(place)) == {"WrongType": 1}
        shown = capsys.readouterr().err
        assert "data: 4 rows: 3 usable, 1 left out (1 WrongType)" in shown
        assert f"data:   {place / 'answers.jsonl'}:4  WrongType: completions is not a list" in shown
        assert "data: columns not used: note (3 rows)" in shown
        with pytest.raises(UnusableRows) as caught:
            serve.fill(store, serving(place, rows=RowConfig(strict=True)))
        assert caught.value.where == f"{place / 'answers.jsonl'}:4"


def test_people_judge_answers_with_nul_and_they_come_back_whole(place):
    write_lines("answers.jsonl", [json.dumps(NUL_ANSWERS)])
    with running(place / "labels.db", data=place / "answers.jsonl") as server:
        client = server.client("anna")
        status, body = client.post("/api/lease", {})
        assert status == 200
        assert client.post("/api/vote", vote_on(body["pair"], nonce="n" * 32))[0] == 200
        client.close()
    assert call("annotate", "export", "--store", "labels.db", "--out", "labels") == 0
    (row,) = read_json_lines(place / "labels/comparisons.jsonl")
    assert {row["prompt"], row["chosen"], row["rejected"]} == {"the \0 cat", "yes\0", "no\0\0"}
    assert call("check", "--data", "labels/comparisons.jsonl", "--strict") == 0
