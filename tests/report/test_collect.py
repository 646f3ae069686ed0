"""Every number of a run directory is collected, and none of the evaluation's is lost."""

from __future__ import annotations

import json

import pytest

from logratio.errors import FileNotReadable, NotWritable
from logratio.report import collect, render
from logratio.report.collect import merge, scrub
from report import run_directories


@pytest.fixture
def quickstart(tmp_path):
    return run_directories.write_quickstart(tmp_path / "quickstart")


def test_nothing_that_the_evaluation_wrote_is_lost(quickstart):
    before = run_directories.evaluation()
    render(quickstart)
    after = json.loads((quickstart / "report.json").read_text())
    for name in before.keys() - {"stages", "data", "provenance"}:
        assert after[name] == before[name], name
    for name in ("data", "provenance"):
        assert before[name].items() <= after[name].items()
    sft = next(row for row in after["stages"] if row["name"] == "sft")
    assert before["stages"][0].items() <= sft.items()


def test_rendering_twice_changes_nothing(quickstart):
    render(quickstart)
    first = (quickstart / "report.json").read_text(), (quickstart / "report.html").read_text()
    render(quickstart)
    assert ((quickstart / "report.json").read_text(), (quickstart / "report.html").read_text()) == first


def test_curves_laws_cost_and_settings_of_each_stage(quickstart):
    training = collect(quickstart)["training"]
    assert list(training) == ["sft", "dpo"]
    dpo = training["dpo"]
    assert dpo["curves"]["loss"] == [row["loss"] for row in run_directories.dpo_rows()]
    assert dpo["curves"]["step"] == list(range(1, 121))
    assert dpo["invariants"] == run_directories.INVARIANTS
    assert dpo["updates"] == 120
    assert dpo["examples"] == 960
    assert dpo["peak_memory_bytes"] == 2_410_000_000
    assert dpo["settings"]["identity"]["data_sha256"] == "ab" * 32


def test_stages_stand_in_order_with_every_number(quickstart):
    rows = collect(quickstart)["stages"]
    assert [row["name"] for row in rows] == ["reference", "sft", "policy"]
    assert [row["reward"] for row in rows] == [0.262, 0.331, 0.448]
    assert [row["kl"] for row in rows] == [0.0, 1.21, 4.37]
    assert rows[2]["win_rate"]["n"] == 160
    assert rows[1]["win_rate"]["value"] == 0.55


def test_a_newer_evaluation_replaces_the_numbers_of_an_older_report(quickstart):
    render(quickstart)
    (quickstart / "evaluation").mkdir()
    newer = run_directories.evaluation(reward={"reference": 0.2, "sft": 0.3, "policy": 0.9})
    (quickstart / "evaluation" / "report.json").write_text(json.dumps(newer))
    report = collect(quickstart)
    assert report["reward"]["policy"] == 0.9
    assert [row["reward"] for row in report["stages"]] == [0.2, 0.3, 0.9]
    assert report["written_by_evaluate"] == {"keep": "me"}


def test_warnings_of_the_evaluation_stay_and_ours_are_made_anew(tmp_path):
    theirs = {"name": "OptimisedProxy", "severity": "warning", "what": "w", "meaning": "m", "action": "a"}
    run = run_directories.write_quickstart(
        tmp_path / "run", warnings=[theirs], kl={"sft": 1.0, "policy": 40.0}
    )
    render(run)
    report = json.loads((run / "report.json").read_text())
    assert [one["name"] for one in report["warnings"]] == ["FarFromReference", "OptimisedProxy"]
    report["kl"]["policy"] = 4.0
    (run / "report.json").write_text(json.dumps(report))
    assert [one["name"] for one in collect(run)["warnings"]] == ["OptimisedProxy"]


def test_a_lone_training_run(tmp_path):
    run = run_directories.write_training(
        tmp_path / "run", run_directories.dpo_rows(9), invariants=run_directories.INVARIANTS
    )
    report = collect(run)
    assert list(report["training"]) == ["dpo"]
    assert report["training"]["dpo"]["finished"] is True
    assert len(report["missing"]) == 1
    assert report["missing"][0].startswith("No evaluation")


