"""Names that files of logratio 0.1 use, read as those of today: old runs stay readable and resumable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

INVARIANTS, OLD_INVARIANTS = "invariants.json", "laws.json"

SETTINGS = {
    "penalty": "kl_penalty",
    "stop_at": "early_stop_factor",
    "cut_off_reward": "truncated_reward",
    "missing_end_penalty": "truncation_penalty",
    "watch": "monitor",
    "decode_batch": "decode_batch_size",
}
"""Settings in `config.json`."""
GONE = frozenset({"kl_estimator"})
"""Settings in `config.json` that could have one value only."""
NETWORKS = {
    "widths": "hidden_sizes",
    "memory": "recurrent_width",
    "deviation": "std",
    "initial_log_deviation": "initial_log_std",
}
"""Networks of a control policy, in `config.json` and `policy.json`."""
METRICS = {"penalty": "kl_penalty"}
"""Columns of `metrics.jsonl`."""
MONITORED = {"watched/": "monitored/"}
"""How columns of `metrics.jsonl` begin."""
STATES = {"watch": "runaway_guard", "penalty": "kl_penalty", "remembered": "hidden_state"}
"""What a checkpoint keeps beside weights, in `state.json`."""
WEIGHTS = {"memory.cell.": "recurrent.cell.", "head.log_deviation": "head.log_std"}
"""How the names of a control policy's weights begin."""
CHECKS = {"packed_equals_apart": "packed_equals_unpacked"}
"""Names of invariants."""


def current_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of `config.json`, or a part of them, with the names of today."""
    # Words such as `memory` may mean something else beside what is not a network.
    names = SETTINGS | (NETWORKS if NETWORKS.keys() <= config.keys() else {})
    renamed = {
        names.get(name, name): current_settings(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in GONE
    }
    if renamed.get("reward_baseline") == "siblings":
        renamed["reward_baseline"] = "group"
    return renamed


def current_networks(networks: Mapping[str, Any]) -> dict[str, Any]:
    """The networks of `policy.json` with the names of today."""
    return {NETWORKS.get(name, name): value for name, value in networks.items()}


def current_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `metrics.jsonl` with the names of today."""
    return {METRICS.get(name, _renamed_prefix(name, MONITORED)): value for name, value in row.items()}


def current_states(states: Mapping[str, Any]) -> dict[str, Any]:
    """The states of a checkpoint with the names of today."""
    return {STATES.get(name, name): value for name, value in states.items()}


def current_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of a control policy by the names of today."""
    return {_renamed_prefix(name, WEIGHTS): value for name, value in weights.items()}


def invariants_path(directory: Path) -> Path:
    """Where the invariants of a run are written; those of an old run, where it has no others."""
    path, old = directory / INVARIANTS, directory / OLD_INVARIANTS
    return old if old.is_file() and not path.is_file() else path


def current_invariants(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked invariants with the names of today."""
    return [dict(row) | ({"name": CHECKS[row["name"]]} if row.get("name") in CHECKS else {}) for row in rows]


def _renamed_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
