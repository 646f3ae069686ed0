"""The directory that --out names, made before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from logratio.errors import BadConfig, NotWritable
from logratio.run_directory import disk_faults


def prepare_out_directory(out: Path) -> None:
    """Make --out, and find out now whether it can be written to.

    Raises:
        BadConfig: it is a file.
        NotWritable: no files can be made there.
    """
    if out.exists() and not out.is_dir():
        raise BadConfig("--out is a file", where=str(out), action="give a directory")
    with disk_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise NotWritable("no file can be made there", where=str(out), action="choose another --out")
