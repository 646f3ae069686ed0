"""Environments written for gym, which Gymnasium has followed: told apart from those that merely go wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

OLD_FORM = "as environments of the old gym package do"
WRAP = (
    "where it is not yours, register it wrapped in shimmy's GymV21CompatibilityV0 "
    "(pip install 'shimmy[gym-v21]')"
)
NEW_FORM = (
    "let reset(*, seed=None, options=None) give (observation, info), and step five values: observation, "
    f"reward, terminated, truncated, info; {WRAP}"
)
UNPACKED = re.compile(r"(?:not enough|too many) values to unpack \(expected (\d+)(?:, got (\d+))?\)")
KEYWORD = re.compile(
    r"reset\(\) got an unexpected keyword argument '(seed|options)'|reset\(\) takes no keyword"
)


class EnvProtocolError(Exception):
    """What an environment gave is of another form than it must be.

    Args:
        what: it gave.
        action: what can be done, where that is known.
    """

    def __init__(self, what: str, *, action: str = "") -> None:
        super().__init__(what)
        self.action = action


def as_old_gym_error(error: Exception) -> EnvProtocolError | None:
    """What an error says of an environment's form, where it was raised by calling it, and not within it."""
    if not _raised_outside(error):
        return None
    if isinstance(error, TypeError) and (match := KEYWORD.search(str(error))):
        return EnvProtocolError(
            f"has a reset that takes no {match[1] or 'seed'}, {OLD_FORM}", action=NEW_FORM
        )
    if isinstance(error, ValueError) and (match := UNPACKED.search(str(error))):
        count = match[2] or "more"
        old = f", {OLD_FORM}" if count == "4" else ""
        return EnvProtocolError(f"gave {count} values, not {match[1]}, in a step{old}", action=NEW_FORM)
    return None


def is_registered_in_old_gym(name: str) -> bool:
    """Whether the old gym package is loaded and knows this name."""
    registry = getattr(getattr(sys.modules.get("gym"), "envs", None), "registry", None)
    known: Any = getattr(registry, "env_specs", registry)
    return known is not None and name in known


def _raised_outside(error: Exception) -> bool:
    """Whether Gymnasium's wrappers or our own call raised: then the environment's form is why."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = Path(trace.tb_frame.f_code.co_filename)
    return file.parent == Path(__file__).parent or ("gymnasium" in file.parts and "envs" not in file.parts)
