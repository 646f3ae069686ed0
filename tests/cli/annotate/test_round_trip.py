"""From a model to labels that train it: the five commands of the README, with people on the page."""

from __future__ import annotations

import json
import math
import os
import signal

import pytest

from annotate.live_server import Client, vote_on
from annotate.serve_process import make_forks, start
from logratio.cli.main import main
from logratio.models.loading import save
from logratio.run_directory import RunDirectory, read_json_lines
from tiny_models import tiny_llama, tiny_tokenizer

SMALL = ["--batch-size", "4", "--epochs", "1", "--held-out", "0"]
VERDICTS = ("left", "right", "left", "tie", "right", "skip", "left", "bad", "right", "left")
NUM_PROMPTS = 16


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, tmp_path / "my-model")
    rows = "".join(json.dumps({"prompt": f"say {number}"}) + "\n" for number in range(NUM_PROMPTS))
    (tmp_path / "prompts.jsonl").write_text(rows)
    return tmp_path


def logratio(*words):
    assert main([str(word) for word in words]) == 0


def unseen(codes):
    """The characters of a mark in the raw view: `U+0000 U+0010`."""
    return "".join(chr(int(code.removeprefix("U+"), 16)) for code in codes.split())


def people_judge(place):
    """Anna judges all pairs on the served page's own requests; gives the texts that she preferred."""
    served = start(
        make_forks(),
        place / "out",
        store=place / "labels.db",
        data=place / "completions.jsonl",
        annotators="anna",
        repeats=0.0,
        port=0,
        open=False,
    )
    try:
        return judge(Client(served.port, served.tokens["anna"]))
    finally:
        # Or the process would be waited for where a test failed.
        os.kill(served.process.pid, signal.SIGINT)
        served.process.join(timeout=120)


def judge(anna):
    preferred, number = set(), 0
    while (pair := anna.post("/api/lease", {})[1]["pair"]) is not None:
        choice = VERDICTS[number % len(VERDICTS)]
        assert anna.post("/api/vote", vote_on(pair, choice=choice, nonce=f"nonce-{number:04}"))[0] == 200
        if choice in ("left", "right"):
            parts = (one.get("text") or unseen(one["code"]) for one in pair[choice]["raw"])
            preferred.add("".join(parts))
        number += 1
    anna.close()
    return preferred


def test_the_five_commands_lead_from_a_model_to_one_trained_on_labels(place):
    drawing = ["--num-samples", 2, "--max-new-tokens", 6, "--prompts", "prompts.jsonl"]
    logratio("sample", "--model", "my-model", *drawing, "--out", "completions.jsonl")
    preferred = people_judge(place)
    logratio("annotate", "export", "--store", "labels.db", "--out", "labels")
    data = ["--data", "labels/comparisons.jsonl"]
    logratio("train", "sft", "--model", "my-model", *data, "--out", "runs/sft", *SMALL)
    logratio("train", "dpo", "--model", "runs/sft", *data, "--out", "runs/dpo", *SMALL)

    rows = read_json_lines(place / "labels/comparisons.jsonl")
    assert {row["chosen"] for row in rows} == preferred
    drawn = {
        (row["prompt"], one["text"]): one["token_ids"]
        for row in read_json_lines(place / "completions.jsonl")
        for one in row["completions"]
    }
    for row in rows:
        # Training takes exactly the tokens that were drawn.
        assert row["chosen_completion"]["token_ids"] == drawn[row["prompt"], row["chosen"]]
        assert row["rejected_completion"]["token_ids"] == drawn[row["prompt"], row["rejected"]]
    manifest = json.loads((place / "labels/manifest.json").read_text())
    assert 8 <= len(rows) == manifest["pairs"]["exported"] < manifest["pairs"]["in"] <= NUM_PROMPTS
    run = RunDirectory(place / "runs/dpo")
    assert run.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert json.loads((run.path / "data.json").read_text())["num_rows"] == len(rows)
    assert run.config["training_reward"] == "people"
