"""The last stage of the quickstart, and what comes of all of them: the report and the last lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers

from logratio.cli.evaluate import OpenedOnDemand, ensure_held_out
from logratio.cli.evaluate import write_report as write_evaluation
from logratio.cli.prompts import judge_columns
from logratio.cli.quickstart_bench import (
    COUNTS,
    DPO,
    EVALUATION,
    HELD_OUT,
    LAWS,
    PPO,
    SFT,
    START,
    TRAINING_PROMPTS,
    Bench,
)
from logratio.cli.quickstart_ppo import compare_methods, find_bound
from logratio.data.reading import read_prompts
from logratio.evaluation.compare import Evaluation
from logratio.evaluation.measure import EvaluationConfig, evaluate_policies
from logratio.evaluation.summary import align, describe
from logratio.evaluation.upper_bound import above_the_bound
from logratio.evaluation.verdict import percent
from logratio.policies.sampling_config import SamplingConfig
from logratio.report.collect import read_object
from logratio.report.page import render
from logratio.runs import REPORT, describe_machine, write_json
from logratio.training.memory import peak_memory_bytes


def evaluate(bench: Bench, key: str) -> str:
    """Let the starting model and every trained one answer the held-out prompts."""
    settings = bench.settings
    bench.release()
    started = time.monotonic()
    rows = read_prompts(settings.out / HELD_OUT).usable
    trained_on = set(json.loads((settings.out / TRAINING_PROMPTS).read_text()))
    ensure_held_out(rows, frozenset(trained_on))
    models = OpenedOnDemand(sources_to_compare(bench), device=settings.device, dtype="float32")
    sampling = SamplingConfig(max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size)
    config = EvaluationConfig(sampling=sampling, seed=settings.seed)
    evaluation = evaluate_policies(
        models,
        [row.prompt for row in rows],
        bench.reward,
        config,
        columns=[judge_columns(row) for row in rows],
        trained_on_judge=True,
    )
    provenance = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": describe_machine(),
        "device": settings.device,
        "dtype": "float32",
        "models": models.opened,
        "judge": bench.reward_identity,
        "label_temperature": settings.label_temperature,
        "evaluation": config.to_json(),
        "evaluation_seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_comparison(bench, evaluation, counts={"evaluated": len(rows)}, provenance=provenance)
    rate = evaluation.main.win_rate
    between = f"{percent(rate.low)} to {percent(rate.high)}"
    return f"{evaluation.verdict.outcome}: {percent(rate.value)} of {rate.n} won ({between})"


def sources_to_compare(bench: Bench) -> dict[str, str]:
    """What the evaluation calls each model, and where it is."""
    trained = {"sft": SFT} | ({"ppo": PPO} if bench.settings.with_ppo else {}) | {"policy": DPO}
    return {"reference": bench.sources[START]} | {name: bench.sources[at] for name, at in trained.items()}


def write_comparison(
    bench: Bench, evaluation: Evaluation, *, counts: Mapping[str, int], provenance: Mapping[str, Any]
) -> None:
    """Write the evaluation, with the methods side by side where there are several, and print it."""
    further: dict[str, Any] = {}
    if bench.settings.with_ppo:
        bound = find_bound(bench, evaluation)
        above = above_the_bound(bound, evaluation)
        evaluation = replace(evaluation, warnings=(*evaluation.warnings, *above))
        further = compare_methods(bench, evaluation, bound)
    out = bench.settings.out / EVALUATION
    write_evaluation(out, evaluation, counts=counts, provenance=provenance, further=further)
    print(describe(evaluation), flush=True)


def write_report(bench: Bench, ledger: dict[str, Any]) -> str:
    """Write report.json and report.html from what stands; returns the last lines: verdict and methods."""
    out = bench.settings.out
    laws = out / LAWS
    own = {
        "data": read_object(out / COUNTS),
        "laws": json.loads(laws.read_text()) if laws.exists() else [],
        "provenance": {"stage_seconds": {name: stage["seconds"] for name, stage in ledger.items()}},
    }
    write_json(out / REPORT, own)
    render(out)
    report = read_object(out / REPORT)
    return "\n\n".join(filter(None, [str(report["verdict"]["sentence"]), describe_methods(report)]))


def describe_methods(report: Mapping[str, Any]) -> str:
    """A line each for PPO and best-of-n; the verdict above is DPO's. Empty where DPO is alone."""
    methods = report.get("methods") or {}
    labels = {"ppo": "PPO", "best_of_n": f"best of {(methods.get('best_of_n') or {}).get('n')}"}
    rows = [_describe_method(label, methods[name]) for name, label in labels.items() if name in methods]
    return align(rows) if rows else ""


def _describe_method(label: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    rate, gain = found["win_rate"], found["reward_difference"]
    return (
        label,
        f"wins {percent(rate['value'])} of {rate['n']} ({percent(rate['low'])} to {percent(rate['high'])}),",
        f"reward {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}),",
        f"KL {'at most ' if found.get('kl_is_bound') else ''}{found['kl']:.2f} nats an answer",
    )
