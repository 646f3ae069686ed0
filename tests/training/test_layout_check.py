"""Which architectures share a prompt between answers is found out, and none gets wrong numbers."""

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from logratio.policies.language import LanguagePolicy
from logratio.training.layout_check import select_layout
from tiny_models import random_groups, tiny_llama

VOCABULARY = 50
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 0,
}


def gpt2():
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    return GPT2LMHeadModel(config)


def neox():
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoXForCausalLM(config)


def mamba():
    return MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    )


ARCHITECTURES = {
    "llama": (lambda: tiny_llama(VOCABULARY), "packed"),
    "gpt2": (gpt2, "packed"),
    "neox": (neox, "packed"),
    "qwen3": (lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON)), "packed"),
    "mistral, window past the end": (
        lambda: MistralForCausalLM(MistralConfig(**COMMON, sliding_window=512)),
        "packed",
    ),
    "mistral, window inside": (
        lambda: MistralForCausalLM(MistralConfig(**COMMON, sliding_window=4)),
        "unpacked",
    ),
    "gemma2, capped logits": (
        lambda: Gemma2ForCausalLM(Gemma2Config(**COMMON, final_logit_softcapping=1.0)),
        "unpacked",
    ),
    "mamba, no attention": (mamba, "unpacked"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_layout_is_settled_by_the_numbers(name):
    build, expected = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = build().eval()
    policy = LanguagePolicy(model, None)
    groups = random_groups(6, vocab_size=VOCABULARY)
    select_layout(policy, groups)
    assert policy.layout == expected
    with torch.no_grad():
        ours = policy.sequence_logprobs([row for group in groups for row in policy.pack([group])])
        place = 0
        for group in groups:
            for answer in group.answers:
                logits = model(input_ids=torch.tensor([[*group.prompt, *answer]])).logits[0, :-1]
                scored = logits.log_softmax(-1)[range(len(logits)), [*group.prompt, *answer][1:]]
                assert float(ours[place]) == pytest.approx(
                    float(scored[len(group.prompt) - 1 :].sum()), abs=1e-3
                )
                place += 1


class DeviceFault(RuntimeError):
    """As PyTorch's own for a device; no tensor's shape is at fault."""


@pytest.mark.parametrize(
    "fault",
    [
        DeviceFault("CUDA error: device-side assert triggered"),
        RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        NotImplementedError("Could not run 'aten::_fused_sdp_choice' with arguments from the 'MPS' backend"),
    ],
    ids=["fault", "two devices", "memory", "kernel"],
)
def test_a_fault_of_the_device_is_not_taken_for_the_architecture(monkeypatch, fault):
    policy = LanguagePolicy(tiny_llama(VOCABULARY), None)

    def hidden_states(self, row):
        raise fault

    # Plain sequences are computed otherwise, so that it is the packed row that meets the fault.
    monkeypatch.setattr(LanguagePolicy, "hidden_states", hidden_states)
    with pytest.raises(type(fault)) as caught:
        select_layout(policy, random_groups(2, vocab_size=VOCABULARY))
    assert caught.value is fault
    assert policy.layout == "packed"
