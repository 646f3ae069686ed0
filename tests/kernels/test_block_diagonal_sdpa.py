"""Attention block by block gives what the whole mask gives, and is really used."""

import pytest
import torch

from logratio.kernels import block_diagonal_sdpa
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.packing import pack
from logratio.policies.language import LanguagePolicy
from tiny_models import random_groups, tiny_llama

VOCABULARY = 50


def gradient(policy, row):
    policy.model.zero_grad()
    policy.evaluate(row).square().sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.model.parameters()])


@pytest.fixture(autouse=True)
def own_forward_pass(monkeypatch):
    """This model is one that `Decoder` would compute without transformers' attention."""
    monkeypatch.setattr(Decoder, "of", lambda *_, **__: None)


def test_blocks_and_the_whole_mask_give_the_same_values_and_gradients(monkeypatch):
    torch.manual_seed(0)
    policy = LanguagePolicy(tiny_llama(VOCABULARY).double().eval(), None)
    assert policy.model.config._attn_implementation == block_diagonal_sdpa.NAME
    row = pack(random_groups(5, vocab_size=VOCABULARY))
    mask = block_diagonal_sdpa.packed_inputs(row)["attention_mask"]
    assert len(getattr(mask, block_diagonal_sdpa.BLOCKS)) == 5
    values, moved = policy.evaluate(row).detach(), gradient(policy, row)
    monkeypatch.setattr(block_diagonal_sdpa, "attach_mask_blocks", lambda mask, lengths: mask)
    assert torch.allclose(policy.evaluate(row), values, atol=1e-13, rtol=0)
    assert torch.allclose(gradient(policy, row), moved, atol=1e-11, rtol=1e-10)


def test_each_block_is_attended_to_by_itself(monkeypatch):
    policy = LanguagePolicy(tiny_llama(VOCABULARY).eval(), None)
    groups = random_groups(3, vocab_size=VOCABULARY)
    seen = []
    honest = block_diagonal_sdpa.sdpa_attention_forward

    def watch(module, query, key, value, mask, **settings):
        seen.append((query.shape[2], key.shape[2]))
        return honest(module, query, key, value, mask, **settings)

    monkeypatch.setattr(block_diagonal_sdpa, "sdpa_attention_forward", watch)
    policy.evaluate(pack(groups))
    lengths = [(group.num_tokens, group.num_tokens) for group in groups]
    assert seen == lengths * policy.model.config.num_hidden_layers


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_only_models_that_attend_by_sdpa_are_changed(implementation):
    model = tiny_llama(VOCABULARY)
    model.set_attn_implementation(implementation)
    block_diagonal_sdpa.use_block_attention(model)
    kept = model.config._attn_implementation
    assert kept == (block_diagonal_sdpa.NAME if implementation == "sdpa" else implementation)
