"""A small CartPole run as a process of its own: what a forked process imports by name."""

import os
import sys


def train(out):
    """The same command as a person repeats it after a crash: with --resume."""
    from logratio.cli.main import main

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    flags = ["--env", "CartPole-v1", "--out", str(out), "--resume", "--steps", "4000"]
    # What a checkpoint must hold beside weights and optimiser: environments, scales, a controller that moves.
    flags += ["--normalise-observations", "--normalise-rewards", "--kl-penalty", "1", "--update-epochs", "4"]
    flags += ["--num-steps", "40", "--checkpoint-every", "1", "--evaluation-episodes", "2"]
    sys.exit(main(["control", "ppo", *flags]))
