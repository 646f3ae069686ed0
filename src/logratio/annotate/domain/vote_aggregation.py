"""From the verdicts on a pair to one label, or to the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from logratio.annotate.domain.annotator_quality import JUDGED
from logratio.annotate.domain.pairs import Pair
from logratio.annotate.storage.store import Vote
from logratio.errors import UndecidedAsLabel

Reason = Literal[
    "gold", "not judged", "skip", "flag", "too few verdicts", "tie", "both bad", "contradictory", "undecided"
]
"""Why a pair has no label; `Decision.reason` and the manifest use these words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What people decided about a pair."""

    pair: Pair
    """The pair."""
    chosen: Literal["a", "b"] | None
    """The preferred answer; none where there is no label."""
    reason: Reason | None
    """Why there is none."""
    counts: dict[str, int]
    """First verdicts that stand, by kind."""

    @property
    def margin(self) -> int:
        """Verdicts for the chosen answer less those for the other."""
        assert self.chosen is not None
        return self.counts[self.chosen] - self.counts["b" if self.chosen == "a" else "a"]


def decide(pair: Pair, votes: Sequence[Vote], *, min_votes: int) -> Decision:
    """The label of a pair: an answer that more than half of its verdicts prefer.

    Ties and both-bad are verdicts, so that one for A against one tie is not decided; skips are not.

    Args:
        pair: the pair.
        votes: all that stand on it; repeats and gold presentations are not counted.
        min_votes: how many verdicts a label needs.
    """
    verdict_counts: Counter[str] = Counter(vote.verdict for vote in votes if vote.kind == "first")
    counts = {name: verdict_counts[name] for name in (*JUDGED, "skip", "flag")}
    reason = _no_label(pair, counts, min_votes)
    if reason is not None:
        return Decision(pair=pair, chosen=None, reason=reason, counts=counts)
    chosen: Literal["a", "b"] = "a" if counts["a"] > counts["b"] else "b"
    return Decision(pair=pair, chosen=chosen, reason=None, counts=counts)


def _no_label(pair: Pair, counts: dict[str, int], min_votes: int) -> Reason | None:
    num_judged = sum(counts[name] for name in JUDGED)
    if pair.gold is not None:
        return "gold"
    if counts["flag"]:
        return "flag"
    if num_judged == 0:
        return "skip" if counts["skip"] else "not judged"
    if num_judged < min_votes:
        return "too few verdicts"
    return _no_majority(counts, num_judged)


def _no_majority(counts: dict[str, int], num_judged: int) -> Reason | None:
    winner = next((name for name in JUDGED if 2 * counts[name] > num_judged), None)
    if winner in ("a", "b"):
        return None
    if winner is not None:
        return "tie" if winner == "tie" else "both bad"
    return "contradictory" if counts["a"] and counts["b"] else "undecided"


def ensure_decided(decision: Decision, votes: Sequence[Vote]) -> None:
    """The last guard before a row is written: counts the verdicts anew, in the plainest way there is.

    Raises:
        UndecidedAsLabel: most people did not prefer this answer, or nobody was to.
    """
    against = {"a": "b", "b": "a"}
    verdicts = [vote.verdict for vote in votes if vote.kind == "first" and vote.verdict != "skip"]
    num_for = sum(verdict == decision.chosen for verdict in verdicts)
    is_gold, is_flagged = decision.pair.gold is not None, "flag" in verdicts
    if decision.chosen not in against or is_gold or is_flagged or num_for <= len(verdicts) - num_for:
        raise UndecidedAsLabel(
            f"a pair with the verdicts {verdicts} was about to be written as preferring {decision.chosen!r}",
            where=f"pair {decision.pair.id}",
            action="nothing was written; this is a bug in logratio: please report it",
        )
