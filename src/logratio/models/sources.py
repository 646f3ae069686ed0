"""From what a person types for `--model` to a local directory that is safe to open."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from logratio.errors import BadConfig, ModelNotFound, UnsafeArtifact
from logratio.models.gguf import loading
from logratio.models.lora_files import (
    CONFIG,
    AdapterSource,
    is_adapter_directory,
    nested_adapters,
    read_adapter,
)

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
SAFE_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]
HUB_TIMEOUT_SECONDS = 5.0
WAYS = "give a transformers directory, a run directory, a .gguf file, or a hub id such as owner/name"


def local_directory(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """The directory that `source` stands for: itself, a run's `model/`, a converted GGUF, a hub download.

    It may be an adapter's; `resolve_adapter_stack` says what that lies on.

    Raises:
        ModelNotFound: it leads to nothing that can be opened.
        UnsafeArtifact: its weights are pickles, or it needs code that was not asked for at a pinned commit.
        BadConfig: its weights are quantised in a way that only their own library reads.
    """
    check_remote_code(revision=revision, trust_remote_code=trust_remote_code)
    path = Path(source).expanduser()
    if path.is_file():
        directory = _from_file(path)
    elif path.is_dir():
        directory = _from_directory(path)
    elif _looks_like_path(source):
        raise ModelNotFound("there is no such model", where=source, action=_hint(path))
    else:
        directory = _from_hub(source, revision=revision, with_code=trust_remote_code)
    check_directory(directory, source=source, trust_remote_code=trust_remote_code)
    return directory


def resolve_adapter_stack(directory: Path) -> tuple[Path, list[AdapterSource]]:
    """The whole model that a checked directory leads to, and the adapters on it, the outermost first.

    A base is looked for as if it had been typed. Code that it may bring is never run.

    Raises:
        ModelNotFound: the base is not there, or lies on itself.
        UnsafeArtifact, BadConfig: as for `local_directory`.
    """
    adapters: list[AdapterSource] = []
    while is_adapter_directory(directory):
        adapter = read_adapter(directory)
        if adapter.directory.resolve() in [one.directory.resolve() for one in adapters]:
            raise ModelNotFound(
                "the adapter lies on itself, and on no model",
                where=str(adapter.directory / CONFIG),
                action="write there as base_model_name_or_path what it was trained on",
            )
        adapters.append(adapter)
        try:
            directory = local_directory(adapter.base, revision=adapter.revision)
        except ModelNotFound as fault:
            raise ModelNotFound(
                f"the model that the adapter lies on cannot be opened: {fault.what} ({adapter.base})",
                where=str(adapter.directory / CONFIG),
                action="put it there, or write there as base_model_name_or_path where it is",
            ) from fault
    return directory, adapters


def check_remote_code(*, revision: str | None, trust_remote_code: bool) -> None:
    """Raise `UnsafeArtifact` where remote code is asked for without the commit that was read."""
    if trust_remote_code and not (revision and COMMIT.fullmatch(revision)):
        raise UnsafeArtifact(
            f"remote code at revision {revision!r}: a branch or tag can change under you",
            where="--trust-remote-code",
            action="read the code, then give that commit in full: --revision and its 40 hexadecimal digits",
        )


def check_directory(directory: Path, *, source: str, trust_remote_code: bool = False) -> None:
    """Raise unless `directory` has a configuration and safetensors, and no code that was not asked for."""
    if is_adapter_directory(directory):
        read_adapter(directory)
        return
    config = _read_config(directory, source=source)
    _check_weights(directory)
    _check_code(config, source=source, trust_remote_code=trust_remote_code)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown method")
        raise BadConfig(
            f"the weights are quantised ({method}); logratio trains and scores plain floating point",
            where=source,
            action="give the model's plain version, or a GGUF file of it, which is converted",
        )


def _from_file(path: Path) -> Path:
    if path.suffix == ".gguf":
        return loading.convert_gguf(path)
    if path.suffix in PICKLES:
        raise UnsafeArtifact(
            f"{path.name} is a pickle, which runs code when it is opened",
            where=str(path),
            action="give a directory with safetensors, or a .gguf file",
        )
    directory = f" (its directory is {path.parent})" if path.suffix == ".safetensors" else ""
    raise ModelNotFound(f"{path.name} is not a model by itself{directory}", where=str(path), action=WAYS)


def _from_directory(path: Path) -> Path:
    if (path / "config.json").exists() and _has_weights(path):
        return path
    inside = path / "model"
    if (inside / "config.json").exists():
        return inside
    if (path / "metrics.jsonl").exists() or (path / "checkpoints").is_dir():
        raise ModelNotFound(
            "this run has no model yet: it has not come to its end",
            where=str(path),
            action="go on with the run (--resume); its model will stand in model/",
        )
    return path


def _has_weights(path: Path) -> bool:
    return any(file.suffix in (".safetensors", *PICKLES) for file in path.iterdir())


def _read_config(directory: Path, *, source: str) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        files = sorted(file.name for file in directory.glob("*.gguf"))
        action = f"give the file: {directory / files[0]}" if files else WAYS
        if adapters := nested_adapters(directory):
            action = f"it holds adapters in directories of their own: give one of {', '.join(adapters)}"
        raise ModelNotFound("the directory has no config.json", where=source, action=action) from None
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"config.json cannot be read: {error}", where=str(path), action=WAYS) from error
    if not isinstance(config, dict):
        raise ModelNotFound("config.json is not a JSON object", where=str(path), action=WAYS)
    return config


def _check_weights(directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in directory.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise UnsafeArtifact(
            f"the only weights are pickles ({pickles[0]}), which run code when they are opened",
            where=str(directory),
            action="convert them where you trust them: load, then save_pretrained writes safetensors",
        )
    raise ModelNotFound("the directory has no .safetensors file", where=str(directory), action=WAYS)


def _check_code(config: dict[str, Any], *, source: str, trust_remote_code: bool) -> None:
    code = config.get("auto_map") or {}
    elsewhere = [str(name) for name in code.values() if "--" in str(name)]
    if trust_remote_code and elsewhere:
        raise UnsafeArtifact(
            f"its code is in another repository ({elsewhere[0]}), which the revision does not pin",
            where=source,
            action="copy that code beside the weights, or choose a model of a known architecture",
        )
    if not code or trust_remote_code:
        return
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        raise UnsafeArtifact(
            f"the model {config.get('model_type')!r} brings its own code, which is not run",
            where=source,
            action="read the code; then --trust-remote-code with --revision and the commit's 40 digits",
        )


def _looks_like_path(source: str) -> bool:
    return (
        not HUB_ID.fullmatch(source)
        or source.endswith((".gguf", ".safetensors", *PICKLES))
        # `runs/mine` has the form of a hub id; where `run_directory` is a directory, a directory was meant.
        or ("/" in source and Path(source).parent.is_dir())
    )


def _hint(path: Path) -> str:
    """The nearest thing that is there."""
    existing = next((parent for parent in path.parents if parent.is_dir()), Path())
    wrong = path.relative_to(existing).parts[0] if path != existing else ""
    names = [entry.name for entry in existing.iterdir() if not entry.name.startswith(".")]
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return (
        f"perhaps you meant {existing / near[0]}"
        if near
        else f"{existing.resolve()} is there, not {wrong}; {WAYS}"
    )


def _from_hub(source: str, *, revision: str | None, with_code: bool) -> Path:
    """Download, or find in the cache, the files of a hub model that hold no code and no pickles."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    patterns = [*SAFE_FILES, "*.py"] if with_code else SAFE_FILES
    try:
        info = HfApi().model_info(source, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
        _check_hub_files([file.rfilename for file in info.siblings or []], source=source)
        return Path(snapshot_download(source, revision=info.sha, allow_patterns=patterns))
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"the hub model has no revision {revision!r}", where=source, action="give another --revision"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            "there is no such directory, and the hub has no such model or asks for a login",
            where=source,
            action=f"mind the spelling; {WAYS}",
        ) from error
    except (UnsafeArtifact, ModelNotFound):
        raise
    except Exception as error:  # whatever the network does, the model may be in the cache
        return _from_hub_cache(source, revision=revision, because=error)


def _from_hub_cache(source: str, *, revision: str | None, because: Exception) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except Exception:
        reason = str(because).strip().split("\n")[0][:120] or type(because).__name__
        raise ModelNotFound(
            f"no such directory, the hub cannot be reached ({reason}), and its cache has no such model",
            where=source,
            action=f"{WAYS}; a hub id that was never downloaded needs the network",
        ) from because


def _check_hub_files(names: list[str], *, source: str) -> None:
    if any(name.endswith(".safetensors") for name in names):
        return
    if any(name.endswith(PICKLES) for name in names):
        raise UnsafeArtifact(
            "the hub model's only weights are pickles, which run code when they are opened",
            where=source,
            action="choose a model or a revision that has safetensors",
        )
    raise ModelNotFound("the hub model has no .safetensors file", where=source, action=WAYS)
