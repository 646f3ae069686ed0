"""How far the policy has gone from the reference: exact KL along answers freshly sampled from the policy.

`KL[π, ρ] = E_π Σ_t KL[π(·|s_t), ρ(·|s_t)]`, the inner KL over the whole vocabulary, summed over an answer's
tokens, the end token included: nats per sequence. Averaged over answers drawn from the policy at temperature
1 it is unbiased, never negative, and varies less than log-ratios do (Amini, Vieira and Cotterell 2025,
arXiv:2504.10637). The log-ratios of the same answers, whose mean estimates the same number, stand beside it
as a check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from logratio.errors import NonFiniteLogits, ReferenceAliased
from logratio.generation.engines.selection import evaluation_mode
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.packing import pack
from logratio.kernels.precision import ComputeWeights
from logratio.objectives.kl import exact_kl
from logratio.packed_rows import AnswerGroup
from logratio.training.invariants import check_exact_kl_not_negative

Encoded = tuple[Sequence[int], Sequence[int]]
"""The tokens of a prompt and of an answer to it."""

ROW_TOKENS = 1024
"""Tokens read at a time."""
CHUNK_TOKENS = 64
"""Answer tokens whose `[tokens, vocabulary]` stands at a time."""
BLOCK_TOKENS = 8
"""Tokens of a chunk compared at a time: few enough to stay in a processor's cache, which halves the time."""
HEAD_TOLERANCE = 1e-3
"""Logits from hidden states and from the model's own forward differ by less, if its head is only a matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """What the policy's answers say of its distance to the reference; one number an answer, in nats."""

    exact: tuple[float, ...]
    """KL over the full vocabulary at each token, summed: the Rao-Blackwell estimate."""
    log_ratios: tuple[float, ...]
    """`log π(y|x) − log ρ(y|x)`: the plain estimate, k1."""

    def of(self, answers: Sequence[int]) -> Divergence:
        """The same of some of the answers."""
        return Divergence(
            exact=tuple(self.exact[answer] for answer in answers),
            log_ratios=tuple(self.log_ratios[answer] for answer in answers),
        )

    @property
    def mean(self) -> float:
        """Estimate of KL[π, ρ] in nats per sequence."""
        return sum(self.exact) / len(self.exact)

    @property
    def mean_log_ratio(self) -> float:
        """The plain estimate of the same."""
        return sum(self.log_ratios) / len(self.log_ratios)

    @property
    def disagreement(self) -> float:
        """How many standard errors the two estimates are apart; 0 where they do not vary.

        Both are unbiased on fresh samples of the policy itself, so 5 or more says that the answers come from
        another distribution: an older policy, another temperature, a cut vocabulary.
        """
        gaps = torch.tensor(self.log_ratios, dtype=torch.float64) - torch.tensor(
            self.exact, dtype=torch.float64
        )
        error = float(gaps.std(correction=0)) / math.sqrt(len(gaps))
        # The floor keeps rounding from being measured against rounding where the policies are equal.
        return abs(float(gaps.mean())) / max(error, 1e-4)


@dataclass(frozen=True)
class _AnswerLogits:
    """What a model says at the answers' positions, with the logits formed a chunk at a time."""

    states: Tensor
    """`[N, hidden]`, or `[N, vocabulary]` where `head` is the identity."""
    head: Callable[[Tensor], Tensor]

    def chunk(self, start: int) -> Tensor:
        """`[at most CHUNK_TOKENS, vocabulary]`."""
        return self.head(self.states[start : start + CHUNK_TOKENS])


def sequence_kl(
    policy_model: Any, reference_model: Any, encoded: Sequence[Encoded], *, row_tokens: int = ROW_TOKENS
) -> list[float]:
    """Exact KL of the policy to the reference along each answer, in nats; see `measure_divergence`."""
    return list(measure_divergence(policy_model, reference_model, encoded, row_tokens=row_tokens).exact)


