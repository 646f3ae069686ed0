"""What a resumed run takes over from its beginning, and what it is refused for by name."""

import json
import sys
from datetime import datetime

import pytest

from cli.train.test_preference import data, train  # noqa: F401 - a fixture
from logratio.cli.main import main
from logratio.errors import ResumeMismatch
from logratio.models.loading import save
from logratio.models.template_dates import render_as_of, rendering_time
from logratio.models.tokenisation import render_prompt
from logratio.records import Completion, Prompt, Sample
from logratio.rollouts.rewards import load_reward
from logratio.run_directory import RunDirectory
from logratio.runtime.versions import describe_versions
from logratio.version import __version__
from tiny_models import TEMPLATE, tiny_llama, tiny_tokenizer

# Every rendering would be another: microseconds stand for days.
CLOCK = "{{ 'Now: ' + strftime_now('%f') + '\n' }}" + TEMPLATE
SMALL = ["--learning-rate", "1e-4", "--threads", "1"]


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    """A model whose template writes the date."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CLOCK
    path = tmp_path_factory.mktemp("dated") / "model"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return str(path)


def test_a_template_is_rendered_as_of_the_moment_that_is_held():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y %H:%M:%S') }}" + TEMPLATE
    moment = datetime(2025, 12, 31, 23, 59, 58)
    with render_as_of(moment):
        assert render_prompt(tokenizer, Prompt("hi")).startswith("31 Dec 2025 23:59:58<|im_start|>")
        with render_as_of(datetime(2024, 2, 29)):
            assert render_prompt(tokenizer, Prompt("hi")).startswith("29 Feb 2024 00:00:00<|im_start|>")
        assert rendering_time() == moment
    assert rendering_time() > moment
    assert not render_prompt(tokenizer, Prompt("hi")).startswith("31 Dec 2025")


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward"])
def test_a_run_goes_on_on_another_day(tmp_path, dated, data, capsys, kind):  # noqa: F811
    flags = ["--data", data, "--model", dated, "--out", tmp_path / "run"]
    assert train(kind, *flags) == 0
    began = RunDirectory(tmp_path / "run").config["rendered_at"]
    assert train(kind, *flags, "--resume") == 0
    assert RunDirectory(tmp_path / "run").config["rendered_at"] == began
    # A run that did not write the moment down began when its settings were written.
    config = RunDirectory(tmp_path / "run").config
    del config["rendered_at"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert RunDirectory(tmp_path / "run").rendered_at() <= datetime.now()
    capsys.readouterr()


def test_other_tokens_are_refused_by_name(tmp_path, dated, data, capsys):  # noqa: F811
    flags = ["--data", data, "--model", dated, "--out", tmp_path / "run"]
    assert train("sft", *flags) == 0
    config = RunDirectory(tmp_path / "run").config
    config["rendered_at"] = "2020-01-01T00:00:00.000001"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert train("sft", *flags, "--resume") == 2
    shown = capsys.readouterr().err
    assert "ResumeMismatch" in shown
    assert "tokens_sha256 was" in shown


REWARDS = "def brevity(completions, **columns):\n    return [-float(len(one)) for one in completions]\n"
OTHER = REWARDS.replace("-float", "2.0 * ")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "lr_source.py").write_text(REWARDS)
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(4))
    )
    yield tmp_path
    sys.modules.pop("lr_source", None)


def write(place, text):
    sys.modules.pop("lr_source", None)
    (place / "lr_source.py").write_text(text)


def test_a_reward_is_its_source_and_its_module(place):
    before = load_reward("lr_source:brevity").identity()
    assert set(before) == {"source of the function", "source of the module"}
    write(place, "HELPER = 3\n" + REWARDS)
    now = load_reward("lr_source:brevity").identity()
    assert now["source of the function"] == before["source of the function"]
    assert now["source of the module"] != before["source of the module"]
    write(place, OTHER)
    assert (
        load_reward("lr_source:brevity").identity()["source of the function"]
        != before["source of the function"]
    )
    sample = Sample(prompt=Prompt("p"), completions=(Completion(text="abc"),), columns={})
    assert load_reward("lr_source:brevity")([sample]) == [[6.0]]
    # What no file holds says nothing.
    assert load_reward("builtins:sum").identity() == {}


@pytest.mark.parametrize("flag", ["--reward", "--monitor"])
def test_a_reward_that_was_changed_is_refused_by_name(place, dated, capsys, flag):
    rewards = {"--reward": "lr_source:brevity", "--monitor": "logratio.rollouts.sentiment:sentiment"}
    if flag == "--monitor":
        (place / "lr_learned.py").write_text(REWARDS)
        rewards = {"--reward": "lr_learned:brevity", "--monitor": "lr_source:brevity"}
    else:
        del rewards["--monitor"]
    words = ["train", "reinforce", "--model", dated, "--prompts", "prompts.jsonl", "--out", "run"]
    words += [*SMALL, "--held-out", "0", "--max-new-tokens", "4", "--num-samples", "2"]
    words += [word for pair in rewards.items() for word in pair]
    assert main(words) == 0
    write(place, REWARDS)
    assert main([*words, "--resume"]) == 0
    write(place, OTHER)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    shown = capsys.readouterr().err
    assert "ResumeMismatch" in shown
    assert "source of the function of lr_source:brevity was" in shown
    sys.modules.pop("lr_learned", None)


def test_other_versions_are_said_and_written_down_once(tmp_path, capsys):
    config = {"identity": {"beta": 0.1}, "logratio": "0.1.0", "computed_with": {"threads": 2}}
    RunDirectory.begin(tmp_path, config).close()
    assert RunDirectory(tmp_path).config["versions"] == describe_versions()
    RunDirectory.begin(tmp_path, config, resume=True).close()
    assert capsys.readouterr().err == ""
    old = RunDirectory(tmp_path).config
    old["versions"]["torch"] = "2.1.0"
    (tmp_path / "config.json").write_text(json.dumps(old))
    for _ in range(2):
        changed = config | {"computed_with": {"threads": 4}}
        RunDirectory.begin(tmp_path, changed, resume=True).close()
    shown = capsys.readouterr().err
    assert shown.count(f"threads was 2, is 4; torch was 2.1.0, is {describe_versions()['torch']}") == 1
    assert len(RunDirectory(tmp_path).config["resumed_with"]) == 1
    assert RunDirectory(tmp_path).config["versions"]["torch"] == "2.1.0"


def test_a_run_of_an_older_version_goes_on_or_says_why_not(tmp_path, capsys):
    """Its config.json knows neither versions nor tokens, and the hash of its model."""
    tmp_path.mkdir(exist_ok=True)
    old = {"logratio": "0.0.9", "identity": {"beta": 0.1, "model_fingerprint": "ab"}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    new = {"logratio": "0.1.0", "identity": {"beta": 0.1}}
    with RunDirectory.begin(tmp_path, new, resume=True) as run:
        run.add_identity(model_fingerprint="ab")
        run.add_identity(tokens_sha256="cd")
        with pytest.raises(ResumeMismatch, match="tokens_sha256 was 'cd', is 'ef'"):
            run.add_identity(tokens_sha256="ef")
    assert f"logratio was 0.0.9, is {__version__}" in capsys.readouterr().err
    with pytest.raises(ResumeMismatch, match=r"beta was 0\.1, is 0\.2"):
        RunDirectory.begin(tmp_path, {"identity": {"beta": 0.2}}, resume=True)
