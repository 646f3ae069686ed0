"""Our side of the benchmarks runs, and counts its useful work rightly; TRL's side needs TRL."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from logratio.data.jsonl import read_prompts
from logratio.models.loading import save
from logratio.models.tokenisation import encode_prompt
from logratio.packed_rows import AnswerGroup
from tiny_models import tiny_llama, tiny_tokenizer

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load_script(name: str):
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))  # where a script finds its neighbours
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


# --- PPO --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ppo_sides():
    return load_script("ppo_sides")


@pytest.fixture(scope="module")
def ppo():
    return load_script("ppo_vs_trl")


def padded_tokenizer():
    """Another token pads than those that conversations are made of, as TRL wants it."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|spare|>"})
    return tokenizer


@pytest.fixture(scope="module")
def work(ppo_sides, tmp_path_factory):
    """Policy and reward model as `prepare` writes them."""
    path, tokenizer = tmp_path_factory.mktemp("work"), padded_tokenizer()
    save(tiny_llama(len(tokenizer)), tokenizer, path / "start")
    ppo_sides.prepare({"model": str(path / "start"), "out": str(path)})
    return path


def job_for(ppo, work, side, **settings):
    """A job on the models in `work`, with its prompts written."""
    few = {"updates": 2, "batch_size": 4, "answer_tokens": 5, "epochs": 2, "learning_rate": 1e-4}
    arguments = ppo.Arguments(**(few | settings))
    ppo.write_prompts(arguments, work / "prompts.jsonl")
    return ppo.job_of(arguments, side, work, minibatches=2)


@pytest.mark.parametrize(("answers", "num_samples"), [("full", 1), ("full", 2), ("ended", 1)])
def test_our_ppo_runs_from_prompts_to_the_work_that_was_asked_for(
    ppo, ppo_sides, work, tmp_path, answers, num_samples
):
    job = job_for(ppo, work, "logratio", answers=answers, num_samples=num_samples)
    found = ppo_sides.run_logratio({**vars(job), "out": str(tmp_path)})
    ppo.check_work("logratio", job, found)
    assert found["optimiser_steps"] == 2 * 2 * 2
    assert len(found["answers"]) == 8
    if answers == "full":
        assert {len(answer) for answer in found["answers"]} == {5}
    tokenizer = padded_tokenizer()
    prompts = [row.prompt for row in read_prompts(work / "prompts.jsonl").usable]
    wanted = [encode_prompt(tokenizer, prompt) for prompt in prompts for _ in range(num_samples)]
    assert sorted(found["prompts"]) == sorted(wanted)
    read = sum(map(len, found["answers"])) - 8 + sum(map(len, wanted)) // num_samples
    assert found["tokens_a_pass"] == read
    assert 0 < found["update_seconds"] <= found["seconds"] <= found["whole_seconds"]


