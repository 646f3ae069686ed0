"""Loading and saving models: one `load` for a directory, a run, a hub id or a GGUF file."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from logratio.errors import BadConfig, ModelNotFound, SpecialTokenTrouble
from logratio.models.config_limits import limits_of_config, limits_of_model
from logratio.models.end_of_turn import register_end_tokens
from logratio.models.gguf.loading import conversion_notes, embedded_model_path
from logratio.models.input_limits import ModelLimits, ensure_tokenizer_fits
from logratio.models.lora import WRAPPED
from logratio.models.lora_files import CONFIG, AdapterSource
from logratio.models.lora_merging import merge_adapter_source
from logratio.models.sources import local_directory, resolve_adapter_stack
from logratio.run_directory import atomic_directory, write_json
from logratio.runtime.malloc import keep_freed_memory

__all__ = [
    "LoadedModel",
    "embedded_model_path",
    "load",
    "load_tokenizer",
    "read_limits",
    "save",
    "weights_fingerprint",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer."""

    model: Any
    """A transformers model for causal language modelling; its dropout is 0."""
    tokenizer: Any
    """Its tokenizer; it has an end token and a padding token."""
    source: str
    """What was asked for."""
    directory: Path
    """The local directory it was opened from."""
    fingerprint: str
    """The first 16 hexadecimal digits of the sha256 of the weights."""
    notes: tuple[str, ...] = ()
    """What loading changed, in sentences worth showing."""


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers' own progress bars out of the way; how it was before is restored."""
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


