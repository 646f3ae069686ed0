"""A control policy as a directory: weights in safetensors, and what it must be told in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from logratio.control.policy import ControlPolicy, NetworkConfig
from logratio.errors import ModelNotFound, UnknownFormatVersion
from logratio.legacy_names import current_networks, current_weights
from logratio.run_directory import atomic_directory

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
FORMAT_VERSION = 1


def save_policy(
    policy: ControlPolicy,
    path: Path,
    *,
    spaces: Mapping[str, Any],
    scale: Mapping[str, Any],
    environment: str,
    action_scaling: Mapping[str, Any] | None = None,
) -> None:
    """Write policy and critic, with the form of what it sees and does and the scale it sees it in.

    Args:
        policy: what is written.
        path: the directory, which is there whole or not at all.
        spaces: `shape`, `sizes` and `num_numbers`, as `ControlPolicy` takes them.
        scale: the state of the observations' normalisation.
        environment: the name of what it was trained on.
        action_scaling: `centre` and `scale` of `a = centre + scale · u`, u what the policy gives and `a` the
            action before it is cut to the bounds; none where u is the action.
    """
    description = {
        "format": FORMAT_VERSION,
        "environment": environment,
        "spaces": dict(spaces),
        "networks": asdict(policy.config),
        "critic": policy.value_layer is not None,
        "separate_critic": policy.separate_critic,
        "observation_scale": dict(scale),
    }
    if action_scaling is not None:
        description["action_scaling"] = dict(action_scaling)
    weights = {name: value.detach().contiguous() for name, value in policy.state_dict().items()}
    with atomic_directory(path) as temporary:
        save_file(weights, temporary / WEIGHTS)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")


def load_policy(path: Path) -> tuple[ControlPolicy, dict[str, Any]]:
    """Read a policy; returns it with its description.

    Raises:
        ModelNotFound: there is no policy in the directory.
        UnknownFormatVersion: it was written in another format.
    """
    if not (path / DESCRIPTION).is_file() or not (path / WEIGHTS).is_file():
        raise ModelNotFound(
            "there is no control policy", where=str(path), action="give a run's model directory"
        )
    description = json.loads((path / DESCRIPTION).read_text())
    if description.get("format") != FORMAT_VERSION:
        raise UnknownFormatVersion(
            f"the policy has format {description.get('format')}, this version reads {FORMAT_VERSION}",
            where=str(path),
        )
    networks = current_networks(description["networks"])
    networks["hidden_sizes"] = tuple(networks["hidden_sizes"])
    spaces = description["spaces"]
    policy = ControlPolicy(
        shape=tuple(spaces["shape"]),
        sizes=tuple(spaces["sizes"]),
        num_numbers=int(spaces["num_numbers"]),
        config=NetworkConfig(**networks),
        critic=bool(description["critic"]),
        separate_critic=bool(description.get("separate_critic", description.get("own_critic"))),
        seed=0,
    )
    policy.load_state_dict(current_weights(load_file(path / WEIGHTS)))
    return policy.eval(), description
