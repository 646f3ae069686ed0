"""`train ppo` and `train reinforce`, end to end on a tiny model: prompts in, a run directory out."""

import dataclasses
import json
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from logratio.cli.main import main
from logratio.errors import BadConfig
from logratio.models.loading import save
from logratio.models.reward_model import load_for_training
from logratio.policies.actor_critic import LanguageActor
from logratio.policies.language import LanguagePolicy
from logratio.recipes.actor import layout_probe
from logratio.recipes.rewards import split_weight
from logratio.records import Prompt
from logratio.report.collect import read_json
from logratio.run_directory import RunDirectory, read_json_lines
from logratio.training import loop
from logratio.training.layout_check import select_layout
from tiny_models import tiny_llama, tiny_tokenizer

SMALL = ["--batch-size", "4", "--learning-rate", "1e-3", "--threads", "1", "--max-new-tokens", "6"]
REWARDS = """
def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in text[0]["content"]) / 10 for text in completions]

def short(completions, **columns):
    return [-len(text[0]["content"]) / 50 for text in completions]

def broken(completions, **columns):
    return [float("nan")] * len(completions)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    path = tmp_path_factory.mktemp("start") / "model"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return str(path)


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewards.py").write_text(REWARDS)
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"say {n}"}], "number": n} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(kind, prompts, start, out, *flags):
    return main(
        [
            "train",
            kind,
            "--prompts",
            str(prompts),
            "--model",
            start,
            "--out",
            str(out),
            *map(str, flags),
            *SMALL,
        ]
    )


@pytest.mark.parametrize("kind", ["ppo", "reinforce"])
def test_a_run_leaves_a_model_and_its_numbers(tmp_path, start, prompts, capsys, kind):
    out = tmp_path / "run"
    rewards = ["--reward", "own_rewards:vowels", "0.5*own_rewards:short"]
    assert train(kind, prompts, start, out, *rewards) == 0
    shown = capsys.readouterr()
    assert "GB at the peak, estimated" in shown.err
    assert "peak memory" in shown.out
    run = RunDirectory(out)
    assert {row["stage"] for row in run.metrics} == {kind}
    first = run.metrics[0]
    expected = first["reward/own_rewards:vowels"] + 0.5 * first["reward/own_rewards:short"]
    assert first["reward"] == pytest.approx(expected, abs=1e-9)
    assert first["reference_kl"] == pytest.approx(0.0, abs=1e-6)
    assert run.config["training_reward"] == "own_rewards:vowels, own_rewards:short"
    held_out = read_json_lines(out / "held_out.jsonl")
    assert 0 < len(held_out) < 24
    assert "number" in held_out[0]
    assert AutoModelForCausalLM.from_pretrained(out / "model").config.vocab_size > 0
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", ["ppo", "reinforce"])
def test_in_bf16_what_is_drawn_is_what_is_trained_on(tmp_path, start, prompts, monkeypatch, kind, native):
    """With a processor's own products of bfloat16 and with what stands in for them."""
    for module in ("precision", "packed_attention"):
        monkeypatch.setattr(f"logratio.kernels.{module}.multiplies_bf16", lambda kind="cpu": native)
    flags = ["--reward", "own_rewards:vowels", "--precision"]
    for precision in ("bf16", "fp32"):
        assert train(kind, prompts, start, tmp_path / precision, *flags, precision) == 0
    coarse, fine = (metrics_of(tmp_path / precision) for precision in ("bf16", "fp32"))
    assert len(coarse) == len(fine)
    # A bfloat16 number has eight bits: a logit of some units is off by a hundredth.
    assert fine[0]["sampled_deviation"] < 1e-4 < coarse[0]["sampled_deviation"] < 0.05
    assert coarse[0]["reference_kl"] == pytest.approx(0.0, abs=1e-6)
    assert coarse[0]["reward"] == pytest.approx(fine[0]["reward"], abs=0.1)


