"""What a policy has come to prefer, as a reward: how much more probable an answer is to it than before.

`r(x, y) = log π(y|x) − log π_ref(y|x)` in nats; β times it is DPO's implicit reward up to a function of the
prompt alone (Rafailov et al., 2023, arXiv:2305.18290, equation 5), so that differences between answers to one
prompt are margins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from logratio.errors import BadConfig
from logratio.models import tokenisation
from logratio.models.config_limits import limits_of_model
from logratio.models.input_limits import ModelLimits
from logratio.packed_rows import TokenIds
from logratio.policies.language import LanguagePolicy
from logratio.policies.reward_scorer import AnswerScorer, encode_as_text, group_answers, locate_faults
from logratio.records import Completion, Prompt


class ImplicitReward(AnswerScorer):
    """Two models of one vocabulary as one reward.

    Args:
        policy: what was trained.
        reference: what it was trained from.

    Raises:
        BadConfig: their tokenizers differ.
    """

    def __init__(self, policy: LanguagePolicy, reference: LanguagePolicy) -> None:
        if tokenisation.tokenizer_fingerprint(policy.tokenizer) != tokenisation.tokenizer_fingerprint(
            reference.tokenizer
        ):
            raise BadConfig(
                "policy and reference do not have the same tokenizer",
                where="--reward implicit:POLICY,REFERENCE",
                action="give the model that the policy was trained from as REFERENCE",
            )
        self.policy, self.reference = policy, reference

    @property
    def model(self) -> Any:
        """The policy's model."""
        return self.policy.model

    @property
    def limits(self) -> ModelLimits:
        """What both models can read."""
        return limits_of_model(self.policy.model) & limits_of_model(self.reference.model)

    @property
    def tokenizer(self) -> Any:
        """That of both models."""
        return self.policy.tokenizer

    @torch.no_grad()
    def score_token_ids(
        self, sequences: Sequence[tuple[TokenIds, TokenIds]], *, max_tokens: int = 2048
    ) -> list[float]:
        """The reward of every answer behind its prompt, both as tokens, in nats."""
        groups, positions = group_answers(sequences)
        now, before = (
            model.values_by_group(groups, model.sequence_logprobs, max_tokens=max_tokens)
            for model in (self.policy, self.reference)
        )
        return [now[group][answer] - before[group][answer] for group, answer in positions]

    def ensure_prompt(self, prompt: Prompt, *, max_new_tokens: int) -> None:
        """Raise a `DataFault` where a model cannot read the prompt, or not with an answer that long."""
        ids = tokenisation.encode_prompt(self.tokenizer, prompt)
        self.limits.ensure_computable(self.tokenizer, (*ids, *ids[:1] * max_new_tokens))

    def encode(self, prompt: Prompt, completion: Completion, *, where: str) -> tuple[TokenIds, TokenIds]:
        """Tokens of a prompt and of an answer.

        Raises:
            DataFault: the tokenizer or its chat template refuses them; at `where`.
        """
        with locate_faults(prompt, where=where):
            prompt_ids, answer_ids = encode_as_text(self.tokenizer, prompt, completion)
            self.limits.ensure_computable(self.tokenizer, (*prompt_ids, *answer_ids))
            return prompt_ids, answer_ids
