"""SFT, then DPO from it, as a person runs them again after a crash: the same commands with --resume."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from logratio.cli.main import main

directory, start, data = (Path(word) for word in sys.argv[1:4])
common = ["--data", str(data), "--resume", "--threads", "1", "--checkpoint-every", "1", "--held-out", "0"]
common += ["--batch-size", "4", "--learning-rate", "1e-3", "--epochs", "3"]
print("begun", flush=True)
status = main(["train", "sft", "--model", str(start), "--out", str(directory / "sft"), *common])
assert status == 0, status
status = main(["train", "dpo", "--model", str(directory / "sft"), "--out", str(directory / "dpo"), *common])
assert status == 0, status
