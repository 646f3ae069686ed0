"""Runs tests of this directory by name: for each name read its reports are written, and an empty line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest


class ByName:
    """A plugin that runs tests when their names are read, rather than all of them."""

    def __init__(self) -> None:
        # pytest puts streams of its own in the place of these.
        self._names, self._answers = (
            os.fdopen(os.dup(number), mode) for number, mode in ((0, "r"), (1, "w"))
        )
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._config: pytest.Config | None = None

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run tests until no more names come."""
        self._config = session.config
        items = {item.nodeid: item for item in session.items}
        for line in self._names:
            item = items[line.rstrip("\n")]
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            print(file=self._answers, flush=True)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hand on how a test, or what stands before and after it, ended."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        print(json.dumps(data), file=self._answers, flush=True)


def main() -> int:
    """Wait for names; what is printed goes to the error stream, so that answers stand alone."""
    root = sys.argv[1]
    plugins = [flag for name in ("xdist", "cacheprovider") for flag in ("-p", f"no:{name}")]
    options = [f"--rootdir={root}", "-c", f"{root}/pyproject.toml", "--tb=short"]
    return int(pytest.main([*plugins, *options, str(Path(__file__).parent)], plugins=[ByName()]))


if __name__ == "__main__":
    sys.exit(main())
