"""A run directory with plausible numbers and hostile texts, written without a model."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

HOSTILE = (
    "<script>alert('script ran')</script>",
    '<img src=x onerror="alert(1)"> and ![a picture](http://tracker.example/pixel.png)',
    "[click me](javascript:alert(1)) <a href='https://evil.example'>here</a>",
    "reversed \u202edaer eb ton dluohs siht\u202c and zero\u200bwidth\u2060\ufeff joiner",
    "terminal \x1b[31mred\x1b[0m bell \x07 nul \x00 end",
    "</p></main></body></html><!-- the page goes on --><style>body{display:none}</style>",
    "\u202bשלום עולם\u202c with 日本語 and 🙂🙂",
    "&lt;already escaped&gt; &amp; ]]> ${run} {{ template }} %s",
)
PLAIN = (
    "What a lovely little place! The soup was warm, the waiter kind, and I would gladly come back.",
    "The train was late and the coach crowded, but the conductor was friendly and told us why.",
    "It's fine. Nothing special, nothing wrong.",
    "I enjoyed this book a great deal: a patient story, well told, with an ending that stays with you.",
    "The keyboard feels good, but the battery hardly lasts a day.",
)
SUBJECTS = ("a bakery", "the night train", "a second-hand bicycle", "the museum café", "a rain jacket")


def dpo_rows(count: int = 120, *, seed: int = 1) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for step in range(1, count + 1):
        done = (step - 1) / count
        noise = 0.0 if step == 1 else 1.0
        margin = 0.9 * (1 - math.exp(-3 * done)) + noise * draw.gauss(0, 0.12)
        chosen = -0.15 * done + 0.35 * (1 - math.exp(-4 * done)) + noise * draw.gauss(0, 0.08)
        accuracy = (
            0.0 if step == 1 else min(8, max(0, round(8 * (0.5 + 0.3 * done + draw.gauss(0, 0.1))))) / 8
        )
        rows.append(
            {
                "stage": "dpo",
                "step": step,
                "epoch": step * 8 / 960,
                "loss": math.log(2) if step == 1 else math.log1p(math.exp(-margin)) + draw.gauss(0, 0.03),
                "margin": margin,
                "chosen_reward": chosen,
                "rejected_reward": chosen - margin,
                "accuracy": accuracy,
                "gradient_weight": 1 / (1 + math.exp(margin)),
                "gradient_norm": 6 * math.exp(-done) + abs(draw.gauss(0, 0.8)),
                "learning_rate": 1e-5 * min(step / 12, 0.5 * (1 + math.cos(math.pi * done))),
                "chosen_logprob": -48 + 10 * chosen,
                "rejected_logprob": -52 + 10 * (chosen - margin),
                "tokens": 512,
                "pairs_per_second": 2.1,
                "tokens_per_second": 140.0,
                "seconds": 3.8,
            }
        )
    return rows


def sft_rows(count: int = 60, *, seed: int = 2) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "stage": "sft",
            "step": step,
            "epoch": step * 8 / 480,
            "loss": 1.9 + 0.5 * math.exp(-step / 15) + draw.gauss(0, 0.06),
            "gradient_norm": 2.5 + abs(draw.gauss(0, 0.5)),
            "learning_rate": 1e-5 * min(step / 6, 1 - step / count),
            "tokens": 260,
            "tokens_per_second": 160.0,
            "seconds": 1.7,
        }
        for step in range(1, count + 1)
    ]


def sample_rows(count: int = 24, *, seed: int = 3) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for index in range(count):
        hostile = HOSTILE[index % len(HOSTILE)] if index % 2 == 0 else ""
        prompt = f"Write a short remark about {SUBJECTS[index % len(SUBJECTS)]}. {hostile}".strip()
        answers = {}
        for place, name in enumerate(("reference", "sft", "policy")):
            text = f"{PLAIN[(index + place) % len(PLAIN)]} {HOSTILE[(index // 2 + place) % len(HOSTILE)]}"
            answers[name] = {
                "text": PLAIN[(index + place) % len(PLAIN)] if index % 4 else text,
                "reward": max(-1.0, min(1.0, draw.gauss(0.2 + 0.12 * place, 0.35))),
                "kl": 0.0 if place == 0 else abs(draw.gauss(1.5 * place, 0.8)),
                "length": draw.randint(18, 60),
                "finish_reason": "length" if draw.random() < 0.15 else "stop",
            }
        rows.append(
            {"set": ("random", "worst", "most_changed")[index % 3], "prompt": prompt, "answers": answers}
        )
    return rows


def contests() -> list[dict[str, Any]]:
    rates = {
        ("policy", "reference"): (0.640625, 0.5638, 0.7108),
        ("sft", "reference"): (0.55, 0.472, 0.625),
        ("policy", "sft"): (0.594, 0.516, 0.667),
    }
    return [
        {
            "name": name,
            "against": against,
            "win_rate": {"value": value, "low": low, "high": high, "n": 160},
            "length_controlled_win_rate": {"value": value - 0.012, "low": low - 0.015, "high": high - 0.01},
            "longer_share_of_wins": 0.541,
            "reward_difference": {"value": value - 0.45, "low": value - 0.52, "high": value - 0.38},
            "identical": 4,
        }
        for (name, against), (value, low, high) in rates.items()
    ]


def evaluation(**changes: Any) -> dict[str, Any]:
    judge = "sentiment (vaderSentiment's compound score)"
    report = {
        "verdict": {
            "outcome": "better",
            "judge": judge,
            "sentence": f"The policy is better than the reference, judged by {judge}, which is "
            "also what it was "
            "trained towards: it wins 64.1 % of 160 prompts, 9 ties counted half (95 % interval "
            "56.4 % to 71.1 %, "
            "all of it above one half).",
        },
        "win_rate": {
            "value": 0.640625,
            "low": 0.5638,
            "high": 0.7108,
            "n": 160,
            "wins": 98,
            "ties": 9,
            "losses": 53,
            "method": "wilson",
            "confidence": 0.95,
        },
        "length_controlled_win_rate": {"value": 0.628, "low": 0.549, "high": 0.701},
        "reward": {"reference": 0.262, "sft": 0.331, "policy": 0.448},
        "reward_interval": {"reference": [0.203, 0.321], "sft": [0.274, 0.389], "policy": [0.394, 0.5]},
        "kl": {"sft": 1.21, "policy": 4.37},
        "kl_interval": {"sft": [1.08, 1.35], "policy": [4.05, 4.71]},
        "length": {"reference": 38.4, "sft": 37.2, "policy": 40.9},
        "eos_rate": {"reference": 0.83, "sft": 0.87, "policy": 0.881},
        "distinct_2": {"reference": 0.71, "sft": 0.69, "policy": 0.66},
        "stages": [{"name": "sft", "win_rate": {"value": 0.55, "low": 0.472, "high": 0.625, "n": 160}}],
        "data": {
            "num_rows": 1000,
            "unusable": {"IdenticalPair": 27, "EmptyAnswer": 3},
            "num_usable": 970,
            "train": 960,
            "held_out": 10,
            "label_temperature": 0.25,
        },
        "samples": sample_rows(),
        "reward_differences": [random.Random(index).gauss(0.19, 0.42) for index in range(160)],
        "longer_share_of_wins": 0.541,
        "comparisons": contests(),
        "provenance": {
            "logratio": "0.1.0",
            "seed": 0,
            "model": "SmolLM2-135M-Instruct",
            "model_hash": "4f2a91c07be3d6a8",
        },
        "written_by_evaluate": {"keep": "me"},
    }
    return report | changes


def frontier() -> dict[str, Any]:
    """Best-of-n, and a bound that ends where its samples do."""
    kls = [0.0006 * 1.35**index for index in range(26)]
    bound = [
        {
            "beta": 0.42 / math.sqrt(2 * kl),
            "kl": kl,
            "reward": 0.262 + gain,
            "reward_interval": [0.262 + 0.93 * gain, 0.262 + 1.06 * gain],
            "effective_samples": 512 * math.exp(-1.5 * kl),
        }
        for kl in kls
        if (gain := 0.42 * math.sqrt(2 * kl) * math.exp(-0.22 * kl))
    ]
    gained = {1: 0.004, 2: 0.09, 4: 0.165, 8: 0.222, 16: 0.26}
    best = [
        {
            "n": n,
            "reward": 0.262 + gain,
            "reward_interval": [0.222 + gain, 0.302 + gain],
            "kl_bound": math.log(n) - (n - 1) / n,
        }
        for n, gain in gained.items()
    ]
    return {"best_of_n": best, "upper_bound": bound, "prompts": 24, "samples_a_prompt": 512}


def methods() -> dict[str, Any]:
    """The same policy as in `evaluation`, PPO, and the best of 16."""
    rates = {
        "dpo": (0.640625, 0.5638, 0.7108),
        "ppo": (0.694, 0.618, 0.76),
        "best_of_n": (0.681, 0.605, 0.748),
    }
    rows = {
        name: {"win_rate": {"value": value, "low": low, "high": high, "n": 160}}
        for name, (value, low, high) in rates.items()
    }
    rows["dpo"] |= {"reward": 0.448, "reward_interval": [0.394, 0.5], "kl": 4.37, "kl_interval": [4.05, 4.71]}
    rows["ppo"] |= {"reward": 0.561, "reward_interval": [0.512, 0.609], "kl": 6.2, "kl_interval": [5.7, 6.72]}
    rows["best_of_n"] |= {
        "n": 16,
        "reward": 0.522,
        "reward_interval": [0.482, 0.562],
        "kl": math.log(16) - 15 / 16,
        "kl_is_bound": True,
    }
    return rows


def beside_ppo() -> dict[str, Any]:
    """What a quickstart with PPO changes in `evaluation`: a stage, its contests, methods and frontier."""
    report = evaluation()
    rows = methods()["ppo"]
    contest = report["comparisons"][1]
    for row in report["samples"]:
        answer = row["answers"]["sft"] | {"text": PLAIN[3], "kl": 6.0}
        row["answers"] = {**row["answers"], "ppo": answer}
    return {
        name: {**report[name], "ppo": rows[name]}
        for name in ("reward", "reward_interval", "kl", "kl_interval")
    } | {
        "stages": [*report["stages"], {"name": "ppo", "win_rate": rows["win_rate"]}],
        "comparisons": [
            *report["comparisons"],
            contest | {"name": "ppo", "win_rate": rows["win_rate"]},
            contest | {"name": "policy", "against": "ppo"},
        ],
        "samples": report["samples"],
        "methods": methods(),
        "frontier": frontier(),
    }


INVARIANTS = [
    {"name": "step_zero_loss", "value": 0.693147, "limit": 0.693147, "step": 0},
    {"name": "step_zero_rewards", "value": 2.4e-7, "limit": 0.0, "step": 0},
    {"name": "packed_equals_unpacked", "value": 1.9e-6, "limit": 1e-3, "step": 0},
    {"name": "accumulation_equals_batch", "value": 3.1e-8, "limit": 1e-5, "step": 119},
    {"name": "reference_unchanged", "value": 0.0, "limit": 0.0, "step": 120},
]


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_training(
    path: Path, rows: list[dict[str, Any]], *, invariants: list[Any], finished: bool = True
) -> Path:
    path.mkdir(parents=True)
    write_lines(path / "metrics.jsonl", rows)
    stage = rows[0]["stage"]
    config = {
        "command": stage,
        "settings": {"learning_rate": 1e-5, "batch_size": 8, "seed": 0, "shuffle": True},
        "identity": {"stage": stage, "data_sha256": "ab" * 32, "model_fingerprint": "4f2a91c07be3d6a8"},
    }
    (path / "config.json").write_text(json.dumps(config))
    if finished:
        (path / "invariants.json").write_text(json.dumps(invariants))
        summary = {
            "stage": stage,
            "updates": len(rows),
            "examples": 8 * len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "peak_memory_bytes": 2_410_000_000,
        }
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def write_quickstart(path: Path, **changes: Any) -> Path:
    """A whole quickstart directory; `changes` replace keys of the evaluation."""
    write_training(path / "sft", sft_rows(), invariants=INVARIANTS[2:3])
    write_training(path / "dpo", dpo_rows(), invariants=INVARIANTS)
    write_lines(path / "prompts.jsonl", [{"prompt": str(number)} for number in range(660)])
    write_lines(path / "comparisons.jsonl", [{"prompt": str(number)} for number in range(1000)])
    (path / "config.json").write_text(json.dumps({"command": "quickstart", "settings": {"seed": 0}}))
    (path / "report.json").write_text(json.dumps(evaluation(**changes)))
    return path
