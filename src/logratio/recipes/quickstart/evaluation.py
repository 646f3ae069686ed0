"""The last stage of the quickstart, and what comes of all of them: the report and the last lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers

from logratio.data.jsonl import read_prompts
from logratio.evaluation.model_comparison import EvaluationResult
from logratio.evaluation.run_evaluation import EvaluationConfig, evaluate_policies
from logratio.evaluation.summary import align, describe
from logratio.evaluation.upper_bound import above_the_bound
from logratio.evaluation.verdict import as_percent
from logratio.generation.config import SamplingConfig
from logratio.legacy_names import current_invariants, invariants_path
from logratio.recipes.evaluate import OpenedOnDemand, ensure_held_out
from logratio.recipes.evaluate import write_report as write_evaluation
from logratio.recipes.quickstart.context import (
    COUNTS,
    DPO,
    EVALUATION,
    HELD_OUT,
    PPO,
    SFT,
    START,
    TRAINING_PROMPTS,
    QuickstartContext,
)
from logratio.recipes.quickstart.ppo import compare_methods, find_bound
from logratio.report.collect import read_object
from logratio.report.page import render
from logratio.run_directory import REPORT, describe_machine, write_json
from logratio.runtime.memory import peak_memory_bytes


def evaluate(context: QuickstartContext, key: str) -> str:
    """Let the starting model and every trained one answer the held-out prompts."""
    settings = context.settings
    context.release()
    started = time.monotonic()
    rows = read_prompts(settings.out / HELD_OUT).usable
    trained_on = set(json.loads((settings.out / TRAINING_PROMPTS).read_text()))
    ensure_held_out(rows, frozenset(trained_on))
    models = OpenedOnDemand(sources_to_compare(context), device=settings.device, dtype="float32")
    sampling = SamplingConfig(
        max_new_tokens=settings.max_new_tokens, decode_batch_size=settings.decode_batch_size
    )
    config = EvaluationConfig(sampling=sampling, seed=settings.seed)
    evaluation = evaluate_policies(
        models,
        [row.prompt for row in rows],
        context.reward,
        config,
        columns=[row.judge_columns for row in rows],
        trained_on_judge=True,
    )
    provenance = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": describe_machine(),
        "device": settings.device,
        "dtype": "float32",
        "models": models.opened,
        "judge": context.reward_identity,
        "label_temperature": settings.label_temperature,
        "evaluation": config.to_json(),
        "evaluation_seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_comparison(context, evaluation, counts={"evaluated": len(rows)}, provenance=provenance)
    rate = evaluation.main.win_rate
    between = f"{as_percent(rate.low)} to {as_percent(rate.high)}"
    return f"{evaluation.verdict.outcome}: {as_percent(rate.value)} of {rate.n} won ({between})"


def sources_to_compare(context: QuickstartContext) -> dict[str, str]:
    """What the evaluation calls each model, and where it is."""
    trained = {"sft": SFT} | ({"ppo": PPO} if context.settings.with_ppo else {}) | {"policy": DPO}
    return {"reference": context.sources[START]} | {name: context.sources[at] for name, at in trained.items()}


def write_comparison(
    context: QuickstartContext,
    evaluation: EvaluationResult,
    *,
    counts: Mapping[str, int],
    provenance: Mapping[str, Any],
) -> None:
    """Write the evaluation, with the methods side by side where there are several, and print it."""
    extra: dict[str, Any] = {}
    if context.settings.with_ppo:
        bound = find_bound(context, evaluation)
        above = above_the_bound(bound, evaluation)
        evaluation = replace(evaluation, warnings=(*evaluation.warnings, *above))
        extra = compare_methods(context, evaluation, bound)
    out = context.settings.out / EVALUATION
    write_evaluation(out, evaluation, counts=counts, provenance=provenance, extra=extra)
    print(describe(evaluation), flush=True)


def write_report(context: QuickstartContext, ledger: dict[str, Any]) -> str:
    """Write report.json and report.html from what stands; returns the last lines: verdict and methods."""
    out = context.settings.out
    invariants = invariants_path(out)
    own = {
        "data": read_object(out / COUNTS),
        "invariants": current_invariants(json.loads(invariants.read_text())) if invariants.exists() else [],
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
        f"wins {as_percent(rate['value'])} of {rate['n']} ({as_percent(rate['low'])} to "
        f"{as_percent(rate['high'])}),",
        f"reward {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}),",
        f"KL {'at most ' if found.get('kl_is_bound') else ''}{found['kl']:.2f} nats per answer",
    )