@without_progress_bars()
def load(
    source: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Open a model: a transformers directory, a run directory, a hub id, a `.gguf` file, or an adapter.

    Weights come from safetensors only. Dropout is set to 0, since sampled and recomputed
    log-probabilities could not agree otherwise. An adapter in peft's format is merged into the base that it
    names, and what is loaded is the model that results.

    Raises:
        ModelNotFound: `source` leads to nothing that can be loaded.
        UnsafeArtifact: it holds only pickles, or needs code that was not asked for at a pinned commit.
        SpecialTokenTrouble: its tokenizer has no end token.
        TokenWithoutEmbedding: its chat template writes a token that has no embedding.
        BadConfig: the device is not there, the dtype is not known, tokenizer and model do not fit, or an
            adapter is not LoRA or was trained on another base.
        MissingExtra: it is an adapter, and peft is not installed.
    """
    keep_freed_memory()
    checked_device, checked_dtype = check_device(device), check_dtype(dtype)
    directory = local_directory(source, revision=revision, trust_remote_code=trust_remote_code)
    whole, adapters = resolve_adapter_stack(directory)
    code = {"trust_remote_code": trust_remote_code and not adapters, "local_files_only": True}
    tokenizer, notes = _open_tokenizer(_tokenizer_home(whole, adapters), source, code)
    ensure_tokenizer_fits(tokenizer, _read_limits(whole, adapters, source, code), source=source)
    model, more = _open_model(whole, source, checked_dtype, code)
    model, merged = _merge(model, adapters)
    fitted = _fit_tokenizer(model, tokenizer, source=source)
    return LoadedModel(
        model=model.to(checked_device).eval(),
        tokenizer=tokenizer,
        source=source,
        directory=directory,
        fingerprint=weights_fingerprint(model),
        notes=(*conversion_notes(whole), *notes, *more, *merged, *fitted),
    )


@without_progress_bars()
def load_tokenizer(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Open the tokenizer of what `load` opens, and none of its weights.

    Raises:
        ModelNotFound: `source` leads to nothing that can be loaded.
        UnsafeArtifact: as for `load`.
        SpecialTokenTrouble: it has no end token.
        BadConfig, TokenWithoutEmbedding: as for `load`: it is not this model's.
    """
    directory = local_directory(source, revision=revision, trust_remote_code=trust_remote_code)
    whole, adapters = resolve_adapter_stack(directory)
    code = {"trust_remote_code": trust_remote_code and not adapters, "local_files_only": True}
    tokenizer, _ = _open_tokenizer(_tokenizer_home(whole, adapters), source, code)
    ensure_tokenizer_fits(tokenizer, _read_limits(whole, adapters, source, code), source=source)
    return tokenizer


def read_limits(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> ModelLimits:
    """The tokens and lengths of rows that what `load` opens can read; no weight is loaded.

    Raises:
        ModelNotFound, UnsafeArtifact, BadConfig: as for `load`.
    """
    directory = local_directory(source, revision=revision, trust_remote_code=trust_remote_code)
    whole, adapters = resolve_adapter_stack(directory)
    code = {"trust_remote_code": trust_remote_code and not adapters, "local_files_only": True}
    return _read_limits(whole, adapters, source, code)


@without_progress_bars()
def save(model: Any, tokenizer: Any, path: Path | str) -> None:
    """Write model and tokenizer to the directory `path`, whole or not at all, in float32 safetensors.

    `AutoModelForCausalLM.from_pretrained` opens it and gives the same logits; a bfloat16 model is widened,
    which loses nothing.

    Raises:
        DiskFull: no room; what stood at `path` is intact.
        NotWritable: `path` cannot be written to.
    """
    plain = model
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        plain = copy.deepcopy(model).float()
    generation_config = model.generation_config
    plain.generation_config = _valid_generation_config(generation_config)
    try:
        with atomic_directory(Path(path)) as temporary:
            _write(plain, tokenizer, temporary)
    finally:
        model.generation_config = generation_config


def weights_fingerprint(model: Any, *, trainable: bool = True) -> str:
    """The first 16 hexadecimal digits of the sha256 of the weights: names, shapes, dtypes and bytes.

    The frozen weights under an adapter have the hash that the same model has without one.

    Args:
        model: any module.
        trainable: whether weights that training moves are counted too; without them, what must stay.
    """
    digest = hashlib.sha256()
    # A tied weight is one parameter under its first name.
    named = ((name.replace(WRAPPED, "."), parameter) for name, parameter in model.named_parameters())
    for name, parameter in sorted(named, key=lambda entry: entry[0]):
        if parameter.requires_grad and not trainable:
            continue
        weights = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(weights.shape)} {weights.dtype}\n".encode())
        digest.update(memoryview(weights.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]


def check_device(name: str) -> torch.device:
    """The device called `name`, or `BadConfig` where this machine does not have it."""
    try:
        device = torch.device(name)
        if device.type != "meta":
            torch.empty(0, device=device)
            return device
        reason = "it holds no numbers"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
    found = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    raise BadConfig(
        f"the device {name!r} cannot be used: {reason}",
        where="--device",
        action=f"this machine has: {', '.join(found)}",
    )


def check_dtype(name: str) -> torch.dtype:
    """The dtype called `name`, or `BadConfig`."""
    if name not in DTYPES:
        raise BadConfig(
            f"the dtype {name!r} is not known", where="--dtype", action=f"one of {', '.join(DTYPES)}"
        )
    return DTYPES[name]


def _tokenizer_home(whole: Path, adapters: Sequence[AdapterSource]) -> Path:
    """Where the tokenizer is: with the outermost adapter that brings one, or with the model."""
    brought = [one.directory for one in adapters if (one.directory / "tokenizer_config.json").exists()]
    return [*brought, whole][0]


def _merge(model: Any, adapters: Sequence[AdapterSource]) -> tuple[Any, tuple[str, ...]]:
    """Merge adapters, the outermost first, into the model that they lie on; the model, and what to say."""
    notes: list[str] = []
    for number, adapter in enumerate(reversed(adapters)):
        known = adapter.base_fingerprint
        # Only of weights as they stand in files: narrowed ones differ, and merges round as machines do.
        comparable = number == 0 and model.dtype == torch.float32
        if comparable and known is not None and known != weights_fingerprint(model):
            raise BadConfig(
                f"{adapter.base} does not have the weights that the adapter was trained on",
                where=str(adapter.directory / CONFIG),
                action="write there as base_model_name_or_path where the model of that time is",
            )
        model, said = merge_adapter_source(model, adapter)
        notes += [f"an adapter is merged into {adapter.base}", *said]
        if adapter.beside:
            notes.append(f"further adapters are not opened with it: {', '.join(adapter.beside)}")
    return model, tuple(notes)


def _open_tokenizer(directory: Path, source: str, code: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), **code)
    except Exception as error:
        raise ModelNotFound(
            f"the tokenizer cannot be loaded: {_first_line(error)}",
            where=source,
            action="the directory needs tokenizer.json and tokenizer_config.json beside the weights",
        ) from error
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _end_token_of_config(directory, tokenizer, source=source)
    register_end_tokens(tokenizer, _ids_of(directory / "generation_config.json"))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        # Masks say what is padding, never the token: an end token that is sampled keeps its loss.
        return tokenizer, (f"the tokenizer has no padding token: {tokenizer.eos_token!r} pads",)
    return tokenizer, ()


def _end_token_of_config(directory: Path, tokenizer: Any, *, source: str) -> str:
    for name in ("generation_config.json", "config.json"):
        ids = _ids_of(directory / name)
        if ids and 0 <= ids[0] < len(tokenizer):
            return tokenizer.convert_ids_to_tokens(ids[0])
    raise SpecialTokenTrouble(
        "the tokenizer has no end token, so that no answer could ever end",
        where=source,
        action="set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json",
    )


def _read_limits(
    whole: Path, adapters: Sequence[AdapterSource], source: str, code: dict[str, Any]
) -> ModelLimits:
    """The limits of a model with its adapters: the outermost that brings embeddings says how many rows."""
    config = _open_config(whole, source, code)
    brought = [one.rows for one in adapters if one.rows]
    if not brought:
        return limits_of_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=code["trust_remote_code"])
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings)
    found = [rows[f"{name}.weight"] for rows in brought if f"{name}.weight" in rows]
    return limits_of_config(config, embedding_rows=next(iter(found), None))