def test_counts_of_a_training_run(tmp_path):
    run = run_directories.write_training(tmp_path / "run", run_directories.dpo_rows(9), invariants=[])
    counts = {
        "num_rows": 80,
        "num_usable": 77,
        "unusable": {"EmptyAnswer": 2, "BadRoles": 1},
        "faults": {"EmptyAnswer": [{"where": "a:1"}, {"where": "a:2"}], "BadRoles": [{"where": "a:9"}]},
        "train": 72,
        "held_out": 5,
        "reasons": [],
        "length_bias": {"accuracy": 0.7, "unit": "tokens"},
        "truncated": {"chosen": 1, "rejected": 0},
        "warnings": ["both answers begin with the whole prompt in 3 rows"],
        "refuses_training": False,
    }
    (run / "data.json").write_text(json.dumps(counts))
    assert collect(run)["data"]["dpo"] == {
        "num_rows": 80,
        "num_usable": 77,
        "unusable": {"EmptyAnswer": 2, "BadRoles": 1},
        "train": 72,
        "held_out": 5,
        "truncated": {"chosen": 1, "rejected": 0},
    }
    render(run)
    assert [one["what"] for one in collect(run)["warnings"]] == [
        "Training data: both answers begin with the whole prompt in 3 rows."
    ]


def test_a_run_whose_last_line_is_being_written(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    run_directories.write_lines(run / "metrics.jsonl", run_directories.dpo_rows(3))
    with open(run / "metrics.jsonl", "a") as stream:
        stream.write('{"stage": "dpo", "step": 4, "lo')
    assert collect(run)["training"]["dpo"]["updates"] == 3


def test_a_run_that_has_logged_nothing_yet(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("")
    assert render(run).exists()
    assert "0 updates" in collect(run)["missing"][1]


def test_an_evaluation_alone(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(run_directories.evaluation()))
    report = collect(tmp_path)
    assert report["verdict"]["outcome"] == "better"
    assert report["missing"][0].startswith("No training run")


def test_answers_and_changes_come_from_samples_where_the_report_has_none(tmp_path):
    written = run_directories.evaluation()
    del written["samples"], written["reward_differences"]
    (tmp_path / "report.json").write_text(json.dumps(written))
    rows = run_directories.sample_rows(20)
    run_directories.write_lines(tmp_path / "samples.jsonl", rows)
    report = collect(tmp_path)
    assert len(report["samples"]) == 20
    assert report["reward_differences"] == [
        row["answers"]["policy"]["reward"] - row["answers"]["reference"]["reward"] for row in rows
    ]


def test_what_json_and_utf8_cannot_hold_is_written_all_the_same(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    row = '{"stage": "dpo", "step": 1, "loss": NaN, "margin": Infinity, "accuracy": 0.5}\n'
    (run / "metrics.jsonl").write_text(row)
    (run / "samples.jsonl").write_text(json.dumps({"prompt": "lone \ud800", "answers": {}}) + "\n")
    render(run)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert report["training"]["dpo"]["curves"]["loss"] == [None]
    assert report["samples"][0]["prompt"] == "lone \ufffd"


@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_no_run(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "empty":
        path.mkdir()
    if kind == "file":
        path.write_text("x")
    with pytest.raises(FileNotReadable) as caught:
        collect(path)
    assert caught.value.where == str(path)
    assert caught.value.action


def test_a_page_that_cannot_be_written_is_a_named_fault(quickstart, monkeypatch):
    def refuse(*arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("logratio.run_directory.os.replace", refuse)
    with pytest.raises(NotWritable):
        render(quickstart)
    assert sorted(file.name for file in quickstart.glob("*report*")) == ["report.json"]
    assert json.loads((quickstart / "report.json").read_text()) == run_directories.evaluation()


def test_merge_keeps_both_and_prefers_the_second():
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2], "e": 4}) == {
        "a": {"b": 1, "c": 3},
        "d": [2],
        "e": 4,
    }


def test_scrub_reaches_every_depth():
    value = {"a": [float("nan"), {"b": ("\udfff", 1)}], 1: True}
    assert scrub(value) == {"a": [None, {"b": ["\ufffd", 1]}], "1": True}