def test_a_critic_and_greedy_answers_are_there_where_they_are_asked_for(tmp_path, start, prompts):
    reward = ["--reward", "own_rewards:vowels"]
    assert train("reinforce", prompts, start, tmp_path / "a", *reward, "--baseline", "critic") == 0
    assert math.isfinite(RunDirectory(tmp_path / "a").metrics[0]["value_loss"])
    assert train("reinforce", prompts, start, tmp_path / "b", *reward, "--baseline", "greedy") == 0
    assert "value_loss" not in RunDirectory(tmp_path / "b").metrics[0]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--reward", "own_rewards:nothing"], "no function"),
        (["--reward", "own_rewards:vowels", "own_rewards:vowels"], "given twice"),
        (["--reward", "much*own_rewards:vowels"], "not a weight"),
        (["--reward", "own_rewards:vowels", "--target-kl", "-1"], "--target-kl"),
        (["--reward", "own_rewards:vowels", "--target-kl", "0"], "only the reference itself is at 0"),
        (["--reward", "own_rewards:vowels", "--critic", "nowhere"], "no critic 'nowhere'"),
        (["--reward", "own_rewards:vowels", "--monitor", "own_rewards:nothing"], "no function"),
        (["--reward", "own_rewards:vowels", "--max-length-change", "0.5"], "--max-length-change"),
        (["--reward", "own_rewards:vowels", "--num-samples", "1"], "--num-samples"),
        (["--reward", "own_rewards:vowels", "--clip-range", "2"], "clip"),
    ],
)
def test_faults_are_named_before_a_model_is_loaded(
    tmp_path, start, prompts, capsys, monkeypatch, flags, named
):
    kind = "ppo" if "--clip-range" in flags else "reinforce"
    monkeypatch.setattr("logratio.models.loading.load", None)
    assert train(kind, prompts, start, tmp_path / "run", *flags) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def metrics_of(out):
    return RunDirectory(out).metrics


def timeless(rows):
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def test_what_is_really_wanted_is_watched_beside_what_stands_for_it(tmp_path, start, prompts):
    flags = ["--reward", "own_rewards:vowels", "--monitor", "own_rewards:short"]
    assert train("ppo", prompts, start, tmp_path / "run", *flags) == 0
    assert train("ppo", prompts, start, tmp_path / "alone", *flags[:2]) == 0
    first = metrics_of(tmp_path / "run")
    assert all(row["monitored/own_rewards:short"] < 0 for row in first)
    alone = timeless(metrics_of(tmp_path / "alone"))
    assert [{k: v for k, v in row.items() if "monitored" not in k} for row in timeless(first)] == alone


@pytest.mark.parametrize("critic", ["shared", "separate", "model", "reward model"])
def test_a_critic_is_where_it_is_asked_for(tmp_path, start, prompts, critic):
    place = critic
    if critic == "model":
        place = start
    elif critic == "reward model":
        place = str(tmp_path / "rm")
        scorer = load_for_training(start, seed=3)
        save(scorer.model, scorer.tokenizer, place)
    flags = ["--reward", "own_rewards:vowels", "--critic", place, "--critic-learning-rate", "1e-2"]
    assert train("ppo", prompts, start, tmp_path / "run", *flags) == 0
    rows = metrics_of(tmp_path / "run")
    assert all(math.isfinite(row["value_loss"]) for row in rows)
    # A head that begins at 0 says nothing; that of a reward model says something from the first update on.
    assert (rows[0]["explained_variance"] == 0) == (critic != "reward model")
    invariants = {invariant["name"] for invariant in read_json(tmp_path / "run" / "invariants.json")}
    assert {
        "packed_equals_unpacked",
        "every_row_is_counted",
        "nothing_is_clipped",
        "reference_unchanged",
    } <= invariants


def test_models_that_do_not_read_the_same_tokens_are_refused(tmp_path, start, prompts, capsys):
    other = PreTrainedTokenizerFast.from_pretrained(start)
    other.add_tokens(["cat sat"])
    foreign = tmp_path / "foreign"
    save(tiny_llama(len(other), spread=0.1), other, foreign)
    reward = ["--reward", "own_rewards:vowels"]
    assert train("ppo", prompts, start, tmp_path / "a", *reward, "--reference", foreign) == 2
    assert "different tokenizers" in capsys.readouterr().err
    # A critic may know more tokens than the policy, but not others.
    assert train("ppo", prompts, start, tmp_path / "b", *reward, "--critic", foreign) == 0
    swapped = tmp_path / "swapped"
    tokenizer = tiny_tokenizer()
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    words = backend["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    crossed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
    )
    save(tiny_llama(len(tokenizer), spread=0.1), crossed, swapped)
    assert train("ppo", prompts, start, tmp_path / "c", *reward, "--critic", swapped) == 2
    assert "another number for" in capsys.readouterr().err


def test_a_run_that_runs_away_keeps_its_best_model(tmp_path, start, prompts, capsys):
    out = tmp_path / "run"
    flags = ["--reward", "own_rewards:vowels", "--max-reference-kl", "1e-7", "--checkpoint-every", "1"]
    assert train("reinforce", prompts, start, out, *flags, "--held-out", "0") == 2
    shown = capsys.readouterr().err
    assert "the KL to the reference is" in shown
    assert "the best checkpoint" in shown
    assert "Traceback" not in shown
    best = read_json(out / "summary.json")["best_checkpoint"]
    kept = load_file(out / "checkpoints" / f"step-{best:06d}" / "weights.safetensors")
    model = AutoModelForCausalLM.from_pretrained(out / "model").state_dict()
    assert best > 0
    assert torch.equal(
        model["model.layers.0.mlp.up_proj.weight"], kept["policy.model.layers.0.mlp.up_proj.weight"]
    )
    assert main(["report", str(out)]) == 0


