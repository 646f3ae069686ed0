"""`train ppo` and `train reinforce`, end to end on a tiny model: prompts in, a run directory out."""

import json
import math

import pytest
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from logratio.cli.main import main
from logratio.cli.policy_gradient import layout_probe, split_weight
from logratio.data.reading import PromptRow
from logratio.errors import BadConfig
from logratio.models.pretrained import save
from logratio.policies.language import LanguagePolicy
from logratio.records import Prompt
from logratio.runs import RunDirectory, read_json_lines
from logratio.training.start import settle_layout
from tiny import tiny_llama, tiny_tokenizer

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
        (["--reward", "own_rewards:vowels", "--num-samples", "1"], "--num-samples"),
        (["--reward", "own_rewards:vowels", "--clip-range", "2"], "clip"),
    ],
)
def test_faults_are_named_before_a_model_is_loaded(
    tmp_path, start, prompts, capsys, monkeypatch, flags, named
):
    kind = "ppo" if "--clip-range" in flags else "reinforce"
    monkeypatch.setattr("logratio.models.pretrained.load", None)
    assert train(kind, prompts, start, tmp_path / "run", *flags) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_reward_that_is_not_a_number_names_the_answer(tmp_path, start, prompts, capsys):
    assert train("ppo", prompts, start, tmp_path / "run", "--reward", "own_rewards:broken") == 2
    shown = capsys.readouterr().err
    assert "own_rewards:broken returned nan" in shown
    assert "prompt 1, answer 1" in shown


def test_weights_before_names():
    assert split_weight("a:b") == (1.0, "a:b")
    assert split_weight("-0.5*a:b") == (-0.5, "a:b")
    with pytest.raises(BadConfig, match="'x' is not a weight"):
        split_weight("x*a:b")


def test_an_architecture_that_mixes_tokens_otherwise_is_found_out(capsys):
    tokenizer = tiny_tokenizer(chat=False)
    rows = [
        PromptRow(prompt=Prompt(text), columns={}, source="here:1")
        for text in ("the cat sat", "a good day", "I like this")
    ]
    probe = layout_probe(tokenizer, rows)
    mamba = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4)
    mixing = LanguagePolicy(MambaForCausalLM(mamba).eval(), tokenizer)
    settle_layout(mixing, probe)
    assert mixing.layout == "apart"
    plain = LanguagePolicy(tiny_llama(len(tokenizer)).eval(), tokenizer)
    settle_layout(plain, probe)
    assert plain.layout == "shared"
