"""The versions that a run's numbers are computed with, and which of them changed before it went on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from logratio.version import __version__


def describe_versions() -> dict[str, str]:
    """The libraries whose versions change numbers, of those that are installed."""
    versions = {"logratio": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "gymnasium"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _computed_with(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers are computed with, as its `config.json` says; older ones know little of it."""
    known = {"logratio": config["logratio"]} if "logratio" in config else {}
    return {**known, **config.get("versions", {}), **config.get("computed_with", {})}


def changed_versions(
    before: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, Any], str] | None:
    """All versions as they are now and a sentence on those that changed since a run last went on, if any did.

    They decide the last bits of the numbers and no more: what is trained is decided by data, tokens, model
    and settings, which are the run's identity. To refuse would cost hours of work for rounding.

    Args:
        before: the run's `config.json`.
        config: what it would be now.
    """
    resumed = before.get("resumed_with", [])
    last = resumed[-1] if resumed else _computed_with(before)
    now = _computed_with({**config, "versions": describe_versions()})
    changed = sorted(name for name in now if name in last and last[name] != now[name])
    if not changed:
        return None
    changes = "; ".join(f"{name} was {last[name]}, is {now[name]}" for name in changed)
    return now, f"{changes}: the run goes on, the last digits of its numbers may differ"
