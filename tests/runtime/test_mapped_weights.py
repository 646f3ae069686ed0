"""Frozen weights leave memory and come back the same; what was written to stays."""

import sys

import pytest
import torch

from logratio.models.loading import load, save
from logratio.runtime.mapped_weights import clean_mapped_ranges, copy_out_of_mapping, release_pages
from tiny_models import tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are Linux's")


@pytest.fixture
def model(tmp_path):
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer), hidden=128, layers=4), tokenizer, tmp_path / "model")
    return load(str(tmp_path / "model")).model.requires_grad_(False)


def weights(model):
    return [weight.clone() for weight in model.parameters()]


def test_released_weights_are_the_same_when_they_are_read_again(model):
    before = weights(model)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert release_pages(model) >= size
    assert all(map(torch.equal, before, model.parameters()))


def test_weights_that_were_written_to_are_kept(model):
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    before = weights(model)
    release_pages(model)
    assert all(map(torch.equal, before, model.parameters()))


def test_weights_that_come_from_no_file_are_kept():
    model = tiny_llama(50)
    before = weights(model)
    assert release_pages(model) == 0
    assert all(map(torch.equal, before, model.parameters()))


def test_ranges_of_files_hold_no_page_of_our_own(model):
    address = model.get_input_embeddings().weight.data_ptr()
    assert any(start <= address < end for start, end in clean_mapped_ranges())


def in_file(weight):
    return any(start <= weight.data_ptr() < end for start, end in clean_mapped_ranges())


def test_trained_weights_move_out_of_their_file_as_they_are(model):
    """All of them and nothing else, tied ones together, and what a module computes is the same to the bit."""
    frozen, *trained = model.parameters()
    for weight in trained:
        weight.requires_grad_(True)
    before, tokens = weights(model), torch.arange(5)[None]
    logits = model(input_ids=tokens).logits
    assert all(map(in_file, model.parameters()))
    assert copy_out_of_mapping(model) == sum(weight.nbytes for weight in trained)
    assert in_file(frozen)
    assert not any(map(in_file, trained))
    assert all(map(torch.equal, before, model.parameters()))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(model(input_ids=tokens).logits, logits)
    assert copy_out_of_mapping(model) == 0


def test_parts_of_one_tensor_stay_that(model):
    """Wherever it lies: an optimiser that moves all parts in one call must find them in one tensor."""
    first, second = list(model.parameters())[1:3]
    joint = first.data.view(-1)
    second.data = joint[: second.numel()].view_as(second)
    assert in_file(first.requires_grad_(True))
    second.requires_grad_(True)
    assert copy_out_of_mapping(model) == 0
    assert second.data_ptr() == first.data_ptr()
