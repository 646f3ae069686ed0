"""`make bench`: our sides do the work that they are given, and what comes of runs is put together rightly."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from logratio.models import reward_model
from logratio.models.loading import save
from logratio.packed_rows import AnswerGroup
from test_benchmark import BENCHMARKS, load_script
from tiny_models import tiny_llama, tiny_tokenizer

SCRIPTS = ("cases", "tuning_sides", "sampling_sides", "bench", "growth_sides", "growth")


@pytest.fixture(scope="module")
def scripts():
    sys.path.append(str(BENCHMARKS))
    return {name: load_script(name) for name in SCRIPTS}


@pytest.fixture(scope="module")
def work(tmp_path_factory, scripts):
    place = tmp_path_factory.mktemp("bench")
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer)), tokenizer, place / "model")
    driver = load_script("dpo_vs_trl")
    driver.write_rows(
        place / "rows.jsonl",
        driver.make_comparisons(6, prompt_words=4, chosen_words=4, rejected_words=6),
    )
    return place


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("task", ["dpo", "sft", "reward"])
def test_our_side_trains_on_the_rows_and_counts_its_work(scripts, work, tmp_path, task, precision):
    job = {
        "task": task,
        "model": str(work / "model"),
        "data": str(work / "rows.jsonl"),
        "out": str(tmp_path),
        "pairs": 6,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "precision": precision,
    }
    found = scripts["tuning_sides"].run_logratio(job)
    assert len(found["losses"]) == 3
    assert found["seconds"] > 0
    if task == "sft":
        assert found["work"] > 6 * 8
    else:
        assert found["work"] == 6
    again = scripts["tuning_sides"].run_logratio({**job, "out": str(tmp_path / "again")})
    assert again["tokens_sha256"] == found["tokens_sha256"]
    assert again["useful_flops"] == found["useful_flops"]


def test_useful_work_of_a_score_by_hand(scripts):
    """Every answer to its last token, the prompt once, every linear map twice a weight."""
    model = tiny_llama(50)
    working = load_script("working")
    classifier = reward_model.add_score_head(model, source="a test", seed=0)
    group = AnswerGroup((1, 2, 3), ((4, 5), (6, 7, 8, 9)))
    blocks = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64) + 32
    attended = 6 + (2 * 3 + 3) + (4 * 3 + 10)
    assert working.score_flops(classifier, group) == 2 * blocks * 9 + 4 * 32 * 2 * attended
    elsewhere = working.score_flops(classifier, group, read_elsewhere=2)
    assert elsewhere == 2 * blocks * 7 + 4 * 32 * 2 * attended


def test_our_side_draws_every_answer(scripts, work, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("the cat", "a good day")))
    job = {
        "model": str(work / "model"),
        "prompts": str(prompts),
        "precision": "fp32",
        "answer_tokens": 5,
        "num_samples": 3,
        "batch_size": 4,
    }
    found = scripts["sampling_sides"].run_logratio(job)
    assert found["answers"] == 6
    assert 6 <= found["work"] <= 30


def case(scripts, **settings):
    return replace(scripts["cases"].CASES["dpo-fp32"], **settings)


def run(seconds, *, work=10.0, peak=4e9, useful=1e9, **further):
    return {
        "seconds": seconds,
        "work": work,
        "peak_memory_bytes": peak,
        "useful_flops": useful,
        "matmul_2048_flops_per_second": 1e9,
        "versions": {"logratio": "0"},
        "versions_of_peer": "trl 9",
        **further,
    }


def test_the_peer_is_held_at_its_best_and_medians_count(scripts):
    bench = scripts["bench"]
    runs = {
        "logratio": [run(2.0), run(1.0), run(4.0)],
        "as it comes": [run(9.0, peak=8e9)],
        "reference precomputed": [run(8.0, peak=8e9), run(10.0, peak=8e9), run(12.0, peak=8e9)],
    }
    chosen = case(scripts, theirs={way: {} for way in runs if way != "logratio"}, also={})
    assert bench.fastest(chosen, runs) == "reference precomputed"
    found = bench.summarise(chosen, runs["logratio"], "reference precomputed", runs)
    assert found["ours"] == 5.0
    assert found["theirs"] == 1.0
    assert found["ratio"] == 5.0
    assert found["peak_memory_ratio"] == 0.5
    assert found["matmul_share"] == 0.5
    assert not found["holds"]
    assert found["peer"] == "trl 9, reference precomputed"
    loose = case(scripts, theirs=chosen.theirs, also={}, most_memory=0.5, least_share=0.5)
    assert bench.summarise(loose, runs["logratio"], "reference precomputed", runs)["holds"]


def test_other_tokens_stop_a_benchmark_and_losses_are_compared(scripts):
    bench = scripts["bench"]
    ours, theirs = ({"tokens_sha256": "a", "losses": [1.0, value]} for value in (0.5, 0.75))
    assert bench.agreement(case(scripts), ours, theirs) == {"largest_loss_difference": 0.25}
    with pytest.raises(SystemExit, match="same tokens"):
        bench.agreement(case(scripts), ours, {**theirs, "tokens_sha256": "b"})


def test_results_of_other_benchmarks_stay_in_the_file_and_on_the_page(scripts, tmp_path):
    bench, chosen = scripts["bench"], case(scripts)
    assert chosen.theirs["reference precomputed"]["settings"] == {
        **{"bf16": False, "precompute_ref_log_probs": True}
    }
    runs = {
        "logratio": [run(1.0)],
        "as it comes": [run(9.0)],
        "reference precomputed": [run(10.0)],
        "activations kept": [run(5.0, peak=8e9)],
    }
    result = bench.summarise(chosen, runs["logratio"], "as it comes", runs)
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**result, "name": "sft-fp32"}, {**result, "ratio": 0.0}]))
    found = bench.merged([result], path)
    assert [(one["name"], one["ratio"]) for one in found] == [("dpo-fp32", 9.0), ("sft-fp32", 9.0)]
    load_script("speed_page").write_page(found, {}, tmp_path / "speed.md")
    page = (tmp_path / "speed.md").read_text()
    assert "| `dpo-fp32` | 10 pairs/s | 1.11, trl 9, as it comes | 9.00 | at least 4 |" in page
    assert [load_script("speed_page").figure(value) for value in (4625.6, 0.10249)] == ["4,626", "0.102"]
    assert (
        "- `sft-fp32`: SFT on 32 answers, float32; beside the peer with activations kept: 5.00 times "
        "its rate, 0.50 of its memory." in page
    )


@pytest.mark.parametrize("name", ["sample-fp32", "control-hopper", "reward-fp32", "ppo-fp32-separate"])
def test_every_result_is_written_and_shown_also_without_a_bar(scripts, tmp_path, monkeypatch, name):
    """The file is JSON that any tool reads: what is held to nothing is null, and not infinite."""
    bench, ran = scripts["bench"], []

    def record(script, job, work, *, python):
        ran.append(job["side"])
        return run(1.0, tokens_sha256="a", losses=[1.0])

    monkeypatch.setattr(bench, "run_job", record)
    monkeypatch.setattr(bench, "write_inputs", lambda *_: {})
    paths = {"out": tmp_path / "results.json", "page": tmp_path / "speed.md"}
    bench.main(bench.Arguments(only=(name,), repeats=1, **paths))
    [result] = json.loads(paths["out"].read_text())
    assert result["name"] == name
    assert f"| `{name}` | 10 " in paths["page"].read_text()
    assert len(ran) == 1 + len(bench.CASES[name].theirs) + len(bench.CASES[name].also)


def test_a_stand_in_for_bfloat16_is_told_of_and_machines_are_named_once(scripts):
    bench, page = scripts["bench"], load_script("speed_page")
    chosen = case(scripts, theirs={"as it comes": {}}, also={})
    rows = []
    for rate, stands_in in ((8e10, False), (1.4e11, True)):
        own = [run(1.0, matmul_2048_flops_per_second=rate, stands_in=stands_in)]
        rows.append(bench.summarise(chosen, own, "as it comes", {"logratio": own, "as it comes": [run(4.0)]}))
    assert [row["stands_in"] for row in rows] == [False, True]
    assert [page.also_of(row) for row in rows] == [
        "",
        "; this processor has no bfloat16, and what stands in for it is compared",
    ]
    (machine,) = page.machines_of(rows)
    assert machine.endswith("; about 80 to 140 GFLOP/s in matrix products\n")
    assert page.machines_of(rows[:1])[0].endswith("; about 80 GFLOP/s in matrix products\n")


def test_few_pairs_are_as_widely_spread_as_all(scripts):
    cases = scripts["cases"]
    every = load_script("dpo_vs_trl").make_comparisons(cases.PAIRS)

    def length(row):
        return len(str(row.to_json()))

    few = cases.spread(every, cases.FEW_PAIRS)
    assert len(few) == cases.FEW_PAIRS
    assert max(map(length, few)) == max(map(length, every))
    ranks = sorted(sorted(map(length, every), reverse=True).index(length(row)) for row in few)
    assert ranks == list(range(0, cases.PAIRS, cases.PAIRS // cases.FEW_PAIRS))
    assert [every.index(row) for row in few] == sorted(every.index(row) for row in few)
    assert cases.spread(every, cases.PAIRS) == every


def test_some_ways_of_the_peer_are_run_alone(scripts):
    case = scripts["cases"].CASES["sample-fp32"].only(("256",))
    assert list(case.theirs) == ["256 rows at a time"]
    dpo = scripts["cases"].CASES["dpo-fp32"]
    assert (list(dpo.only(("comes",)).theirs), dpo.only(("comes",)).also) == (["as it comes"], {})
    assert dpo.only(()) == dpo


def test_a_name_that_is_no_benchmark_is_said(scripts, capsys):
    arguments = scripts["bench"].Arguments(only=("dpo-fp64",))
    assert scripts["bench"].main(arguments) == 2
    assert "no benchmark 'dpo-fp64'" in capsys.readouterr().out


def test_sides_take_turns_and_only_the_fastest_way_is_repeated(scripts, tmp_path, monkeypatch):
    bench, seen = scripts["bench"], []

    def record(script, job, work, *, python):
        seen.append((job["side"], json.dumps(job.get("settings", {}).get("precompute_ref_log_probs"))))
        return run(1.0 if job["side"] == "logratio" else 5.0, tokens_sha256="a", losses=[1.0])

    monkeypatch.setattr(bench, "run_job", record)
    console = SimpleNamespace(print=lambda *_, **__: None)
    found = bench.measure(case(scripts), {"model": "m"}, 2, tmp_path, console)
    assert seen == [
        ("logratio", "null"),
        ("trl", "null"),
        ("trl", "true"),
        ("trl", "null"),
        ("logratio", "null"),
        ("trl", "null"),
    ]
    assert found["ratio"] == 5.0


def test_a_point_of_growth_is_computed(scripts, monkeypatch):
    sides = scripts["growth_sides"]
    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    monkeypatch.setattr(
        sides, "SHAPE", sides.SHAPE | tiny | {"num_attention_heads": 2, "num_key_value_heads": 1}
    )
    point = scripts["growth"].POINT | {"vocabulary": 50, "repeats": 1, "groups": 3, "prompt": 7, "answer": 4}
    once = sides.run(point)
    assert once["tokens"] == 3 * (7 + 2 * 3)
    assert once["seconds"] > 0
    assert sides.run(point | {"prompt_once": False})["tokens"] == 3 * 2 * (7 + 3)


def test_growth_is_held_to_its_bars(scripts, tmp_path, monkeypatch):
    growth = scripts["growth"]
    taken = {32_768: 1.0e8, 65_536: 1.0e8, 131_072: 1.0e8, 262_144: 1.11e8}

    def record(script, job, work):
        return {
            "seconds": 1.0 if job["prompt_once"] else 2.0,
            "tokens": 100,
            "weight_bytes": 1,
            "beyond_bytes": taken.get(job["vocabulary"], 1e8),
            "matmul_2048_flops_per_second": 1e11,
            "versions": {"logratio": "0"},
        }

    monkeypatch.setattr(growth, "run_job", record)
    paths = {name: tmp_path / name for name in ("out", "results", "page")}
    paths["results"].write_text(json.dumps([{"name": "growth-vocabulary"}]))
    assert growth.main(growth.Arguments(only=("vocabulary", "prompt"), **paths)) == 1
    found = json.loads(paths["results"].read_text())
    assert [(one["name"], one["measured"], one["holds"]) for one in found] == [
        ("growth-vocabulary", pytest.approx(1.11), False),
        ("growth-prompt", 0.5, True),
    ]
    page = paths["page"].read_text()
    assert "over 32,768: 1.11, at most 1.10: **missed**" in page
    assert "| 49,152 | 1,024 | 64 | 2 | 2 | 2,048 | once | 100 | 0.500 s | 10.00 ms | 0.100 GB |" in page
    taken[262_144] = 1.0e8
    assert growth.main(growth.Arguments(only=("vocabulary",), **paths)) == 0
