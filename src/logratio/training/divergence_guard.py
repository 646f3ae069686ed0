"""A policy that runs away: the limits of KL, repetition and length that end a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from logratio.stats.wilson import percent
from logratio.training.config import PolicyGradientConfig

PATIENCE = 3
"""Updates in a row beyond a limit that end a run: one alone may be chance."""
INITIALLY_ENDED, RARELY_ENDED = 0.5, 0.05
"""Answers that no longer end are cut off at one length: their share tells what their tokens cannot."""


@dataclass
class RunawayGuard:
    """What must be remembered from update to update; a checkpoint holds it."""

    kl: float = 0.0
    """Updates in a row beyond the limit of the KL to the reference."""
    repetition: float = 0.0
    """The same for repetition."""
    length: float = 0.0
    """The same for length."""
    tokens_at_first: float = 0.0
    """Mean tokens of the first update's answers; 0 before it."""
    ended_at_first: float = 0.0
    """Share of them that ended by themselves."""

    def observe(self, metrics: Mapping[str, float], config: PolicyGradientConfig) -> str:
        """Take in an update's metrics; a sentence where a limit was passed for too long, else empty.

        What a metric is not there for is not monitored.
        """
        kl, repetition = metrics.get("reference_kl", 0.0), metrics.get("repetition", 0.0)
        tokens, ended = metrics.get("answer_tokens", 0.0), metrics.get("ended", 1.0)
        if not self.tokens_at_first:
            self.tokens_at_first, self.ended_at_first = tokens, ended
        self.kl = self._count(self.kl, config.guard.max_reference_kl, kl > config.guard.max_reference_kl)
        self.repetition = self._count(
            self.repetition, config.guard.max_repetition, repetition > config.guard.max_repetition
        )
        changed = self._length_changed(tokens, ended, config.guard.max_length_change)
        self.length = self._count(self.length, config.guard.max_length_change, changed)
        if self.kl >= PATIENCE:
            limit = config.guard.max_reference_kl
            return f"the KL to the reference is {kl:.1f} nats per answer (limit {limit:g})"
        if self.repetition >= PATIENCE:
            return (
                f"{percent(repetition, 0)} of an answer's triples of tokens stood in it before "
                f"(limit {100 * config.guard.max_repetition:g}%)"
            )
        if self.length >= PATIENCE:
            return (
                f"answers have {tokens:.1f} tokens and {percent(ended, 0)} of them end; at first "
                f"{self.tokens_at_first:.1f} and {percent(self.ended_at_first, 0)}"
            )
        return ""

    @staticmethod
    def _count(before: float, limit: float, beyond: bool) -> float:
        return before + 1.0 if limit and beyond else 0.0

    def _length_changed(self, tokens: float, ended: float, limit: float) -> bool:
        if not self.tokens_at_first or not limit:
            return False
        factor = max(tokens / self.tokens_at_first, self.tokens_at_first / max(tokens, 1e-9))
        return factor > limit or (self.ended_at_first > INITIALLY_ENDED and ended < RARELY_ENDED)
