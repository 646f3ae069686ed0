"""Fixtures that many tests share."""

from __future__ import annotations

import os

# One thread makes small models faster and sums reproducible; libraries stay off the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tiny_models import tiny_llama, tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def plain_tokenizer():
    return tiny_tokenizer(chat=False)


@pytest.fixture
def model(tokenizer):
    return tiny_llama(len(tokenizer))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where GGUF files are converted to, empty."""
    monkeypatch.setenv("LOGRATIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
