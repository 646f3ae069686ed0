"""A small PPO run as a process of its own: what a forked process imports by name."""

import os
import sys


def train(inputs, out):
    """The same command as a person repeats it after a crash: with --resume."""
    from logratio.cli.main import main

    os.chdir(inputs)
    sys.path.insert(0, str(inputs))
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    flags = ["--prompts", "prompts.jsonl", "--model", "start", "--out", str(out), "--resume"]
    flags += [
        "--reward",
        "kill_rewards:vowels",
        "0.5*kill_rewards:short",
        "--held-out",
        "0",
        "--threads",
        "1",
    ]
    flags += ["--batch-size", "4", "--epochs", "2", "--learning-rate", "3e-3", "--checkpoint-every", "1"]
    # What a checkpoint must hold beside weights and optimiser: both controllers move in this run.
    flags += ["--kl-penalty", "0.5", "--target-kl", "0.5", "--kl-horizon", "50", "--max-new-tokens", "8"]
    sys.exit(main(["train", "ppo", *flags]))