def plain_answers(work, tokens):
    """Log-probabilities and reward of an answer to each prompt, as transformers alone computes them."""
    policy = AutoModelForCausalLM.from_pretrained(work / "policy")
    judge = AutoModelForSequenceClassification.from_pretrained(work / "reward")
    seen = {"prompts": [], "answers": [], "logprobs": [], "rewards": []}
    with torch.no_grad():
        for prompt, answer in tokens:
            ids = torch.tensor([[*prompt, *answer]])
            every = policy(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            own = every[torch.arange(len(answer)), torch.tensor(answer)]
            row = (prompt, answer, own.tolist(), float(judge(input_ids=ids).logits))
            for values, value in zip(seen.values(), row, strict=True):
                values.append(value)
    return seen


def test_what_trl_saw_is_compared_with_what_we_compute(ppo, ppo_sides, work, tmp_path):
    def compared(seen):
        (tmp_path / "seen.json").write_text(json.dumps(seen))
        job = job_for(ppo, work, "compare")
        return ppo_sides.compare({**vars(job), "seen": str(tmp_path / "seen.json")})

    seen = plain_answers(work, [([5, 6, 7], [8, 9]), ([10, 11], [12, 13, 14])])
    found = compared(seen)
    assert found["answers"] == 2
    assert found["reward_deviation"] > 0.01
    assert ppo.agrees(found)
    assert not ppo.agrees(compared({**seen, "rewards": [value + 0.01 for value in seen["rewards"]]}))
    wrong = [[value - 0.01 for value in row] for row in seen["logprobs"]]
    assert not ppo.agrees(compared({**seen, "logprobs": wrong}))
    # What TRL's rows hold behind an answer's end is not looked at, nor an answer that TRL cuts at a pad.
    longer = [[*row, 1.0] for row in seen["logprobs"]]
    pad = padded_tokenizer().pad_token_id
    cut = {name: [*values, values[0]] for name, values in {**seen, "logprobs": longer}.items()}
    cut["answers"][-1] = [8, pad]
    assert compared(cut) == found


def test_trl_is_looked_at_without_its_padding(ppo_sides):
    judge, critic = object(), object()
    scores = torch.tensor([0.5, -0.5])

    def seen_with(ended):
        seen = ppo_sides.Seen(pad_id=9, reward_model=judge, ended=ended)
        sequences = torch.tensor([[9, 1, 2, 3, 9, 9], [4, 5, 6, 7, 8, 3]])
        for model in (critic, judge):
            seen._paid(lambda *_: (None, scores, None))(model, sequences, 9, 3)
        for value in (1.0, 2.0):
            seen._drawn(lambda logits, tokens, value=value: torch.full((2, 3), value))(None, None)
        return seen

    seen = seen_with(ended=True)
    assert seen.prompts == [[1, 2], [4, 5, 6]]
    assert seen.answers == [[3], [7, 8, 3]]
    assert seen.rewards == scores.tolist()
    assert seen.tokens_a_pass == 12
    assert seen.logprobs == [[1.0] * 3] * 2
    assert seen_with(ended=False).answers == [[3, 9, 9], [7, 8, 3]]


def test_work_that_was_not_asked_for_stops_the_benchmark(ppo):
    job = ppo.Job(
        side="trl",
        model="",
        updates=1,
        batch_size=2,
        epochs=2,
        minibatches=2,
        answer_tokens=3,
        answers="full",
    )
    found = {"optimiser_steps": 4, "answers": [[1, 2, 3], [1, 2, 3]]}
    ppo.check_work("TRL", job, found)
    with pytest.raises(SystemExit, match="made 1 steps"):
        ppo.check_work("TRL", job, {**found, "optimiser_steps": 1})
    with pytest.raises(SystemExit, match=r"answers of \[2, 3\] tokens"):
        ppo.check_work("TRL", job, {**found, "answers": [[1, 2, 3], [1, 2]]})
    with pytest.raises(SystemExit, match="drew 1 answers, not 2"):
        ppo.check_work("TRL", job, {**found, "answers": [[1, 2, 3]]})


def test_other_prompts_stop_the_benchmark(ppo):
    ppo.check_same_prompts("TRL", {"prompts": [[1], [2]]}, {"prompts": [[2], [1]]})
    with pytest.raises(SystemExit, match="TRL answered other prompts"):
        ppo.check_same_prompts("TRL", {"prompts": [[1], [3]]}, {"prompts": [[2], [1]]})


def test_too_few_prompts_are_said_to_be(ppo, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    arguments = ppo.Arguments(prompts=tmp_path / "prompts.txt", updates=1, batch_size=3)
    with pytest.raises(SystemExit, match="has 2 prompts, 3 are asked for"):
        ppo.write_prompts(arguments, tmp_path / "out.jsonl")


def test_each_way_of_trl_has_a_run_of_ours_with_as_many_steps(ppo, tmp_path):
    jobs = ppo.all_jobs(ppo.Arguments(minibatches=4), tmp_path)
    assert [(job.side, job.minibatches, job.as_it_comes) for job in jobs.values()] == [
        ("logratio", 4, False),
        ("trl", 4, False),
        ("logratio", 1, False),
        ("trl", 1, True),
    ]


def test_a_bar_is_held_or_missed(ppo):
    def runs(seconds, peak, peer):
        one = {
            "answers": [[1, 2], [3]],
            "peak_memory_bytes": peak,
            "matmul_flops_per_second": 100.0,
            "useful_flops": 50.0,
            "tokens_a_pass": 7,
            "optimiser_steps": 4,
            "threads": 1,
            "versions": {peer: "1"},
        }
        return [{**one, **dict.fromkeys(ppo.TIMES, value)} for value in seconds]

    ours = runs([1.0, 2.0, 9.0], 3, "logratio")
    found = ppo.summarise("TRL", ppo.Arguments(), ours, runs([3.0, 4.0, 1.0], 6, "trl"))
    assert (found["ours"], found["theirs"], found["ratio"]) == (1.0, 2 / 3, 1.5)
    assert (found["peak_memory_ratio"], found["our_matmul_share"]) == (0.5, 0.25)
    assert found["holds"]
    slower = ppo.summarise("TRL", ppo.Arguments(), ours, runs([2.9, 4.0, 1.0], 6, "trl"))
    larger = ppo.summarise("TRL", ppo.Arguments(), ours, runs([3.0, 4.0, 1.0], 5, "trl"))
    assert not slower["holds"]
    assert not larger["holds"]
    agreement = {"answers": 2, "logprob": 1e-6, "reward": 2e-3, "reward_deviation": 1.0}
    lines = ppo.judge([one | {"agreement": agreement} for one in (found, slower, larger)])
    assert [line.rpartition(" ")[2] for line in lines] == [
        *("held", "held"),
        *("MISSED", "held"),
        *("held", "MISSED"),
        "MISSED",
    ]
    assert "1.50 times as fast" in lines[0]
    assert ppo.tabulate([found]).row_count == 1 + len(ppo.ROWS)
