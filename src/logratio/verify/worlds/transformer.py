"""A real transformer over the small world: transformers' own Llama with four words, in float64 throughout.

What is proved on a table of logits is proved of formulas. Here the same sums run through attention,
positions, caches and packed rows, by the classes that real models are made of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from logratio.verify.worlds import oracle
from logratio.verify.worlds.world import END, World

WORDS = ("<end>", "a", "b", "c")
"""The world's tokens as text."""


def small_llama(
    *, seed: int, vocabulary: int = 4, hidden: int = 8, layers: int = 2, spread: float = 0.5
) -> LlamaForCausalLM:
    """A Llama in float64 with random weights, far enough from zero that no distribution is near uniform.

    Args:
        seed: of the weights; the global generator is left as it was.
        vocabulary: V, with the end token 0.
        hidden: width, a multiple of 4.
        layers: blocks of attention and feed-forward.
        spread: standard deviation of the weights.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        centre = 1.0 if parameter.ndim == 1 else 0.0
        parameter.data = centre + spread * torch.randn(parameter.shape, generator=generator)
    return in_float64(model)


def in_float64(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model in evaluation mode and float64; transformers' own norms would round to float32."""
    model = model.to(torch.float64).eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(module, name, norm)
    return model


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of four words, divided by spaces, of which the first ends an answer."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    # A text of other words is read as "a": tokenizers want something to fall back on.
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=WORDS[END], pad_token=WORDS[END])


def directions(model: LlamaForCausalLM, *, count: int, seed: int) -> Tensor:
    """`[count, parameters]` random directions of length 1 in the space of the model's weights."""
    generator = torch.Generator().manual_seed(seed)
    size = sum(parameter.numel() for parameter in model.parameters())
    drawn = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def tables_along(
    world: World, model: LlamaForCausalLM, ways: Tensor, *, step: float = oracle.STEP
) -> list[tuple[Tensor, Tensor]]:
    """The model's logits a step ahead and a step behind along each direction: pairs of `[P, N, V]`."""
    moved = copy.deepcopy(model)
    here = parameters_to_vector(model.parameters()).detach()
    tables = []
    for way in ways:
        pair = []
        for weights in (here + step * way, here - step * way):
            vector_to_parameters(weights, moved.parameters())
            pair.append(oracle.transformer_logits(world, moved))
        tables.append((pair[0], pair[1]))
    return tables


def slopes(
    value: Callable[[Tensor], float], tables: Sequence[tuple[Tensor, Tensor]], *, step: float = oracle.STEP
) -> Tensor:
    """The derivative of a value of the policy along each direction, by central differences."""
    differences = [(value(ahead) - value(behind)) / (2 * step) for ahead, behind in tables]
    return torch.tensor(differences, dtype=torch.float64)