def test_a_run_that_runs_away_before_a_checkpoint_leaves_no_model(tmp_path, start, prompts, capsys):
    out = tmp_path / "run"
    flags = ["--reward", "own_rewards:vowels", "--max-reference-kl", "1e-7", "--checkpoint-every", "0"]
    assert train("ppo", prompts, start, out, *flags) == 2
    shown = capsys.readouterr().err
    assert "the KL to the reference is" in shown
    assert "kept" not in shown
    assert not (out / "model").exists()


def test_a_policy_that_starts_from_its_reference_is_at_0_from_it(
    tmp_path, start, prompts, monkeypatch, capsys
):
    other = tmp_path / "other"
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer), spread=0.1, seed=4), tokenizer, other)
    reward = ["--reward", "own_rewards:vowels"]
    for name, flags, starts_there in (("a", [], True), ("b", ["--reference", other], False)):
        assert train("ppo", prompts, start, tmp_path / name, *reward, *flags) == 0
        held = {invariant["name"] for invariant in read_json(tmp_path / name / "invariants.json")}
        assert ("reference_kl_is_zero" in held) == starts_there
    honest = LanguageActor.compare

    def drifted(self, items, reference, **settings):
        for part in honest(self, items, reference, **settings):
            yield dataclasses.replace(part, tokens=part.tokens._replace(kl=part.tokens.kl + 1e-5))

    monkeypatch.setattr(LanguageActor, "compare", drifted)
    assert train("reinforce", prompts, start, tmp_path / "c", *reward) == 2
    assert "reference_kl_is_zero" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["ppo", "reinforce"])
def test_with_an_adapter_the_reference_is_the_base(tmp_path, start, prompts, kind):
    flags = ["--reward", "own_rewards:vowels", "--lora-rank", "4", "--epochs", "2", "--learning-rate", "1e-2"]
    if kind == "ppo":
        flags += ["--critic", "separate"]
    out = tmp_path / "run"
    assert train(kind, prompts, start, out, *flags) == 0
    rows = metrics_of(out)
    assert rows[0]["reference_kl"] == 0
    assert rows[-1]["reference_kl"] > 1e-5
    weights = load_file(sorted((out / "checkpoints").iterdir())[-1] / "weights.safetensors")
    assert all("lora_" in name or name.startswith("critic.") for name in weights)
    invariants = {invariant["name"]: invariant for invariant in read_json(out / "invariants.json")}
    assert {"reference_unchanged", "ratio_is_one"} <= set(invariants)
    # The folded model is where the last update left the policy, away from what it started from.
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    after = AutoModelForCausalLM.from_pretrained(out / "model").state_dict()
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"]
    )
    assert (out / "adapter").is_dir()


def test_a_run_with_adapters_goes_on_bit_for_bit(tmp_path, start, prompts, monkeypatch):
    flags = ["--reward", "own_rewards:vowels", "--lora-rank", "4", "--critic", "separate"]
    flags += ["--checkpoint-every", "1", "--target-kl", "0.5"]
    assert train("ppo", prompts, start, tmp_path / "whole", *flags) == 0
    honest = loop.Session.log

    def stop_after(self, *arguments):
        honest(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Session, "log", stop_after)
        for _ in range(2):
            assert train("ppo", prompts, start, tmp_path / "parts", *flags, "--resume") == 143
    assert train("ppo", prompts, start, tmp_path / "parts", *flags, "--resume") == 0
    whole, parts = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert timeless(metrics_of(tmp_path / "whole")) == timeless(metrics_of(tmp_path / "parts"))


def test_a_reward_that_is_not_a_number_names_the_answer(tmp_path, start, prompts, capsys):
    assert train("ppo", prompts, start, tmp_path / "run", "--reward", "own_rewards:broken") == 2
    shown = capsys.readouterr().err
    assert "own_rewards:broken returned nan" in shown
    assert "prompts.jsonl:13, answer 1 (“say 12”)" in shown


def test_weights_before_names():
    assert split_weight("a:b") == (1.0, "a:b")
    assert split_weight("-0.5*a:b") == (-0.5, "a:b")
    with pytest.raises(BadConfig, match="'x' is not a weight"):
        split_weight("x*a:b")


def test_an_architecture_that_mixes_tokens_otherwise_is_found_out(capsys):
    tokenizer = tiny_tokenizer(chat=False)
    probe = layout_probe(tokenizer, [Prompt(text) for text in ("the cat sat", "a good day", "I like this")])
    mamba = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4)
    mixing = LanguagePolicy(MambaForCausalLM(mamba).eval(), tokenizer)
    select_layout(mixing, probe)
    assert mixing.layout == "unpacked"
    plain = LanguagePolicy(tiny_llama(len(tokenizer)).eval(), tokenizer)
    select_layout(plain, probe)
    assert plain.layout == "packed"
