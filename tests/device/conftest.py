"""Tests of this directory run in a process of their own, which is started with the first of them.

PyTorch learns of a new device once a process and before the first backward pass, since the threads of its
autograd are as many as there are devices then. In one process with others these tests would come too late,
and the others would see an accelerator that is none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest

import logratio

HERE = "LOGRATIO_TESTS_ON_PRETENDED_DEVICE"
"""Set in the process of their own, where the tests run as any others do."""
_started: list[tuple[subprocess.Popen[str], IO[str]]] = []


def _other_process(config: pytest.Config) -> tuple[subprocess.Popen[str], IO[str]]:
    """Waits for the names of tests, with the package that is imported here; and what it prints."""
    if not _started:
        package = str(Path(logratio.__file__).parents[1])
        environment = os.environ | {HERE: "1", "PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTEST_ADDOPTS", None)
        printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the session ends
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("runner_process.py")), str(config.rootpath)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            env=environment,
            cwd=config.rootpath,
        )
        _started.append((process, printed))
    return _started[0]


if HERE not in os.environ:

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Have the other process run a test of this directory, and report what it reports."""
        # pytest asks every conftest that it has read, whichever directory the test is in.
        if Path(__file__).parent not in item.path.parents:
            return None
        process, printed = _other_process(item.config)
        assert process.stdin is not None
        assert process.stdout is not None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        process.stdin.write(item.nodeid + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line == "\n":
                break
            data = json.loads(line)
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
            item.ihook.pytest_runtest_logreport(report=report)
        else:
            status = process.wait()
            printed.seek(0)
            raise RuntimeError(f"the process that runs {item.nodeid} ended with {status}:\n{printed.read()}")
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish() -> None:
        """End the other process."""
        for process, printed in _started:
            process.communicate()
            printed.close()
        _started.clear()
