"""Tests against other libraries, each in an environment of its own: `make conformance`.

They are collected when their marker is asked for or their file is named, and not otherwise: a library that
happens to be installed, in whatever version, decides nothing about this one.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these files out unless `-m` names the marker."""
    return None if "conformance" in config.getoption("markexpr") else True
