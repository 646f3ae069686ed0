"""Run a script as `logratio COMMAND` is run: without what PyTorch has for compilers and clusters."""

import runpy
import sys
from pathlib import Path

from logratio.cli.lean import leave_out

if __name__ == "__main__":
    leave_out()
    script = sys.argv.pop(1)
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
