"""`logratio evaluate` on tiny models, as a person would call it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from logratio.cli.main import main
from logratio.errors import BadConfig
from logratio.models.loading import save
from logratio.models.reward_model import add_score_head
from logratio.recipes.evaluate import model_sources
from logratio.recipes.evaluation_config import EvaluateSettings
from logratio.records import Prompt
from tiny_models import tiny_llama, tiny_tokenizer

REWARD = """
def letters(prompts, completions, bonus=None, **columns):
    bonus = bonus or [0.0] * len(completions)
    return [len(text) + extra for text, extra in zip(completions, bonus)]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    for seed, name in enumerate(("policy", "sft", "reference")):
        save(tiny_llama(len(tokenizer), seed=seed, spread=0.1), tokenizer, root / name)
    return root


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a reward and prompts, of which one stands twice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters_reward.py").write_text(REWARD)
    rows = [{"prompt": f"the dog ran {index % 9}", "bonus": 0.5} for index in range(10)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def flags(models, **changed):
    given = {
        "policy": models / "policy",
        "reference": models / "reference",
        "prompts": "prompts.jsonl",
        "reward": "letters_reward:letters",
        "max-new-tokens": 4,
        "out": "out",
    } | {name.replace("_", "-"): value for name, value in changed.items()}
    return ["evaluate", *(str(word) for name, value in given.items() for word in (f"--{name}", value))]


def test_it_writes_a_report_and_prints_the_verdict(models, place, capsys):
    assert main(flags(models, also=f"sft={models / 'sft'}", num_prompts=8)) == 0
    printed = capsys.readouterr().out
    report = json.loads((place / "out/report.json").read_text())
    assert report["verdict"]["sentence"] in printed
    assert "out/report.json" in printed
    assert report["win_rate"]["n"] == 8
    assert set(report["kl"]) == {"policy", "sft"}
    assert report["data"]["evaluation"] == {
        "prompts_in_file": 10,
        "duplicates": 1,
        "not_chosen": 1,
        "evaluated": 8,
    }
    assert set(report["provenance"]["models"]) == {"policy", "sft", "reference"}
    assert report["provenance"]["prompts"]["file"] == "prompts.jsonl"
    rows = [json.loads(line) for line in (place / "out/samples.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert list(rows[0]["answers"]) == ["reference", "sft", "policy"]
    for row in rows:
        for answer in row["answers"].values():
            assert answer["reward"] == len(answer["text"]) + 0.5


def test_the_same_command_gives_the_same_numbers(models, place):
    assert main(flags(models)) == 0
    assert main(flags(models, out="again", decode_batch_size=3)) == 0
    first, second = (json.loads((place / name / "report.json").read_text()) for name in ("out", "again"))
    for report in (first, second):
        del report["provenance"]
    assert first == second


def test_prompts_that_were_trained_on_are_refused_with_their_line(models, place, capsys):
    run = place / "run"
    run.mkdir()
    (run / "model").symlink_to(models / "policy")
    (run / "training_prompts.json").write_text(json.dumps([Prompt("the dog ran 3").key]))
    assert main(flags(models, policy=run)) == 2
    error = capsys.readouterr().err
    assert "SplitLeak: 1 of 9 prompts were trained on" in error
    assert "prompts.jsonl:4" in error
    assert not (place / "out/report.json").exists()


def test_a_reference_may_have_been_trained_on_anything(models, place):
    run = place / "run"
    run.mkdir()
    (run / "model").symlink_to(models / "reference")
    (run / "training_prompts.json").write_text(json.dumps([Prompt("the dog ran 3").key]))
    assert main(flags(models, reference=run)) == 0


def test_the_reward_that_training_used_is_called_a_proxy(models, place, capsys):
    run = place / "run"
    run.mkdir()
    (run / "model").symlink_to(models / "policy")
    (run / "config.json").write_text(json.dumps({"reward": "letters_reward:letters"}))
    assert main(flags(models, policy=run)) == 0
    report = json.loads((place / "out/report.json").read_text())
    assert [warning["name"] for warning in report["warnings"]] == ["OptimisedProxy"]
    assert "optimised proxy" in capsys.readouterr().out


def judging_run(place, prompts):
    """A run directory of a reward model that was trained on these prompts."""
    tokenizer = tiny_tokenizer()
    save(add_score_head(tiny_llama(len(tokenizer)), source="tiny", seed=0), tokenizer, place / "rm" / "model")
    keys = [Prompt(prompt).key for prompt in prompts]
    (place / "rm" / "training_prompts.json").write_text(json.dumps(keys))
    return place / "rm"


def test_a_judge_that_has_seen_prompts_is_warned_of(models, place, capsys):
    judge = judging_run(place, ["the dog ran 3", "the dog ran 5", "another"])
    assert main(flags(models, reward=judge)) == 0
    report = json.loads((place / "out/report.json").read_text())
    (warning,) = report["warnings"]
    assert (warning["name"], warning["severity"]) == ("JudgeSawPrompts", "warning")
    assert f"{report['verdict']['judge']} was trained on 2 of the 9 prompts" in warning["what"]
    assert f"warning: {warning['what']}" in capsys.readouterr().out
    # The model's own directory is of the same run.
    assert main(flags(models, reward=judge / "model", out="again")) == 0
    assert json.loads((place / "again/report.json").read_text())["warnings"] == [warning]


def test_a_judge_that_has_seen_other_prompts_is_not(models, place):
    assert main(flags(models, reward=judging_run(place, ["another", "and another"]))) == 0
    assert json.loads((place / "out/report.json").read_text())["warnings"] == []


def test_a_function_has_seen_nothing_whatever_lies_where_it_is_called(models, place):
    (place / "training_prompts.json").write_text(json.dumps([Prompt("the dog ran 3").key]))
    elsewhere = place.parent / f"{place.name}-out"
    assert main(flags(models, out=elsewhere)) == 0
    assert json.loads((elsewhere / "report.json").read_text())["warnings"] == []


def test_a_report_is_not_written_over(models, place, capsys):
    assert main(flags(models)) == 0
    assert main(flags(models)) == 2
    assert "RunExists" in capsys.readouterr().err
    assert main([*flags(models), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"num_prompts": 1}, "TooFewLabels"),
        ({"num_prompts": -1}, "BadConfig"),
        ({"seed": -1}, "BadConfig"),
        ({"max_new_tokens": 0}, "BadConfig"),
        ({"temperature": -1}, "BadConfig"),
        ({"device": "abacus"}, "BadConfig"),
        ({"dtype": "int3"}, "BadConfig"),
        ({"also": "sft"}, "BadConfig"),
        ({"also": "policy=elsewhere"}, "BadConfig"),
        ({"reward": "letters_reward:lettres"}, "BadReward"),
        ({"prompts": "nothing.jsonl"}, "FileNotReadable"),
        ({"policy": "nothing/here"}, "ModelNotFound"),
        ({"out": "prompts.jsonl"}, "BadConfig"),
    ],
)
def test_bad_input_is_named_before_a_model_is_loaded(models, place, capsys, monkeypatch, changed, fault):
    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("logratio.models.loading.load", refuse)
    assert main(flags(models, **changed)) == 2
    error = capsys.readouterr().err
    assert any(line.startswith(f"{fault}: ") for line in error.splitlines())
    assert "  do:    " in error
    assert not (place / "out/report.json").exists()


def test_models_of_two_families_are_refused_before_they_are_loaded(models, place, capsys, tmp_path):
    plain = tiny_tokenizer(chat=False)
    save(tiny_llama(len(plain)), plain, tmp_path / "plain")
    assert main(flags(models, policy=tmp_path / "plain")) == 2
    assert "ReferenceAliased" in capsys.readouterr().err


def test_help_teaches(capsys):
    assert main(["evaluate", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("--policy", "--reference", "--also", "held-out", "win rate", "not shown"):
        assert word in " ".join(shown.lower().split())


def test_names_of_models_between_are_composed_and_lookalikes_said(capsys):
    given = EvaluateSettings(policy="embedded", reference="embedded", prompts=Path("p.jsonl"), reward="r:r")
    with pytest.raises(BadConfig, match="does not name another model"):
        model_sources(replace(given, also=("x\u00e9=embedded", "xe\u0301=embedded")))
    capsys.readouterr()
    named = model_sources(replace(given, also=("xe\u0301=embedded", "Policy=embedded")))
    assert list(named) == ["reference", "x\u00e9", "Policy", "policy"]
    said = capsys.readouterr().err
    assert "note: --also: 'Policy' and 'policy' differ only in capitals, and count as two names" in said