def measure_divergence(
    policy_model: Any,
    reference_model: Any,
    encoded: Sequence[Encoded],
    *,
    row_tokens: int = ROW_TOKENS,
    on_batch: Callable[[int], None] | None = None,
) -> Divergence:
    """Exact KL and log-ratio of the policy to the reference along the policy's answers.

    Both models read a few answers at a time, without padding or padded on the right; logits are formed for
    answer tokens only, in float32 at least, `CHUNK_TOKENS` at a time, and token values are summed in float64.

    Args:
        policy_model: a causal language model of transformers.
        reference_model: one with the same vocabulary; both are in evaluation mode meanwhile.
        encoded: prompts with answers sampled from the policy at temperature 1, as tokens.
        row_tokens: tokens read at a time, padding included; an answer longer than that is read alone.
        on_batch: called with the number of answers after each batch.

    Raises:
        ValueError: there is no answer, or a prompt or an answer has no token.
        ReferenceAliased: the two models have different vocabularies.
        NonFiniteLogits: a model's logits are NaN or infinite.
        InvariantViolated: a KL is negative by more than rounding (`exact_kl_not_negative`).
    """
    _check_encoded(encoded)
    _check_vocabularies(policy_model, reference_model)
    exact = torch.zeros(len(encoded), dtype=torch.float64)
    log_ratios = torch.zeros(len(encoded), dtype=torch.float64)
    probe = min(encoded, key=lambda pair: len(pair[0]) + len(pair[1]))
    with _reading(policy_model, probe) as read_policy, _reading(reference_model, probe) as read_reference:
        for batch in _batches(encoded, row_tokens):
            answers = [encoded[index] for index in batch]
            owners = torch.tensor([index for index in batch for _ in encoded[index][1]])
            targets = torch.tensor([token for _, answer in answers for token in answer])
            policy, reference = read_policy(answers), read_reference(answers)
            for start in range(0, len(targets), CHUNK_TOKENS):
                stop = start + CHUNK_TOKENS
                kl, log_ratio = _token_values(
                    policy.chunk(start), reference.chunk(start), targets[start:stop]
                )
                exact.index_add_(0, owners[start:stop], kl)
                log_ratios.index_add_(0, owners[start:stop], log_ratio)
            if on_batch is not None:
                on_batch(len(batch))
    _check_finite(exact, log_ratios)
    check_exact_kl_not_negative(exact.tolist())
    return Divergence(exact=tuple(exact.tolist()), log_ratios=tuple(log_ratios.tolist()))


