from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest

from cli.tiny_quickstart import done, weights
from logratio.cli.main import main
from logratio.cli.quickstart import context as quickstart_bench
from logratio.cli.quickstart import stages
from logratio.cli.quickstart.command import run
from logratio.errors import BadConfig, BadReward, Interrupted, ResumeMismatch, RunExists, TooFewLabels
from logratio.run_directory import read_json_lines, write_json, write_json_lines
from logratio.training.loop import Session

STAGES = ["prompts", "answers", "labels", "sft", "dpo", "evaluation"]


def test_the_whole_way(arguments, capsys):
    assert run(arguments) == 0
    out = arguments.out
    printed = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"]["sentence"] in printed
    assert str(out / "report.html") in printed
    assert report["verdict"]["judge"] == "lr_quick_rewards:letters"
    assert report["win_rate"]["n"] == 6
    assert set(report["reward"]) == {"reference", "sft", "policy"}
    assert report["kl"]["policy"] > 0
    assert set(report["training"]) == {"sft", "dpo"}
    assert report["training"]["dpo"]["curves"]["loss"][0] == pytest.approx(0.693147, abs=1e-4)
    assert [invariant["name"] for invariant in report["invariants"]] == ["sampled_equals_recomputed"]
    assert set(report["provenance"]["stage_seconds"]) == set(STAGES)
    assert report["verdict"]["outcome"] in (out / "report.html").read_text()

    train = {row["prompt"] for row in read_json_lines(out / "prompts.jsonl")}
    held_out = {row["prompt"] for row in read_json_lines(out / "held_out.jsonl")}
    assert (len(train), len(held_out), train & held_out) == (10, 6, set())
    completions = read_json_lines(out / "completions.jsonl")
    assert {row["prompt"] for row in completions} == train
    assert all(len(row["completions"]) == 3 for row in completions)
    counts = report["data"]["labelling"]
    comparisons = read_json_lines(out / "comparisons.jsonl")
    assert counts["labelled"] == len(comparisons) == report["data"]["dpo"]["num_usable"]
    assert {row["prompt"] for row in comparisons} <= train
    assert not [one for one in report["checks"] if one["name"] == "CountsDoNotAddUp" and one["raised"]]
    assert len(json.loads((out / "training_prompts.json").read_text())) == 10
    assert not list(out.glob("**/*.partial.jsonl"))
    assert not list(out.glob("**/checkpoints"))

    before = weights(out)
    assert run(arguments) == 0
    assert done(capsys) == []
    assert weights(out) == before


@pytest.mark.usefixtures("no_evaluation")
def test_after_a_change_only_what_depends_on_it_is_done_again(arguments, capsys):
    run(arguments)
    before = weights(arguments.out)
    assert done(capsys) == STAGES
    changed = replace(arguments, dpo=replace(arguments.dpo, beta=0.5))
    run(changed)
    assert done(capsys) == ["dpo", "evaluation"]
    after = weights(arguments.out)
    assert after["sft"] == before["sft"]
    assert after["dpo"] != before["dpo"]
    assert json.loads((arguments.out / "config.json").read_text())["settings"]["dpo"]["beta"] == 0.5
    run(replace(changed, label_temperature=1.0))
    assert done(capsys) == ["labels", "sft", "dpo", "evaluation"]
    (arguments.out / "completions.jsonl").unlink()
    run(replace(changed, label_temperature=1.0))
    assert done(capsys) == ["answers"]  # the same answers came out, so that all that follows stands


@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_training_stopped_in_the_middle_goes_on_to_the_same_weights(arguments, capsys, monkeypatch, stage):
    real = Session.update

    def update(self, step, examples, metrics):
        real(self, step, examples, metrics)
        if self.stage == stage and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "update", update)
        with pytest.raises(Interrupted, match="same command again") as fault:
            run(arguments)
    assert fault.value.exit_status == 143
    capsys.readouterr()
    run(arguments)
    assert done(capsys) == STAGES[STAGES.index(stage) :]
    whole = replace(arguments, out=arguments.out.with_name("whole"))
    run(whole)
    assert weights(arguments.out) == weights(whole.out)
    steps = [row["step"] for row in read_json_lines(arguments.out / stage / "metrics.jsonl")]
    assert steps == [1, 2, 3]


