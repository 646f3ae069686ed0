"""Conversations, turn ends and the format of prompts through the commands: from file to file to a model."""

from __future__ import annotations

import io
import json

import pytest

from chat_templates import HERMES, tokenizer_of
from logratio.cli.main import main
from logratio.models import tokenisation
from logratio.models.loading import load_tokenizer, save
from logratio.records import Prompt
from logratio.run_directory import RunDirectory, read_json_lines
from tiny_models import TEMPLATE, tiny_llama

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
SMALL = ["--batch-size", "4", "--threads", "1"]


def made(path, template, *, spread=0.1, **tokens):
    tokenizer = tokenizer_of(template, **tokens)
    save(tiny_llama(len(tokenizer), spread=spread, tied=False), tokenizer, path)
    return str(path)


@pytest.fixture(scope="module")
def hermes(tmp_path_factory):
    return made(tmp_path_factory.mktemp("hermes") / "model", HERMES)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def asked(number):
    lead = [{"role": "user", "content": f"weather {number}?"}, CALLED, {"role": "tool", "content": "rain"}]
    return {
        "tools": TOOLS,
        "prompt": lead,
        "chosen": [{"role": "assistant", "content": f"rain {number}", "reasoning_content": "so I was told"}],
        "rejected": [{"role": "assistant", "content": f"sun {number}", "reasoning_content": "no idea"}],
    }


def run(*words):
    return main([str(word) for word in words])


def test_check_trains_on_tools_and_calls_and_names_what_is_not_rendered(tmp_path, hermes, capsys):
    data = write(tmp_path / "rows.jsonl", map(asked, range(8)))
    assert run("check", "--data", data, "--model", hermes, "--json", tmp_path / "check.json") == 0
    shown = capsys.readouterr().out
    assert "warning: field `reasoning_content` is not rendered by the chat template: 8 rows" in shown
    assert "finished answers end as the chat template ends them: <|im_end|>" in shown
    tokenizer = load_tokenizer(hermes)
    row = asked(0)
    ids = tokenizer.apply_chat_template(row["prompt"], tools=TOOLS, add_generation_prompt=True)["input_ids"]
    assert json.loads((tmp_path / "check.json").read_text())["lengths"]["prompt"]["max"] == len(ids)


def test_every_turn_is_trained_on_where_that_is_asked_for(tmp_path, hermes, capsys):
    data = write(tmp_path / "rows.jsonl", map(asked, range(8)))
    out = tmp_path / "sft"
    flags = ["--data", data, "--model", hermes, "--held-out", "0", *SMALL]
    every = ["--train-on", "all-assistant-turns"]
    assert run("train", "sft", *flags, "--out", out, *every) == 0
    told = capsys.readouterr().err
    assert "8 last assistant turns and 8 earlier ones, each an example of its own" in told
    tokenizer = load_tokenizer(hermes)
    answers = ["<tool_call>f {}</tool_call>", *(f"rain {number}" for number in range(8))]
    sizes = [len(tokenizer(one + "<|im_end|>", add_special_tokens=False)["input_ids"]) for one in answers]
    assert sum(row["tokens"] for row in RunDirectory(out).metrics) == 8 * sizes[0] + sum(sizes[1:])
    assert run("train", "sft", *flags, "--out", out, "--resume") == 2
    assert "train_on was 'all-assistant-turns', is None" in capsys.readouterr().err


def test_what_was_sampled_raw_is_labelled_and_trained_raw(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards_of_length.py").write_text(
        "def longer(completions, **columns):\n"
        "    assert 'prompt_format' not in columns\n"
        "    return [float(len(one)) for one in completions]\n"
    )
    model = made(tmp_path / "model", TEMPLATE)
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"the cat {number}"} for number in range(6)])
    drawn = ["--max-new-tokens", "6", "--num-samples", "3", "--top-k", "8"]
    raw = [*drawn, "--prompt-format", "raw"]
    assert run("sample", "--model", model, "--prompts", prompts, "--out", "raw.jsonl", *raw) == 0
    assert "6 prompts given as text are continued as they stand" in capsys.readouterr().err
    assert run("sample", "--model", model, "--prompts", prompts, "--out", "chat.jsonl", *drawn) == 0
    for form in ("raw", "chat"):
        assert {row["prompt_format"] for row in read_json_lines(tmp_path / f"{form}.jsonl")} == {form}
    label = ["--reward", "rewards_of_length:longer", "--completions", "raw.jsonl", "--out", "pairs.jsonl"]
    assert run("label", *label) == 0
    flags = ["--data", "pairs.jsonl", "--model", model, *SMALL]
    assert run("train", "dpo", *flags, "--out", "dpo", "--held-out", "0.4") == 0
    size = json.loads((tmp_path / "dpo" / "data.json").read_text())["lengths"]["prompt"]["max"]
    tokenizer = load_tokenizer(model)
    assert size == len(tokenizer("the cat 0")["input_ids"])
    assert size < len(tokenisation.encode_prompt(tokenizer, Prompt("the cat 0")))
    assert {row["prompt_format"] for row in read_json_lines(tmp_path / "dpo" / "held_out.jsonl")} == {"raw"}
    capsys.readouterr()
    assert run("train", "dpo", *flags, "--out", "other", "--prompt-format", "chat") == 2
    assert "PromptFormatMismatch" in capsys.readouterr().err
    assert run("train", "dpo", *flags, "--out", "dpo", "--resume", "--prompt-format", "raw") == 2
    assert "prompt_format was None, is 'raw'" in capsys.readouterr().err


def test_turns_are_not_asked_of_a_model_that_has_none(tmp_path, capsys):
    model = made(tmp_path / "model", None)
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a", "chosen": " b", "rejected": " c"}])
    for command in (["check"], ["train", "sft", "--out", tmp_path / "out"]):
        assert run(*command, "--data", data, "--model", model, "--prompt-format", "chat") == 2
        assert "the model has no chat template" in capsys.readouterr().err


def test_answers_stop_where_the_template_ends_them_though_the_token_is_not_special(tmp_path):
    model = made(
        tmp_path / "model", TEMPLATE.replace("<|im_end|>", "<|end|>"), plain=("<|end|>",), spread=0.02
    )
    end = load_tokenizer(model).convert_tokens_to_ids("<|end|>")
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"the cat {number}"} for number in range(8)])
    flags = ["--num-samples", "8", "--max-new-tokens", "64"]
    out = tmp_path / "out.jsonl"
    assert run("sample", "--model", model, "--prompts", prompts, "--out", out, *flags) == 0
    answers = [answer for row in read_json_lines(out) for answer in row["completions"]]
    ended = [answer for answer in answers if end in answer["token_ids"]]
    assert len(ended) > 8
    assert all(
        answer["finish_reason"] == "stop" and answer["token_ids"].index(end) == len(answer["token_ids"]) - 1
        for answer in ended
    )


def test_a_chat_in_raw_words_remembers_nothing(tmp_path, monkeypatch, capsys):
    model = made(tmp_path / "model", TEMPLATE)
    flags = ["--model", model, "--max-new-tokens", "6", "--prompt-format", "raw"]
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\nthe cat\n"))
    assert run("chat", *flags) == 0
    first, second = capsys.readouterr().out.split("model> ")[1:]
    assert first.split("\n  [")[0] == second.split("\n  [")[0]
    assert run("chat", *flags, "--system", "Be kind.") == 2
    assert "--system" in capsys.readouterr().err