def _open_config(directory: Path, source: str, code: dict[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(str(directory), **code)
    except Exception as error:
        raise _not_loadable(error, source) from error


def _not_loadable(error: Exception, source: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model cannot be loaded: {_first_line(error)}",
        where=source,
        action="it must be a decoder (causal) language model that transformers knows, with whole files",
    )


def _ids_of(path: Path) -> list[int]:
    """The end tokens that a configuration names."""
    value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else None
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]


def _open_model(
    directory: Path, source: str, dtype: torch.dtype, code: dict[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    config = _open_config(directory, source, code)
    notes = _remove_dropout(config)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(directory), config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **code
        )
    except Exception as error:
        raise _not_loadable(error, source) from error
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill these with random numbers and go on.
        raise ModelNotFound(
            f"{len(missing)} weights are not in its files, {missing[0]} among them",
            where=source,
            action="download or save it again: a file is missing, or it is the model of another task",
        )
    # A padding token that is also the end token would have no gradient where a conversation reads it; there
    # is no padding here that needs one kept still.
    embeddings = model.get_input_embeddings()
    if getattr(embeddings, "padding_idx", None) is not None:
        embeddings.padding_idx = None
    return model, notes


def _remove_dropout(config: Any) -> tuple[str, ...]:
    active = {
        name: value
        for name, value in config.to_dict().items()
        if "drop" in name and isinstance(value, float) and value > 0
    }
    for name in active:
        setattr(config, name, 0.0)
    return tuple(f"{name} was {value} and is now 0" for name, value in active.items())


def _fit_tokenizer(model: Any, tokenizer: Any, *, source: str) -> tuple[str, ...]:
    """Raise where the tokenizer is another model's; pad with the end token where the other has no row."""
    limits = limits_of_model(model)
    ensure_tokenizer_fits(tokenizer, limits, source=source)
    if tokenizer.pad_token_id < (limits.embedding_rows or 0):
        return ()
    # A padding token that somebody added without widening the model.
    note = f"the padding token {tokenizer.pad_token!r} has no embedding: {tokenizer.eos_token!r} pads"
    tokenizer.pad_token = tokenizer.eos_token
    return (note,)


def _valid_generation_config(config: Any) -> Any:
    """What transformers agrees to write: sampling flags beside `do_sample=False` are refused by it."""
    repaired = copy.deepcopy(config)
    for attempt in ({}, {"do_sample": True}):
        for name, value in attempt.items():
            setattr(repaired, name, value)
        try:
            repaired.validate(strict=True)
        except ValueError:
            continue
        return repaired
    tokens = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**tokens)


def _write(model: Any, tokenizer: Any, directory: Path) -> None:
    try:
        model.save_pretrained(directory)
    except SafetensorError as error:
        # It wraps the operating system's errors in its own; a full disk has a name here.
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, "no space left on device") from error
        raise
    tokenizer.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(path, config)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
