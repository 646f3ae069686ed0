"""A language model small enough to enumerate, written out by hand: nothing here comes from the package."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

VOCABULARY, LONGEST, END = 4, 4, 0


@dataclass(frozen=True, kw_only=True)
class EnumeratedWorld:
    """All 121 answers to one prompt: 40 that end, 81 that are cut at four tokens; 40 prefixes."""

    prefixes: list[tuple[int, ...]]
    answers: list[tuple[int, ...]]
    state: Tensor
    action: Tensor
    mask: Tensor
    policy: Tensor
    other: Tensor
    step_rewards: Tensor

    def token_logprobs(self, logits: Tensor) -> Tensor:
        """[answers, time]; 0 where there is no token."""
        return torch.where(self.mask, logits.log_softmax(-1)[self.state, self.action], 0.0)

    def answer_logprobs(self, logits: Tensor) -> Tensor:
        """[answers]."""
        return self.token_logprobs(logits).sum(1)


def all_answers() -> list[tuple[int, ...]]:
    words = [token for token in range(VOCABULARY) if token != END]
    ended = [
        (*prefix, END) for length in range(LONGEST) for prefix in itertools.product(words, repeat=length)
    ]
    return ended + list(itertools.product(words, repeat=LONGEST))


@pytest.fixture(scope="session")
def world() -> EnumeratedWorld:
    answers = all_answers()
    prefixes = sorted({answer[:t] for answer in answers for t in range(len(answer))})
    assert (len(answers), len(prefixes)) == (121, 40)
    state = torch.zeros(len(answers), LONGEST, dtype=torch.long)
    action, mask = torch.zeros_like(state), torch.zeros_like(state, dtype=torch.bool)
    for row, answer in enumerate(answers):
        for t, token in enumerate(answer):
            state[row, t], action[row, t], mask[row, t] = prefixes.index(answer[:t]), token, True
    generator = torch.Generator().manual_seed(7)
    policy, other, step_rewards = (
        torch.randn(len(prefixes), VOCABULARY, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    return EnumeratedWorld(
        prefixes=prefixes,
        answers=answers,
        state=state,
        action=action,
        mask=mask,
        policy=policy,
        other=policy + 0.5 * other,
        step_rewards=step_rewards,
    )
