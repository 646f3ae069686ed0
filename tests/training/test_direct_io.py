"""The checkpoint's writer against the safetensors library's reader and against hashing the file anew."""

import errno
import os

import pytest
import torch
from safetensors.torch import load_file

from logratio.run_directory import hash_file
from logratio.training import direct_io
from logratio.training.direct_io import write_tensors

TENSORS = {
    "a matrix": torch.arange(12.0).reshape(3, 4),
    "not contiguous": torch.arange(12.0, dtype=torch.float64).reshape(3, 4).T,
    "a number": torch.tensor(7.0),
    "empty": torch.empty(0, 5),
    "bfloat16": torch.arange(5.0).to(torch.bfloat16),
    "integers": torch.arange(-3, 3),
    "booleans": torch.tensor([True, False]),
}


def check(path, tensors):
    assert write_tensors(path, tensors) == hash_file(path)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_what_is_written_is_read(tmp_path):
    check(tmp_path / "tensors.safetensors", TENSORS)


@pytest.mark.parametrize("block", [4096, 8192])
@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 20000])
def test_tensors_across_the_ends_of_blocks(tmp_path, monkeypatch, block, length):
    monkeypatch.setattr(direct_io, "BLOCK", block)
    values = torch.arange(length, dtype=torch.int64).to(torch.uint8)
    check(tmp_path / "tensors.safetensors", {"first": values, "second": values.flip(0)})


def test_a_file_system_without_writing_past_the_cache(tmp_path, monkeypatch):
    honest, asked = os.open, []

    def refusing(path, flags, mode=0o777):
        asked.append(flags)
        if len(asked) == 1:
            os.close(honest(path, os.O_CREAT | os.O_WRONLY, mode))
            raise OSError(errno.EINVAL, "Invalid argument")
        return honest(path, flags, mode)

    monkeypatch.setattr(direct_io.os, "open", refusing)
    check(tmp_path / "tensors.safetensors", TENSORS)
    assert len(asked) == 2


def test_a_file_that_stands_is_not_overwritten(tmp_path):
    (tmp_path / "tensors.safetensors").write_text("kept")
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "tensors.safetensors", TENSORS)
    assert (tmp_path / "tensors.safetensors").read_text() == "kept"
