"""`logratio report RUN`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from logratio.cli.main import main
from report import control_runs, run_directories


def test_prints_the_verdict_and_where_the_files_are(tmp_path, capsys):
    run = run_directories.write_quickstart(tmp_path / "quickstart")
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The policy is better than the reference")
    assert str(run / "report.html") in out
    assert str(run / "report.json") in out
    assert (run / "report.html").stat().st_size > 10_000


def test_a_verdict_beyond_its_interval_is_not_printed(tmp_path, capsys):
    rate = {"value": 0.52, "low": 0.44, "high": 0.6, "n": 160}
    run = run_directories.write_quickstart(tmp_path / "quickstart", win_rate=rate)
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert "is better than the reference" not in out
    assert "does not show a difference" in out
    assert "serious: VerdictBeyondInterval" in out


def test_a_lone_unfinished_training_run_says_what_is_missing(tmp_path, capsys):
    run = tmp_path / "dpo"
    run.mkdir()
    run_directories.write_lines(run / "metrics.jsonl", run_directories.dpo_rows(7))
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert "There is no verdict." in out
    assert "No evaluation" in out
    assert "dpo has not finished: 7 updates" in out
    assert json.loads((run / "report.json").read_text())["training"]["dpo"]["updates"] == 7


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys):
    verdict = {"outcome": "better", "sentence": "fine \x1b[2J\u202e", "judge": "x"}
    run = run_directories.write_quickstart(tmp_path / "quickstart", verdict=verdict)
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "fine ⟨U+001B⟩[2J⟨U+202E⟩" in out


@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_what_is_no_run_is_a_named_fault_that_names_the_runs_near_it(tmp_path, capsys, kind):
    run_directories.write_quickstart(tmp_path / "quickstart")
    path = tmp_path / "other"
    if kind == "empty":
        path.mkdir()
    if kind == "file":
        path.write_text("text")
    assert main(["report", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("FileNotReadable: ")
    assert f"where: {path}" in err
    assert str(tmp_path / "quickstart") in err
    assert not (path / "report.html").exists()


def test_a_report_that_is_not_json_is_a_named_fault_and_is_left_alone(tmp_path, capsys):
    run = run_directories.write_quickstart(tmp_path / "quickstart")
    (run / "report.json").write_text('{"verdict": ')
    assert main(["report", str(run)]) == 2
    assert "report.json is not JSON" in capsys.readouterr().err
    assert (run / "report.json").read_text() == '{"verdict": '
    assert not (run / "report.html").exists()


def test_open_shows_the_page(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("webbrowser.open", lambda address: shown.append(address) or True)
    run = run_directories.write_quickstart(tmp_path / "quickstart")
    assert main(["report", str(run), "--open"]) == 0
    assert shown == [(run / "report.html").as_uri()]


def test_help_teaches(capsys):
    assert main(["report", "--help"]) == 0
    out = capsys.readouterr().out
    assert "logratio report runs/quickstart" in out
    assert "--open" in out


def test_reading_a_report_loads_neither_torch_nor_transformers(tmp_path):
    run = run_directories.write_quickstart(tmp_path / "quickstart")
    script = (
        "import sys; from logratio.cli.main import main; status = main(['report', sys.argv[1]]); "
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_in_an_environment_is_told_by_its_return(tmp_path, capsys):
    """It has no reference beside it, so that nothing is said of a verdict."""
    path = control_runs.write_one(tmp_path / "run", control_runs.rows(), seed=4)
    assert main(["report", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("300.0 ± 10.0 mean return of 2 episodes, seed 4\n")
    assert "verdict" not in said
