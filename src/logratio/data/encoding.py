"""Comparisons as the tokens that training takes, or the fault that keeps one out."""

from __future__ import annotations

from dataclasses import dataclass

from logratio.errors import ForeignTokens, IdenticalPair, PromptTooLong
from logratio.models import tokenisation
from logratio.models.input_limits import ModelLimits
from logratio.models.tokenisation import Tokenizer
from logratio.records import Comparison, Completion

TokenIds = tuple[int, ...]
UNLIMITED = ModelLimits()
"""Where nothing is known of the model but its tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """A comparison and its tokens; an answer is cut where the pair would be longer than allowed."""

    comparison: Comparison
    """What was read."""
    prompt_ids: TokenIds
    """Tokens up to the answer."""
    chosen_ids: TokenIds
    """Tokens of the preferred answer; the end token once if it is finished and not cut."""
    rejected_ids: TokenIds
    """Tokens of the other answer, as `chosen_ids`."""
    chosen_cut: bool = False
    """Whether tokens of the preferred answer were cut off, and with them the end token."""
    rejected_cut: bool = False
    """Whether tokens of the other answer were cut off."""


def encode_comparison(
    tokenizer: Tokenizer,
    comparison: Comparison,
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    limits: ModelLimits = UNLIMITED,
) -> EncodedPair:
    """The tokens of a comparison, at most `max_length` for prompt and answer together.

    No row is longer than the model's positions where those end.

    Raises:
        TokenWithoutEmbedding: it has a token that the model does not know.
        PromptTooLong: no token is left for an answer, or the prompt is longer than `max_prompt_length`.
        IdenticalPair: the answers have the same tokens, as a template or the cut leaves them.
        ForeignTokens: tokens recorded while sampling are not those of this tokenizer.
        ChatTemplateMismatch, BoundaryMismatch, SpecialTokenTrouble: see `logratio.models.tokenisation`.
    """
    prompt_ids = tokenisation.encode_prompt(tokenizer, comparison.prompt)
    ends_at, because = limits.truncated_to(max_length)
    room = ends_at - len(prompt_ids)
    if room < 1 or (max_prompt_length is not None and len(prompt_ids) > max_prompt_length):
        limit = f"max_prompt_length {max_prompt_length}" if room >= 1 else because
        raise PromptTooLong(
            f"the prompt has {len(prompt_ids)} tokens, which {limit} does not allow",
            action="raise the limit or take the row out",
        )
    whole = [
        _answer_ids(tokenizer, comparison, answer) for answer in (comparison.chosen, comparison.rejected)
    ]
    chosen, rejected = (ids[:room] for ids in whole)
    limits.ensure_embedded(tokenizer, (*prompt_ids, *chosen, *rejected))
    if chosen == rejected:
        raise IdenticalPair(
            f"chosen and rejected have the same {len(chosen)} tokens",
            action="raise max_length if they were cut there, or take the row out",
        )
    return EncodedPair(
        comparison=comparison,
        prompt_ids=prompt_ids,
        chosen_ids=chosen,
        rejected_ids=rejected,
        chosen_cut=len(whole[0]) > room,
        rejected_cut=len(whole[1]) > room,
    )


def _answer_ids(tokenizer: Tokenizer, comparison: Comparison, completion: Completion) -> TokenIds:
    ids = completion.token_ids
    if ids is not None and tokenisation.decode(tokenizer, ids) != completion.text:
        raise ForeignTokens(
            f"the recorded tokens do not read {completion.text[:40]!r} with this tokenizer",
            action="train the model that the answers were sampled from, or take the *_completion columns out",
        )
    return tokenisation.encode_completion(tokenizer, comparison.prompt, completion)
