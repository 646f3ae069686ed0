"""SFT, then DPO from it, as a process of its own: what a forked process imports by name."""

import os
import sys


def train(inputs, out):
    """The same two commands as a person repeats them after a crash: with --resume."""
    from logratio.cli.main import main

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    common = ["--data", str(inputs / "data.jsonl"), "--resume", "--threads", "1", "--checkpoint-every", "1"]
    common += ["--held-out", "0", "--batch-size", "4", "--learning-rate", "1e-3", "--epochs", "2"]
    for stage, model in (("sft", inputs / "start"), ("dpo", out / "sft")):
        if status := main(["train", stage, "--model", str(model), "--out", str(out / stage), *common]):
            sys.exit(status)
    sys.exit(0)
