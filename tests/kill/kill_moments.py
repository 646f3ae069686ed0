"""Killing a run at moments that count from its first checkpoint, whatever the speed of the machine.

A moment that counts from the start of a process falls, on a machine whose start is slow that day, before
anything was saved; a run that was killed there is not resumed, but only begun again.
"""

import multiprocessing
import random
import signal
import time
from glob import glob

from logratio.run_directory import read_json_lines

NUM_KILLS = 20


def forks_of(*imports):
    """Processes that are forked from one that has done the imports, so that the time goes into training."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(imports))
    return forks


def started(process):
    process.start()
    return process


def finish(process):
    """Wait for the end and insist that it is a good one."""
    process.join(timeout=300)
    assert process.exitcode == 0, process.exitcode


def kill_and_compare(directory, begin, state_of):
    """Kill runs at random moments, resume them, and hold what they end with against a run never killed.

    Args:
        directory: of the runs.
        begin: starts a run in a directory, or goes on with it, as a process of its own.
        state_of: what a run in a directory has ended with.

    Returns:
        What the run that was never killed ended with.
    """
    finish(begin(directory / "warm-up"))
    process = begin(directory / "whole")
    before = wait_for_checkpoint(directory / "whole", process.is_alive)
    began = time.monotonic()
    finish(process)
    moments = Moments(before, after=time.monotonic() - began)
    expected = state_of(directory / "whole")

    kills, runs, resumed = 0, 0, 0
    while kills < NUM_KILLS:
        run = directory / f"killed-{runs}"
        while kills < NUM_KILLS:
            process = begin(run)
            moments.wait(run, process.is_alive)
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            resumed += has_checkpoint(run)
        finish(begin(run))
        assert state_of(run) == expected
        assert not list(run.rglob(".*.tmp"))
        runs += 1
    assert resumed > NUM_KILLS // 2, "most kills came before the first checkpoint: nothing was resumed"
    return expected


def timeless(run, *clocks):
    """The metrics without what a clock measured."""
    rows = read_json_lines(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in clocks} for row in rows]


def has_checkpoint(directory):
    # The run moves directories while this looks. Where one is gone `Path.glob` ends (Python 3.11),
    # while `glob` passes over it.
    return bool(glob("**/checkpoints/step-*", root_dir=directory, recursive=True))


def wait_for_checkpoint(directory, running):
    """Seconds until a run has its first checkpoint; sooner where it has ended."""
    began = time.monotonic()
    while running() and not has_checkpoint(directory):
        time.sleep(0.002)
    return time.monotonic() - began


class Moments:
    """Random moments: one in four at any time before the first checkpoint, the others at any time after it.

    `before` and `after` are the seconds that a run takes to its first checkpoint and from there to its end.
    """

    def __init__(self, before, after, seed=1):
        self.before, self.after = before, after
        self.generator = random.Random(seed)
        self.count = 0

    def wait(self, directory, running):
        """Return at the next moment; sooner where the run has ended."""
        early = self.count % 4 == 0
        self.count += 1
        if early:
            seconds = self.generator.uniform(0.0, self.before)
        else:
            wait_for_checkpoint(directory, running)
            seconds = self.generator.uniform(0.0, 0.9 * self.after)
        until = time.monotonic() + seconds
        while running() and time.monotonic() < until:
            time.sleep(0.002)
