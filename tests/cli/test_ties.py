"""Rows with "tie": true in the commands that read comparisons."""

import json

import pytest

from cli.train.test_preference import start, train  # noqa: F401 - a fixture
from logratio.cli.main import main
from logratio.run_directory import RunDirectory, read_json_lines


@pytest.fixture
def write(tmp_path):
    def rows_of(name, ties, **more):
        rows = [
            {"prompt": f"say {n}", "chosen": f"a good {n}", "rejected": f"I hate {n} and more"}
            | ({"tie": True} if n in ties else {})
            | more
            for n in range(12)
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return rows_of


def test_check_counts_and_names_ties(write, tmp_path, capsys):
    data = write("some.jsonl", ties=(3, 5))
    # The same pair tied in both orders is no contradiction, and says nothing of lengths.
    row = {"prompt": "say 3", "chosen": "I hate 3 and more", "rejected": "a good 3", "tie": True}
    data.write_text(data.read_text() + json.dumps(row) + "\n")
    assert main(["check", "--data", str(data), "--json", str(tmp_path / "check.json")]) == 0
    shown = capsys.readouterr().out
    assert "3 rows are ties: half a label for each side in DPO and reward models, left out of SFT" in shown
    assert f"{data}:4" in shown
    assert "training can begin" in shown
    found = json.loads((tmp_path / "check.json").read_text())
    assert (found["num_rows"], found["num_usable"], found["num_ties"]) == (13, 13, 3)
    assert found["contradictions"] == []
    assert found["length_bias"]["num_pairs"] == 10


@pytest.mark.parametrize(
    ("value", "usable", "ties"), [(None, 12, 0), (False, 12, 0), ("yes", 0, 0), (1, 0, 0)]
)
def test_a_tie_is_true_or_it_is_none(write, tmp_path, value, usable, ties):
    data = write("odd.jsonl", ties=(), tie=value)
    assert main(["check", "--data", str(data), "--json", str(tmp_path / "check.json")]) == int(not usable)
    found = json.loads((tmp_path / "check.json").read_text())
    assert (found["num_usable"], found["num_ties"]) == (usable, ties)
    assert found["unusable"] == ({} if usable else {"WrongType": 12})


def test_dpo_keeps_ties_and_their_marks(write, tmp_path, start, capsys):  # noqa: F811
    data = write("some.jsonl", ties=range(0, 12, 2))
    flags = ["--data", data, "--model", start, "--held-out", "0.5"]
    assert train("dpo", *flags, "--out", tmp_path / "run") == 0
    assert "data: 6 rows are ties" in capsys.readouterr().err
    run = RunDirectory(tmp_path / "run")
    kept_out = read_json_lines(run.path / "held_out.jsonl")
    tied = [row["prompt"] for row in kept_out if row.get("tie")]
    assert all(int(prompt.split()[1]) % 2 == 0 for prompt in tied)
    assert sum(row.get("ties", 0) for row in run.metrics) + len(tied) == 6


def test_sft_leaves_ties_out_and_counts_them(write, tmp_path, start, capsys):  # noqa: F811
    data = write("some.jsonl", ties=(0, 1, 2))
    flags = ["--data", data, "--model", start, "--held-out", "0"]
    assert train("sft", *flags, "--out", tmp_path / "run") == 0
    assert "3 ties left out, 9 pairs kept: SFT trains on the preferred answer" in capsys.readouterr().err
    counts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (counts["num_rows"], counts["num_usable"], counts["train"]) == (12, 9, 9)
    assert counts["unusable"] == {"Tie": 3}
    assert [row["where"] for row in counts["faults"]["Tie"]] == [f"{data}:{line}" for line in (1, 2, 3)]


@pytest.mark.parametrize("words", [("sft",), ("dpo", "--loss", "apo-zero")])
def test_ties_alone_teach_some_trainers_nothing(write, tmp_path, start, capsys, words):  # noqa: F811
    flags = ["--data", write("all.jsonl", ties=range(12)), "--model", start, "--out", tmp_path / "run"]
    assert train(*words[:1], *flags, *words[1:]) == 2
    shown = capsys.readouterr().err
    assert "TooFewLabels" in shown
    assert "all 12 usable rows are ties" in shown
