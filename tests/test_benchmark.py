"""Our side of the benchmark runs, and counts its useful work rightly; TRL's side needs TRL."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from logratio.batches import AnswerGroup
from logratio.models.pretrained import save
from tiny import tiny_llama, tiny_tokenizer

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sides():
    return load_script("dpo_sides")


@pytest.fixture(scope="module")
def driver():
    return load_script("dpo_vs_trl")


def test_our_side_runs_from_rows_to_losses(sides, driver, tmp_path):
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "model")
    comparisons = driver.make_comparisons(6, prompt_words=4, chosen_words=4, rejected_words=6)
    driver.write_rows(tmp_path / "rows.jsonl", comparisons)
    job = {
        "model": str(tmp_path / "model"),
        "data": str(tmp_path / "rows.jsonl"),
        "out": str(tmp_path),
        "pairs": 6,
        "batch_size": 2,
        "learning_rate": 1e-3,
    }
    found = sides.run_logratio(job)
    assert len(found["losses"]) == 3
    assert found["losses"][0] == pytest.approx(math.log(2), abs=1e-4)
    assert len(found["token_ids"]) == 6
    answers = [answer for _, *both in found["token_ids"] for answer in both]
    assert all(answer[-1] == tokenizer.eos_token_id for answer in answers)
    assert [tokenizer.decode(answer[:-1]) for answer in answers] == [
        completion.text for row in comparisons for completion in (row.chosen, row.rejected)
    ]


def test_too_few_rows_are_said_to_be(sides, driver, tmp_path):
    driver.write_rows(tmp_path / "rows.jsonl", driver.make_comparisons(2, prompt_words=3))
    job = {"data": str(tmp_path / "rows.jsonl"), "pairs": 3}
    with pytest.raises(SystemExit, match="2 pairs that fit, 3 are asked for"):
        sides.fitting_comparisons(job, tiny_tokenizer())


def test_useful_work_of_a_pair_by_hand(sides):
    """One layer of width 2: a 2×3 matrix, a head of 5 words, one head of attention.

    Prompt of 2 tokens, answers of 2 and 3: 2 + 1 + 2 = 5 tokens read, 5 predicted. Attention: the prompt
    sees 1 + 2, the first answer's token 3, the second's 3 + 4, together 13 places.
    """
    block, head = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(2, 5, bias=False)
    model = SimpleNamespace(
        config=SimpleNamespace(num_attention_heads=1, hidden_size=2, num_hidden_layers=1),
        modules=lambda: [block, head],
        get_output_embeddings=lambda: head,
    )
    group = AnswerGroup(prompt=(1, 2), answers=((3, 4), (3, 4, 5)))
    forward = 2 * 6 * 5 + 4 * 2 * 1 * 13 + 2 * 10 * 5
    assert sides.useful_flops(model, group) == 4 * forward


def test_other_tokens_stop_the_comparison(driver):
    ours = {"token_ids": [[[1], [2], [3]], [[1], [2], [4]]]}
    theirs = {"token_ids": [[[1], [2], [3]], [[1], [2], [5]]]}
    driver.check_same_tokens(ours, ours)
    with pytest.raises(SystemExit, match="pair 1"):
        driver.check_same_tokens(ours, theirs)


def test_ratios_above_one_are_faster_and_below_one_are_smaller(driver):
    def runs(seconds, peak, peer):
        one = {
            "token_ids": [0, 0],
            "peak_memory_bytes": peak,
            "matmul_flops_per_second": 100.0,
            "useful_flops": 50.0,
            "threads": 1,
            "mean_tokens": [1, 1, 1],
            "versions": {peer: "1"},
        }
        return [{**one, "seconds": value} for value in seconds]

    found = driver.summarise("TRL", runs([1.0, 2.0, 9.0], 3, "logratio"), runs([8.0, 6.0, 1.0], 4, "trl"))
    assert (found["ours"], found["theirs"], found["ratio"]) == (1.0, 2 / 6, 3.0)
    assert found["peak_memory_ratio"] == 0.75
    assert found["matmul_share"] == 0.25
    assert found["peer"] == "trl 1"
