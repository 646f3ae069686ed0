"""What a command leaves out of its process, and that whoever wants it gets it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from logratio.cli.lean import mark
from logratio.cli.main import main
from logratio.models.loading import load, save
from logratio.run_directory import write_json_lines
from tiny_models import tiny_llama, tiny_tokenizer

THERE = """
import sys
from logratio.cli.lean import Placeholder
def there(name):
    module = sys.modules.get(name)
    return module is not None and not isinstance(module, Placeholder)
"""
BEGIN = """
from logratio.cli.lean import leave_out
leave_out()
import torch
import transformers.models.llama.modeling_llama
"""


def run(script: str) -> list[str]:
    """The words that a script prints, of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", THERE + script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def training(tmp_path):
    """Arguments of a command that trains a tiny model, but for where its run goes."""
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "model")
    rows = [
        {"prompt": f"the cat {number}", "chosen": "sat on the mat", "rejected": "ran after the ball"}
        for number in range(4)
    ]
    write_json_lines(tmp_path / "rows.jsonl", rows)
    paths = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "rows.jsonl")]
    return ["train", "sft", *paths, "--batch-size", "2", "--held-out", "0", "--threads", "1", "--out"]


@pytest.mark.slow
def test_a_command_that_trains_imports_no_compiler_and_trains_the_same(training, tmp_path):
    words = ["logratio", *training, str(tmp_path / "command")]
    *_, status, compiler, tensors, sharded = run(f"""
sys.argv = {words!r}
from logratio.cli.main import main
print(main(), *map(there, ("torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp")))
""")
    assert (status, compiler, tensors, sharded) == ("0", "False", "False", "False")
    assert main([*training, str(tmp_path / "guest")]) == 0
    ours, theirs = (load(str(tmp_path / name)) for name in ("command", "guest"))
    assert ours.fingerprint == theirs.fingerprint


def test_a_program_that_imports_logratio_keeps_both():
    assert run("""
import torch
from logratio.cli.main import main
import logratio.kernels.fused_decoder
main(["--version"])
print(there("torch._dynamo"), torch.distributed.is_available(), len(sys.meta_path) == len(set(sys.meta_path)))
""")[2:] == ["True", str(torch.distributed.is_available()), "True"]


def test_who_compiles_gets_the_compiler():
    assert run(f"""
{BEGIN}
before = there("torch._dynamo")
compiled = torch.compile(lambda x: x.sin() + 1.0, backend="eager")
x = torch.arange(3.0)
same = torch.equal(compiled(x), x.sin() + 1.0)
print(before, same, there("torch._dynamo"), torch._dynamo is sys.modules["torch._dynamo"])
""") == ["False", "True", "True", "True"]


def test_a_setting_of_the_compiler_is_the_real_one():
    assert run(f"""
{BEGIN}
torch._dynamo.config.suppress_errors = True
import torch._dynamo.config as real
print(there("torch._dynamo.config"), real.suppress_errors)
""") == ["True", "True"]


def test_classes_can_be_asked_for_and_used():
    assert run(f"""
{BEGIN}
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Shard
print(isinstance(torch.ones(1), DTensor), isinstance(3, (DTensor, int)), there("torch.distributed.tensor"))
shard = Shard(1)
class Own(Shard):
    pass
print(shard.dim, isinstance(shard, Shard), isinstance(torch.ones(1), DTensor), Own(2).dim)
print(there("torch.distributed.tensor"))
""") == ["False", "True", "False", "1", "True", "False", "2", "True"]


def test_marks_give_the_function_itself():
    def function() -> int:
        return 3

    assert mark(function) is function
    assert mark(reason="none")(function) is function
    assert mark(None, recursive=False)(function) is function
