"""The estimate of the peak follows what is trained."""

import pytest
import torch
from torch import nn

from logratio.models.lora import CRITIC, add_adapter
from logratio.training.checkpointing import checkpoint_bytes
from logratio.training.memory_estimate import ACTIVATIONS, estimate_bytes
from tiny_models import tiny_llama

VOCABULARY, HIDDEN, LAYERS = 50, 32, 2
ROW = 256
ACTIVATION_BYTES = ACTIVATIONS * 4 * ROW * HIDDEN * LAYERS


def size(model, *, trained):
    return sum(4 * p.numel() for p in model.parameters() if p.requires_grad or not trained)


def test_whole_weights_have_gradients_and_two_moments():
    model = tiny_llama(VOCABULARY)
    found = estimate_bytes(model, frozen=None, row_tokens=ROW)
    assert found == 4 * size(model, trained=False) + ACTIVATION_BYTES
    other = tiny_llama(VOCABULARY)
    beside = estimate_bytes(model, frozen=other, row_tokens=ROW)
    assert beside - found == size(other, trained=False)


@pytest.mark.parametrize("rank", [1, 4, 40])
def test_under_an_adapter_the_weights_stand_once(rank):
    model = tiny_llama(VOCABULARY)
    base = size(model, trained=False)
    add_adapter(model, rank=rank, alpha=8, seed=0)
    adapter = size(model, trained=True)
    assert estimate_bytes(model, frozen=None, row_tokens=ROW) == base + 4 * adapter + ACTIVATION_BYTES


def test_each_adapter_that_is_trained_reads_the_rows():
    model = tiny_llama(VOCABULARY)
    base = size(model, trained=False)
    for name in ("policy", CRITIC):
        add_adapter(model, name, rank=4, alpha=8, seed=0)
    parts = nn.ModuleDict({"policy": model, "critic": nn.Linear(HIDDEN, 1)})
    trained = size(parts, trained=True)
    assert estimate_bytes(parts, frozen=None, row_tokens=ROW) == base + 4 * trained + 2 * ACTIVATION_BYTES


def test_checkpoints_hold_what_is_trained_and_the_model_everything():
    model = tiny_llama(VOCABULARY)
    every = size(model, trained=False)
    assert checkpoint_bytes(model, keep_last=2) == 10 * every
    add_adapter(model, rank=4, alpha=8, seed=0)
    assert checkpoint_bytes(model, keep_last=2) == 9 * size(model, trained=True) + size(model, trained=False)
    assert torch.tensor(checkpoint_bytes(model, keep_last=2)) < 6 * every
