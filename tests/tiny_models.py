"""Models and tokenizers small enough to build in a test."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from logratio.packed_rows import AnswerGroup

END, BEGIN = "<|im_end|>", "<|im_start|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 0,
}
"""Of models of other architectures than Llama's own below."""
CORPUS = [
    "the cat sat on the mat and the dog ran after the ball",
    "a good day, a bad day",
    "I like this. I hate that.",
]


def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of fewer than 300 tokens: every text has an encoding and comes back."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[AddedToken(END, special=True), AddedToken(BEGIN, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_llama(
    vocab_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    tied: bool = True,
    spread: float = 0.3,
) -> LlamaForCausalLM:
    """A Llama with random weights, wide enough spread that its distributions are far from uniform."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=spread,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).to(dtype).eval()


def exact_llama(vocab_size: int, *, seed: int = 0, tied: bool = True) -> LlamaForCausalLM:
    """A Llama that computes in float64 throughout."""
    return exact(tiny_llama(vocab_size, dtype=torch.float64, seed=seed, tied=tied))


def exact(model):
    """A model in float64 throughout: transformers' own RMSNorm would round to float32."""
    model = model.double().eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(module, name, norm)
    return model


def exact_of(kind, config, vocab_size: int, *, seed: int = 0, **settings):
    """A small model of another architecture in float64, with norms and biases that are not 1 and 0."""
    torch.manual_seed(seed)
    model = kind(config(vocab_size=vocab_size, **SIZES | settings))
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3)
    return exact(model)


def random_groups(num: int, *, vocab_size: int, num_answers: int = 2, seed: int = 0) -> list[AnswerGroup]:
    """Groups of random tokens with many different lengths, end token 0 last in every answer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(2, vocab_size, (length,), generator=generator).tolist())

    return [
        AnswerGroup(draw(1, 12), tuple((*draw(0, 14), 0) for _ in range(num_answers))) for _ in range(num)
    ]