@pytest.mark.usefixtures("no_evaluation")
def test_a_stop_between_training_and_saving(arguments, monkeypatch):
    def stop(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            run(arguments)
    run(arguments)
    whole = replace(arguments, out=arguments.out.with_name("whole"))
    run(whole)
    assert weights(arguments.out) == weights(whole.out)


@pytest.mark.usefixtures("no_evaluation")
def test_answers_drawn_before_a_stop_are_kept(arguments, monkeypatch):
    drawn = []
    real = stages.PartialAnswers.add

    def add(self, placed):
        real(self, placed)
        drawn.extend(placed)
        if 8 <= len(drawn) < 100:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages.PartialAnswers, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run(replace(arguments, batch_size=4))
        kept = len(drawn)
        drawn.extend([None] * 100)
        run(replace(arguments, batch_size=4))
    assert 8 <= kept < 30
    assert len(drawn) - 100 == 30
    whole = replace(arguments, out=arguments.out.with_name("whole"))
    run(whole)
    for one, other in zip(
        read_json_lines(arguments.out / "completions.jsonl"),
        read_json_lines(whole.out / "completions.jsonl"),
        strict=True,
    ):
        assert one["prompt"] == other["prompt"]
        assert [a["text"] for a in one["completions"]] == [a["text"] for a in other["completions"]]


@pytest.mark.usefixtures("no_evaluation")
def test_prompts_of_your_own_with_messages_and_columns(arguments, tmp_path):
    rows = [
        {"prompt": f"the cat {number}", "letter": "abc"[number % 3], "completions": ["old"]}
        for number in range(12)
    ]
    rows += rows[:2]
    write_json_lines(tmp_path / "mine.jsonl", rows)
    mine = replace(
        arguments, prompts=tmp_path / "mine.jsonl", reward="lr_quick_rewards:wanted", num_held_out=4
    )
    assert run(mine) == 0
    counts = json.loads((arguments.out / "counts.json").read_text())["prompts"]
    assert (counts["train_prompts"], counts["held_out_prompts"], counts["duplicate_prompts"]) == (8, 4, 2)
    assert all("letter" in row for row in read_json_lines(arguments.out / "held_out.jsonl"))
    messages = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    write_json_lines(tmp_path / "turns.jsonl", messages)
    turns = replace(mine, prompts=tmp_path / "turns.jsonl", reward=arguments.reward, out=tmp_path / "turns")
    assert run(turns) == 0


def test_too_few_prompts(arguments, tmp_path):
    (tmp_path / "few.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(TooFewLabels, match="3 distinct prompts"):
        run(replace(arguments, prompts=tmp_path / "few.txt", num_held_out=3))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"label_temperature": -1.0}, BadConfig),
        ({"num_samples": 1}, BadConfig),
        ({"num_held_out": 1}, BadConfig),
        ({"num_train": 0}, BadConfig),
        ({"max_new_tokens": 0}, BadConfig),
        ({"device": "abacus"}, BadConfig),
        ({"reward": "lr_quick_rewards:leters"}, BadReward),
        ({"reward": "lr_quick_rewards:broken"}, BadReward),
    ],
)
def test_faults_are_found_before_a_model_is_loaded(arguments, monkeypatch, changes, fault):
    def load(*_arguments, **_options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(quickstart_bench, "load", load)
    with pytest.raises(fault):
        run(replace(arguments, **changes))


def test_somebody_elses_files_are_not_touched(arguments):
    arguments.out.mkdir()
    (arguments.out / "comparisons.jsonl").write_text("mine\n")
    with pytest.raises(RunExists, match=r"comparisons\.jsonl"):
        run(arguments)
    assert (arguments.out / "comparisons.jsonl").read_text() == "mine\n"


def test_another_kind_of_run_is_not_touched(arguments):
    write_json(arguments.out / "config.json", {"identity": {"stage": "dpo"}, "mine": 1})
    with pytest.raises(ResumeMismatch):
        run(arguments)
    assert json.loads((arguments.out / "config.json").read_text())["mine"] == 1


def test_help_teaches(capsys):
    assert main(["quickstart", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--dpo.beta" in out
    assert "--reward" in out
