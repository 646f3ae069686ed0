"""When a run is killed: moments that count from its first checkpoint, whatever the speed of the machine.

A moment that counts from the start of a process falls, on a machine whose start is slow that day, before
anything was saved; a run that was killed there is not resumed, but only begun again.
"""

import random
import time
from glob import glob


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
