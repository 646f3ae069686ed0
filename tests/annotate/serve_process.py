"""`logratio annotate serve` as a process of its own, forked from one that has imported everything already."""

import multiprocessing
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LINK = re.compile(r"^ *(\S*) +http://127\.0\.0\.1:(\d+)/\?t=(\S+)$", re.MULTILINE)
IMPORTS = [
    "logratio.cli.annotate.serve",
    "logratio.annotate.web.app",
    "logratio.annotate.web.http_server",
    "jinja2",
    "markdown_it",
]


def run_command(out, arguments):
    """Run the command with its output in a file; the target of the process."""
    from logratio.cli.annotate.serve import Arguments, run
    from logratio.errors import LogratioError

    with open(out, "w", encoding="utf-8") as sys.stdout:
        try:
            status = run(Arguments(**arguments))
        except LogratioError as fault:
            print(fault)
            status = fault.exit_status
    sys.exit(status)


@dataclass
class Served:
    """A process that serves, and what it printed."""

    process: multiprocessing.Process
    out: Path
    port: int
    tokens: dict[str, str]
    owner_token: str

    @property
    def printed(self):
        return self.out.read_text(encoding="utf-8")

    def kill(self):
        self.process.kill()
        self.process.join()
        self.process.close()


def make_forks():
    """A context whose processes start in some milliseconds."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(IMPORTS)
    return forks


def start(forks, out, **arguments):
    """Start the command, and wait until it printed its links."""
    Path(out).unlink(missing_ok=True)
    process = forks.Process(target=run_command, args=(out, {"port": 0, "open": False, **arguments}))
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        text = Path(out).read_text(encoding="utf-8") if Path(out).exists() else ""
        if "Ctrl-C ends it" in text:
            break
        assert process.is_alive(), text
        time.sleep(0.005)
    found = LINK.findall(text)
    tokens = {name: token for name, _, token in found if name}
    owner = next(token for name, _, token in found if not name)
    return Served(process, Path(out), int(found[0][1]), tokens, owner)