def _token_values(policy: Tensor, reference: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """KL over the vocabulary and the targets' log-ratio: two times `[tokens]`, in float64 on the CPU."""
    dtype = torch.promote_types(policy.dtype, torch.float32)
    reference, targets = reference.to(policy.device), targets.to(policy.device)
    kl, log_ratios = [], []
    for start in range(0, len(targets), BLOCK_TOKENS):
        block = slice(start, start + BLOCK_TOKENS)
        p, q, chosen = policy[block].to(dtype), reference[block].to(dtype), targets[block]
        kl.append(exact_kl(p, q))
        log_ratios.append(_surprisal(q, chosen) - _surprisal(p, chosen))
    return torch.cat(kl).cpu().double(), torch.cat(log_ratios).cpu().double()


def _surprisal(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def _check_encoded(encoded: Sequence[Encoded]) -> None:
    if not encoded:
        raise ValueError("there are no answers to measure")
    for index, (prompt, answer) in enumerate(encoded):
        if not len(prompt) or not len(answer):
            raise ValueError(
                f"sequence {index} has a prompt of {len(prompt)} and an answer of {len(answer)} tokens"
            )


def _check_vocabularies(policy_model: Any, reference_model: Any) -> None:
    sizes = [model.get_input_embeddings().weight.shape[0] for model in (policy_model, reference_model)]
    if sizes[0] != sizes[1]:
        raise ReferenceAliased(
            f"the policy's vocabulary has {sizes[0]} tokens and the reference's {sizes[1]}",
            action="compare models of one family: their KL divergence is not defined otherwise",
        )


def _check_finite(exact: Tensor, log_ratios: Tensor) -> None:
    broken = (~(torch.isfinite(exact) & torch.isfinite(log_ratios))).nonzero()[:, 0]
    if len(broken):
        raise NonFiniteLogits(
            "the logits of the policy or of the reference are NaN or infinite",
            where=f"sequence {int(broken[0])}",
            action="its weights are damaged, or its training diverged: use an earlier checkpoint",
        )


def _batches(encoded: Sequence[Encoded], row_tokens: int) -> Iterator[list[int]]:
    """Answers of like length together, the longest first, as many as `row_tokens` holds with padding."""
    lengths = [len(prompt) + len(answer) - 1 for prompt, answer in encoded]
    order = sorted(range(len(encoded)), key=lambda index: (-lengths[index], index))
    while order:
        count = max(1, row_tokens // lengths[order[0]])
        yield order[:count]
        order = order[count:]


@contextmanager
def _reading(model: Any, probe: Encoded) -> Iterator[Callable[[Sequence[Encoded]], _AnswerLogits]]:
    """A function that reads a batch, in the way that gives the model's own numbers on `probe`."""
    with torch.inference_mode(), evaluation_mode(model):
        yield partial(_read_states if _head_is_plain(model, probe) else _read_logits, model)


def _head_is_plain(model: Any, answer: Encoded) -> bool:
    """Whether logits are the output embedding of the last hidden state, and nothing is done to them after.

    Some architectures scale or cap their logits. They are told apart by their numbers, not by their names.
    """
    try:
        actual = _read_states(model, [answer]).chunk(0)
    except AttributeError:
        return False
    expected = _read_logits(model, [answer]).chunk(0)
    return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-4, atol=HEAD_TOLERANCE)


def _read_states(model: Any, answers: Sequence[Encoded]) -> _AnswerLogits:
    decoder = Decoder.of(model.base_model, ComputeWeights())
    if decoder is not None:
        groups = [AnswerGroup(tuple(prompt), (tuple(answer),)) for prompt, answer in answers]
        row = pack(groups, device=next(model.parameters()).device)
        return _AnswerLogits(decoder.hidden_states(row, row.source_positions), model.get_output_embeddings())
    input_ids, attention_mask, rows, positions = _right_padded(model, answers)
    hidden = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    return _AnswerLogits(hidden[rows, positions], model.get_output_embeddings())


def _read_logits(model: Any, answers: Sequence[Encoded]) -> _AnswerLogits:
    """Through the model's own forward pass, an answer at a time: its logits are all formed at once there."""
    states = []
    for answer in answers:
        input_ids, attention_mask, rows, positions = _right_padded(model, [answer])
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        states.append(output.logits[rows, positions])
    return _AnswerLogits(torch.cat(states), lambda logits: logits)


def _right_padded(model: Any, answers: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens and mask `[rows, T]`, and the row and place `[N]` each answer token is predicted from.

    The last token of an answer is predicted, never read. Position ids are left to the model: with padding on
    the right they are the tokens' places.
    """
    sequences = [[*prompt, *answer[:-1]] for prompt, answer in answers]
    width = max(map(len, sequences))
    # The mask says what is padding; which token stands there does not matter.
    padded = [sequence + [0] * (width - len(sequence)) for sequence in sequences]
    mask = [[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in sequences]
    rows = [row for row, (_, answer) in enumerate(answers) for _ in answer]
    positions = [
        position
        for prompt, answer in answers
        for position in range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    ]
    device = next(model.parameters()).device
    return (
        torch.tensor(padded, device=device),
        torch.tensor(mask, device=device),
        torch.tensor(rows, device=device),
        torch.tensor(positions, device=device),
    )
