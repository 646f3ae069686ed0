"""`logratio quickstart --with ppo`: what it adds to a run, in what order, and how it goes on after a stop."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from math import exp, log
from statistics import fmean

import pytest
import tyro

from logratio.algorithms.ppo import PPOConfig
from logratio.algorithms.reward import RewardConfig
from logratio.cli.quickstart import run
from logratio.errors import BadConfig, Interrupted, PolicyRunaway
from logratio.recipes.quickstart import context as quickstart_bench
from logratio.recipes.quickstart import ppo as quickstart_ppo
from logratio.recipes.quickstart import stages as quickstart_stages
from logratio.recipes.quickstart.config import PPOAnswers, QuickstartConfig
from logratio.recipes.quickstart.ppo import CANDIDATES_AT_A_TIME, shaped_rewards, sizes_to
from logratio.records import Completion, Prompt, Sample
from logratio.rollouts.collector_config import CollectorConfig
from logratio.run_directory import read_json_lines
from logratio.training.loop import Session
from recipes.quickstart.small_quickstart import done, names_done, weights, with_ppo

ADDED = ["reward", "ppo", "candidates", "best-of-n"]
STAGES = ["prompts", "answers", "labels", "sft", "dpo", *ADDED, "evaluation"]
GOLD = "lr_quick_rewards:letters"


def read(path):
    return json.loads(path.read_text())


def test_a_run_without_ppo_goes_on_with_it(arguments, capsys):
    run(arguments)
    before = weights(arguments.out)
    stood = read(arguments.out / "stages.json")
    capsys.readouterr()
    assert run(with_ppo(arguments)) == 0
    out, printed = arguments.out, capsys.readouterr().out
    report = read(out / "report.json")
    assert names_done(printed) == [*ADDED, "evaluation"]
    assert weights(out) == before
    stages = read(out / "stages.json")
    assert all(stages[name] == stood[name] for name in STAGES[:5])
    assert report["verdict"]["sentence"] in printed
    assert [line.split("  ")[0] for line in printed.splitlines() if " wins " in line][-2:] == [
        "PPO",
        "best of 4",
    ]
    check_methods(report, out)
    check_frontier(report, out)
    check_training(report, out)
    assert not list(out.glob("**/*.partial.jsonl"))
    assert not list(out.glob("**/checkpoints"))

    made = weights(out, "sft", "dpo", "reward", "ppo")
    run(with_ppo(arguments))
    assert done(capsys) == []
    assert weights(out, "sft", "dpo", "reward", "ppo") == made


def check_methods(report, out):
    """`methods` in report.json against the answers themselves."""
    methods = report["methods"]
    assert set(methods) == {"dpo", "ppo", "best_of_n"}
    for name, stage in {"dpo": "policy", "ppo": "ppo"}.items():
        assert methods[name]["reward"] == report["reward"][stage]
        assert methods[name]["kl"] == report["kl"][stage] > 0
        assert methods[name]["win_rate"]["n"] == 6
    assert methods["dpo"]["win_rate"] == report["win_rate"]
    judged = read(out / "judged.json")
    picks = [
        own[max(range(4), key=proxy.__getitem__)]
        for own, proxy in zip(judged["gold"], judged["proxy"], strict=True)
    ]
    rows = read_json_lines(out / "evaluation" / "samples.jsonl")
    references = [row["answers"]["reference"]["reward"] for row in rows]
    wins = [(a > b) + (a == b) / 2 for a, b in zip(picks, references, strict=True)]
    best = methods["best_of_n"]
    assert best["n"] == 4
    assert best["reward"] == pytest.approx(fmean(picks))
    assert best["win_rate"]["value"] == pytest.approx(fmean(wins))
    assert best["kl"] == pytest.approx(log(4) - 3 / 4)
    assert best["kl_is_bound"]


def check_frontier(report, out):
    """`frontier` in report.json against the answers themselves."""
    frontier, judged = report["frontier"], read(out / "judged.json")
    assert (frontier["prompts"], frontier["samples_a_prompt"]) == (2, 120)
    assert [point["n"] for point in frontier["best_of_n"]] == [1, 2, 4]
    everything = [value for own in judged["gold"] for value in own]
    assert frontier["best_of_n"][0]["reward"] == pytest.approx(fmean(everything))
    assert frontier["upper_bound"]
    assert all(point["effective_samples"] >= 100 for point in frontier["upper_bound"])
    # The bound begins at the reference as the evaluation has measured it, not as these few prompts have.
    first = frontier["upper_bound"][0]
    gains = [tilted(own, first["beta"]) - fmean(own) for own in judged["dense"]]
    assert first["reward"] == pytest.approx(report["reward"]["reference"] + fmean(gains), abs=1e-9)

    held_out = [row["prompt"] for row in read_json_lines(out / "held_out.jsonl")]
    candidates = read_json_lines(out / "best_of_n.jsonl")
    dense = read_json_lines(out / "upper_bound.jsonl")
    assert [row["prompt"] for row in candidates] == held_out
    assert [row["prompt"] for row in dense] == held_out[:2]
    assert [len(row["completions"]) for row in (*candidates, *dense)] == [4] * 6 + [120] * 2
    rows = read_json_lines(out / "evaluation" / "samples.jsonl")
    compared = {row["answers"]["reference"]["seed"] for row in rows}
    drawn = {answer["seed"] for row in (*candidates, *dense) for answer in row["completions"]}
    # What competes with the reference's answers is not those answers.
    assert not compared & drawn


def tilted(rewards, beta):
    """The mean reward under weights exp(r/β)."""
    weights = [exp(reward / beta) for reward in rewards]
    return sum(w * r for w, r in zip(weights, rewards, strict=True)) / sum(weights)


def check_training(report, out):
    """What the report says of the reward model and of PPO."""
    assert list(report["training"]) == ["sft", "reward", "dpo", "ppo"]
    assert set(report["reward"]) == {"reference", "sft", "ppo", "policy"}
    found = report["reward_model"]
    held_out = {row["prompt"] for row in read_json_lines(out / "reward" / "held_out.jsonl")}
    assert found["accuracy"]["n"] == len(held_out) > 0
    trained = read(out / "reward" / "training_prompts.json")
    assert len(trained) + len(held_out) == 10
    assert found["judge_accuracy"]["n"] == len(held_out)
    curves = report["training"]["ppo"]["curves"]
    assert curves["step"] == [1, 2, 3]
    assert len(curves[f"monitored/{GOLD}"]) == 3
    assert all(0 <= value <= 1 for value in curves[f"monitored/{GOLD}"])
    # What it is paid by is the reward model, and nothing else.
    (paid,) = [name for name in curves if name.startswith("reward/")]
    assert paid.startswith("reward/reward model ")
    assert curves[paid] == curves["reward"] != curves[f"monitored/{GOLD}"]
    # PPO begins at the fine-tuned model, and is charged for its distance from the first one.
    assert curves["reference_kl"][0] > 0.01
    settings = report["training"]["ppo"]["settings"]
    assert settings["model"].endswith("sft/model")
    assert settings["reference"].endswith("tiny")
    assert report["training"]["reward"]["settings"]["model"].endswith("sft/model")
    assert settings["settings"]["max_new_tokens"] == 6
    assert settings["settings"]["decode_batch_size"] == 256
    invariants = {invariant["name"] for invariant in report["training"]["ppo"]["invariants"]}
    assert {"ratio_is_one", "update_kl_is_zero", "sampled_equals_recomputed"} <= invariants


@pytest.mark.slow
@pytest.mark.usefixtures("no_evaluation")
def test_after_a_change_only_what_depends_on_it_is_done_again(arguments, capsys):
    small = with_ppo(arguments)
    run(small)
    assert done(capsys) == STAGES
    changes = [
        ({"dpo": replace(small.dpo, beta=0.5)}, ["dpo", "evaluation"]),
        ({"ppo": replace(small.ppo, clip_range=0.3)}, ["ppo", "evaluation"]),
        ({"collect": replace(small.collect, target_kl=2.0)}, ["ppo", "evaluation"]),
        ({"critic": "separate"}, ["ppo", "evaluation"]),
        (
            {"collect": replace(small.collect, truncation_penalty=1.0)},
            ["ppo", "best-of-n", "evaluation"],
        ),
        ({"best_of": 3}, ["candidates", "best-of-n", "evaluation"]),
        (
            {"reward_model": small.reward_model.replace(learning_rate=2e-3)},
            ["reward", "ppo", "best-of-n", "evaluation"],
        ),
        ({"reward_held_out": 0.0}, ["reward", "ppo", "best-of-n", "evaluation"]),
        ({"decode_batch_size": 7, "ppo": small.ppo.replace(clip_range=0.3, row_tokens=100)}, []),
    ]
    for change, expected in changes:
        small = replace(small, **change)
        run(small)
        assert done(capsys) == expected, change
    run(replace(small, label_temperature=1.0))
    assert done(capsys) == [name for name in STAGES[2:] if name != "candidates"]


@pytest.mark.usefixtures("no_evaluation")
def test_a_plain_run_afterwards_keeps_what_is_not_asked_for_until_it_is_out_of_date(arguments, capsys):
    small = with_ppo(arguments)
    run(small)
    made = weights(arguments.out, "sft", "dpo", "reward", "ppo")
    capsys.readouterr()
    run(arguments)
    assert done(capsys) == ["evaluation"]
    run(small)
    assert done(capsys) == ["evaluation"]
    assert weights(arguments.out, "sft", "dpo", "reward", "ppo") == made
    run(replace(arguments, label_temperature=1.0))
    assert not (arguments.out / "reward").exists()
    assert not (arguments.out / "ppo").exists()
    assert (arguments.out / "best_of_n.jsonl").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_training_stopped_in_the_middle_goes_on_to_the_same_weights(arguments, capsys, monkeypatch, stage):
    small, real = with_ppo(arguments), Session.log

    def log_and_stop(self, step, num_examples, metrics):
        real(self, step, num_examples, metrics)
        if self.stage == stage and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "log", log_and_stop)
        with pytest.raises(Interrupted, match="same command again"):
            run(small)
    capsys.readouterr()
    run(small)
    assert done(capsys) == STAGES[STAGES.index(stage) :]
    whole = replace(small, out=small.out.with_name("whole"))
    run(whole)
    assert weights(small.out, "reward", "ppo") == weights(whole.out, "reward", "ppo")
    assert read(small.out / "judged.json") == read(whole.out / "judged.json")
    steps = [row["step"] for row in read_json_lines(small.out / stage / "metrics.jsonl")]
    assert len(steps) > 2
    assert steps == [*range(1, len(steps) + 1)]


@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("stop_at", [8, 24 + 48])
def test_candidates_drawn_before_a_stop_are_kept(arguments, monkeypatch, stop_at):
    small, drawn = replace(with_ppo(arguments), decode_batch_size=8 // CANDIDATES_AT_A_TIME), []
    run(replace(arguments, decode_batch_size=8 // CANDIDATES_AT_A_TIME))
    real = quickstart_stages.PartialAnswers.add

    def add(self, placed):
        real(self, placed)
        before = len(drawn)
        drawn.extend(placed)
        if before < stop_at <= len(drawn):
            raise KeyboardInterrupt

    for stage in ("train_scorer", "improve", "judge_candidates"):
        monkeypatch.setattr(quickstart_ppo, stage, lambda context, key: "")
    with monkeypatch.context() as patch:
        patch.setattr(quickstart_stages.PartialAnswers, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run(small)
        assert len(drawn) == stop_at
        run(small)
    assert len(drawn) == 4 * 6 + 120 * 2
    texts = [
        [answer["text"] for row in read_json_lines(small.out / name) for answer in row["completions"]]
        for name in ("best_of_n.jsonl", "upper_bound.jsonl")
    ]
    assert sorted(answer.completion.text for answer in drawn) == sorted(texts[0] + texts[1])


@pytest.mark.usefixtures("no_evaluation")
def test_a_critic_that_starts_as_the_reward_model(arguments):
    small = replace(with_ppo(arguments), critic="reward")
    run(small)
    curves = read_json_lines(small.out / "ppo" / "metrics.jsonl")
    assert all(row["value_loss"] > 0 for row in curves)
    assert read(small.out / "ppo" / "config.json")["identity"]["critic"].endswith("reward/model")


@pytest.mark.usefixtures("no_evaluation")
def test_a_policy_that_runs_away_says_what_to_change(arguments, capsys):
    small = with_ppo(arguments)
    wild = replace(small, ppo=small.ppo.replace(max_reference_kl=1e-6, epochs=2.0))
    with pytest.raises(PolicyRunaway, match=r"lower --ppo\.learning-rate"):
        run(wild)
    capsys.readouterr()
    run(small)
    assert done(capsys) == ["ppo", "candidates", "best-of-n", "evaluation"]


def test_without_held_out_pairs_and_without_a_bound(arguments):
    small = replace(with_ppo(arguments), reward_held_out=0.0, bound_prompts=0, best_of=2)
    run(small)
    report = read(small.out / "report.json")
    assert "reward_model" not in report
    assert report["frontier"]["upper_bound"] == []
    assert (report["frontier"]["prompts"], report["frontier"]["samples_a_prompt"]) == (0, 0)
    assert [point["n"] for point in report["frontier"]["best_of_n"]] == [1, 2]
    assert not (small.out / "upper_bound.jsonl").exists()
    assert (small.out / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"best_of": 1}, "--best-of"),
        ({"bound_prompts": -1}, "--bound-prompts"),
        ({"bound_prompts": 1}, "--bound-prompts"),
        ({"bound_prompts": 7}, "--bound-prompts"),
        ({"bound_samples": 99}, "--bound-samples"),
        ({"reward_held_out": 1.0}, "--reward-held-out"),
        ({"reward_held_out": float("nan")}, "--reward-held-out"),
        ({"reward_model": RewardConfig.of(margin="sureness")}, "--reward-model.margin"),
        ({"reward_model": RewardConfig.of(margin="-1")}, "--reward-model.margin"),
        ({"collect": PPOAnswers(num_samples=5, target_kl=4.0, kl_horizon=4.0)}, "--collect.kl-horizon"),
    ],
)
def test_faults_are_found_before_a_model_is_loaded(arguments, monkeypatch, changes, flag):
    def load(*_arguments, **_options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(quickstart_bench, "load", load)
    with pytest.raises(BadConfig) as fault:
        run(replace(with_ppo(arguments), **changes))
    assert fault.value.where == flag
    assert not arguments.out.exists()


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"best_of": 4}, "--best-of"),
        ({"critic": "separate"}, "--critic"),
        ({"reward_model": RewardConfig()}, "--reward-model"),
        ({"ppo": PPOConfig()}, "--ppo"),
        ({"collect": PPOAnswers(num_samples=8)}, "--collect"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(arguments, monkeypatch, changes, flag):
    def load(*_arguments, **_options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(quickstart_bench, "load", load)
    with pytest.raises(BadConfig, match="--with ppo") as fault:
        run(replace(arguments, **changes))
    assert fault.value.where == flag


def test_the_flags():
    parsed = tyro.cli(
        QuickstartConfig, args=["--with", "ppo", "--ppo.learning-rate", "1e-5", "--collect.target-kl", "3"]
    )
    assert parsed.with_ppo
    assert parsed.ppo.optimizer.learning_rate == 1e-5
    assert parsed.ppo.loop.batch_size == QuickstartConfig().ppo.loop.batch_size
    assert parsed.collect.target_kl == 3
    assert not tyro.cli(QuickstartConfig, args=[]).with_ppo
    with pytest.raises(SystemExit):
        tyro.cli(QuickstartConfig, args=["--with", "grpo"])
    with pytest.raises(SystemExit):
        tyro.cli(QuickstartConfig, args=["--collect.max-new-tokens", "9"])


def test_an_answer_that_was_cut_off_is_worth_as_little_to_best_of_n_as_to_ppo():
    ended, cut = Completion(text="a"), Completion(text="b", finish_reason="length")
    samples = [
        Sample(prompt=Prompt("p"), completions=(ended, cut), columns={}),
        Sample(prompt=Prompt("q"), completions=(cut, cut), columns={}),
    ]
    scores = [[1.0, 2.0], [3.0, 4.0]]
    paid = {
        kind: shaped_rewards(scores, samples, CollectorConfig(truncated_reward=kind, truncation_penalty=1.5))
        for kind in ("own", "worst")
    }
    assert paid["own"] == [[1.0, 0.5], [1.5, 2.5]]
    assert paid["worst"] == [[1.0, -0.5], [1.5, 2.5]]
    assert shaped_rewards(scores, samples, CollectorConfig()) == scores


@pytest.mark.parametrize(
    ("largest", "sizes"), [(2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (16, [1, 2, 4, 8, 16])]
)
def test_sizes_of_best_of_n(largest, sizes):
    assert sizes_to(largest) == sizes
