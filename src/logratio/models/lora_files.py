"""Adapters on disk, in peft's own format: saved beside a model, and read; `lora_merging` folds them in.

An adapter that is opened is merged at once. A new adapter laid on top has, when it is off, exactly that model
as its reference; continuing the old one with the bare base as reference would measure every divergence from
the wrong model, and its first DPO loss would not be ln 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from logratio.errors import BadConfig, ModelNotFound, UnsafeArtifact
from logratio.models.lora import LOW_RANK, POLICY, WRAPPED, require_peft
from logratio.run_directory import atomic_directory, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
"""What peft puts before the names of the base model's modules."""
BASE_HASH = "logratio_base_fingerprint"
"""Key of the file's metadata under which the hash of the base's weights stands."""


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """An adapter's directory."""

    directory: Path
    """Where it is."""
    base: str
    """What it lies on: a directory or a hub id."""
    revision: str | None
    """The base's revision on the hub."""
    base_fingerprint: str | None
    """Hash of the base's weights, where logratio saved the adapter."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows of the whole weights that it brings along beside low-rank ones, by their names in the base."""
    beside: tuple[str, ...] = ()
    """Further adapters in directories within its own, which are not opened with it."""


def save_adapter(model: Any, path: Path, *, name: str = POLICY, base_fingerprint: str | None = None) -> None:
    """Write an adapter to the directory `path`, whole or not at all, as `peft.PeftModel` reads it.

    What else training moves, such as a classifier's head, goes with it as `modules_to_save`.

    Raises:
        DiskFull: no room; what stood at `path` is intact.
        NotWritable: `path` cannot be written to.
    """
    import peft

    tensors = dict(peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    others = {
        place: parameter
        for place, parameter in model.named_parameters()
        if parameter.requires_grad and LOW_RANK not in place
    }
    settings = model.peft_config[name].to_dict() | {
        "inference_mode": True,
        "modules_to_save": sorted({place.rpartition(".")[0] for place in others}) or None,
    }
    metadata = {"format": "pt"} | ({BASE_HASH: base_fingerprint} if base_fingerprint else {})
    with atomic_directory(path) as temporary:
        save_file(
            {f"{PREFIX}{place}": value.detach().contiguous() for place, value in (tensors | others).items()},
            temporary / WEIGHTS,
            metadata=metadata,
        )
        # A set has another order in every process; a file should not.
        write_json(
            temporary / CONFIG,
            {
                key: sorted(value) if isinstance(value, set) else value
                for key, value in sorted(settings.items())
            },
        )


def is_adapter_directory(directory: Path) -> bool:
    """Whether a directory is an adapter's rather than a whole model's.

    Raises:
        BadConfig: it is both, so that nobody knows which is meant.
    """
    if not (directory / CONFIG).exists():
        return False
    whole = sorted([*directory.glob("model*.safetensors"), *directory.glob("pytorch_model*.bin")])
    if whole:
        raise BadConfig(
            f"the directory holds an adapter ({CONFIG}) and a whole model ({whole[0].name})",
            where=str(directory),
            action="put the adapter's two files into a directory of their own, and give one of the two",
        )
    return True


def read_adapter(directory: Path) -> AdapterSource:
    """What an adapter lies on; nothing of its weights is read.

    Raises:
        ModelNotFound: a file of it is missing or cannot be read, or it does not name its base.
        UnsafeArtifact: its weights are pickles.
        BadConfig: it is not a LoRA adapter of a language model.
        MissingExtra: peft is not installed.
    """
    settings = _read_config(directory)
    if not (directory / WEIGHTS).exists():
        if (directory / PICKLE).exists():
            raise UnsafeArtifact(
                f"the adapter's weights are a pickle ({PICKLE}), which runs code when it is opened",
                where=str(directory),
                action="convert it where you trust it: peft writes safetensors when it saves",
            )
        raise ModelNotFound(f"the adapter has no {WEIGHTS}", where=str(directory), action="save it again")
    kind, task = settings.get("peft_type"), settings.get("task_type")
    if kind != "LORA" or task not in (None, "CAUSAL_LM"):
        raise BadConfig(
            f"this is an adapter of type {kind} for {task}; only LoRA adapters of language models are opened",
            where=str(directory / CONFIG),
            action="merge it into its base with the tool that made it, and give the merged model",
        )
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelNotFound(
            "the adapter does not name the model that it lies on",
            where=str(directory / CONFIG),
            action="write the base's directory or hub id there as base_model_name_or_path",
        )
    require_peft(where=str(directory))
    fingerprint, rows = _read_header(directory / WEIGHTS)
    return AdapterSource(
        directory=directory,
        base=base,
        revision=revision,
        base_fingerprint=fingerprint,
        rows=rows,
        beside=nested_adapters(directory),
    )


def nested_adapters(directory: Path) -> tuple[str, ...]:
    """The directories of adapters in a directory, as peft leaves them where a model has several by name."""
    return tuple(sorted(str(path.parent) for path in directory.glob(f"*/{CONFIG}")))


def base_weight_name(name: str) -> str:
    """The name that a whole weight of an adapter's file has in the base."""
    return name.removeprefix(PREFIX).replace(".token_adapter", "").replace(WRAPPED, ".")


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"{CONFIG} cannot be read: {error}", where=str(path), action="save it again"
        ) from error
    if not isinstance(settings, dict):
        raise ModelNotFound(f"{CONFIG} is not a JSON object", where=str(path), action="save it again")
    return settings


def _read_header(path: Path) -> tuple[str | None, dict[str, int]]:
    """The hash of the base that stands in the file, and the rows of the whole weights in it."""
    try:
        with safe_open(path, framework="pt") as stream:
            shapes = {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
            known = (stream.metadata() or {}).get(BASE_HASH)
    except Exception as error:  # what safetensors raises has no common root
        raise ModelNotFound(
            f"{path.name} cannot be read: {error}", where=str(path), action="save it again"
        ) from error
    return known, {
        base_weight_name(name): shape[0] for name, shape in shapes.items() if _is_whole(name, shape)
    }


def _is_whole(name: str, shape: Sequence[int]) -> bool:
    return LOW_RANK not in name and name.endswith(".weight") and len(shape) > 1
