"""`logratio check`: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from logratio.cli.main import main
from logratio.models import loading
from logratio.models.input_limits import ModelLimits
from tiny_models import tiny_tokenizer

GOOD = [
    {"prompt": f"the cat {n}", "chosen": " sat" + " down" * (n % 2), "rejected": " ran on"} for n in range(40)
]
BAD = [
    {"prompt": "a", "chosen": " ", "rejected": "b"},
    {"prompt": "a", "chosen": "[red]same\x1b[2J", "rejected": "[red]same\x1b[2J"},
    {"prompt": "a", "choosen": "x", "rejected": "b"},
]


@pytest.fixture
def check(tmp_path, capsys):
    def run(rows, *flags):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        status = main(["check", "--data", str(path), *flags])
        return status, capsys.readouterr()

    return run


def test_good_data_passes(check):
    status, shown = check(GOOD)
    assert status == 0
    assert "40 rows: 40 usable, 0 left out" in shown.out
    assert "training can begin" in shown.out
    assert shown.err == ""


def test_faults_are_listed_by_line_and_training_refused(check, tmp_path):
    status, shown = check([*GOOD[:3], *BAD])
    assert status == 1
    assert "6 rows: 3 usable, 3 left out (1 EmptyAnswer, 1 IdenticalPair, 1 MissingColumn)" in shown.out
    for name, line in (("EmptyAnswer", 4), ("IdenticalPair", 5), ("MissingColumn", 6)):
        assert f"\n{name}: 1\n  {tmp_path / 'data.jsonl'}:{line}  " in shown.out
    assert "rename 'choosen' to 'chosen'" in shown.out
    assert "training would be refused: 3 of 6 rows" in shown.out
    assert "training can begin" not in shown.out


def test_what_a_row_holds_cannot_command_the_terminal(check):
    _, shown = check([*GOOD, *BAD, {"\x1b[2J\nforged": 1}])
    assert "\x1b" not in shown.out
    assert "\nforged" not in shown.out
    assert "[red]same" in shown.out


def test_a_few_bad_rows_do_not_refuse_training(check):
    assert check([*GOOD, *BAD])[0] == 0
    assert check([*GOOD, *BAD], "--max-unusable-share", "0.05")[0] == 1


def test_the_first_few_places_or_all(check):
    rows = GOOD + [BAD[0]] * 5
    shown = check(rows, "--max-unusable-share", "1")[1].out
    assert "data.jsonl:43" in shown
    assert "data.jsonl:44" not in shown
    assert "and 2 more" in shown
    shown = check(rows, "--all")[1].out
    assert "data.jsonl:45" in shown
    assert "more (" not in shown


def test_every_number_and_every_place_is_in_the_json(check, tmp_path):
    out = tmp_path / "check.json"
    check(
        [*GOOD, *[BAD[0]] * 5, GOOD[0], GOOD[1] | {"chosen": " ran on", "rejected": GOOD[1]["chosen"]}],
        "--json",
        str(out),
    )
    written = json.loads(out.read_text())
    assert written["num_rows"] == 47
    assert written["unusable"] == {"EmptyAnswer": 5, "ContradictoryLabels": 2}
    assert [row["where"].rpartition(":")[2] for row in written["faults"]["EmptyAnswer"]] == [
        "41",
        "42",
        "43",
        "44",
        "45",
    ]
    assert [row["where"].rpartition(":")[2] for row in written["faults"]["ContradictoryLabels"]] == [
        "2",
        "47",
    ]
    assert len(written["duplicates"]) == len(written["contradictions"]) == 1
    assert written["length_bias"]["unit"] == "characters"
    assert written["refuses_training"] is True


def test_a_model_adds_what_its_tokenizer_shows(check, monkeypatch):
    monkeypatch.setattr(loading, "load_tokenizer", lambda source: tiny_tokenizer())
    monkeypatch.setattr(loading, "read_limits", lambda source: ModelLimits())
    status, shown = check(
        [*GOOD, {"prompt": "x" * 99, "chosen": "a", "rejected": "b"}], "--model", "m", "--max-length", "60"
    )
    assert status == 0
    assert "PromptTooLong: 1" in shown.out
    assert "length in tokens" in shown.out
    assert "answers cut at the end: chosen 0 (0.0%), rejected 0 (0.0%)" in shown.out
    assert "boundary mismatches: 0" in shown.out


def test_a_missing_file_is_a_fault_before_a_model_is_opened(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "load_tokenizer", lambda source: pytest.fail("too early"))
    assert main(["check", "--data", str(tmp_path / "none.jsonl"), "--model", "m"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("FileNotReadable: ")
    assert "none.jsonl" in shown
    assert "Traceback" not in shown


def test_a_check_without_a_model_imports_no_torch(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(GOOD[0]))
    program = (
        "import sys; from logratio.cli.main import main; "
        f"status = main(['check', '--data', {str(path)!r}]); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules or status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_answers_of_equal_length_say_nothing_of_length(tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"say {n}", "chosen": "good", "rejected": "evil"} for n in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["check", "--data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "no pair has answers of unequal length" in shown
    assert "50.0%" not in shown
