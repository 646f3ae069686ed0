"""Which pair comes when, on which side, and what is a repeat or gold: functions of the seed and of names.

Nothing is drawn that has to be remembered, so that a queue that starts again goes on as if it had not
stopped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from logratio.annotate.domain.settings import QueueSettings
from logratio.annotate.domain.votes import Kind


def chance(*names: str | int) -> float:
    """A number in [0, 1), uniform and independent for different names."""
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    text = "".join(f"{len(str(name))}:{name}" for name in names)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def draw_swapped(settings: QueueSettings, annotator: str, pair_id: str, kind: Kind) -> bool:
    """Whether B stands on the left when the annotator sees the pair for the first time."""
    return chance(settings.seed, "side", annotator, pair_id, kind) < 0.5


def draw_kind(settings: QueueSettings, annotator: str, turn: int) -> Kind:
    """What the annotator's presentation number `turn` is to be, if there is such a pair."""
    value = chance(settings.seed, "kind", annotator, turn)
    if value < settings.gold:
        return "gold"
    return "repeat" if value < settings.gold + settings.repeats else "first"


def in_random_slice(settings: QueueSettings, pair_id: str) -> bool:
    """Whether the pair comes at a random time, so that verdicts on it may be used for statistics."""
    if settings.order != "margin":
        return True
    return chance(settings.seed, "slice", pair_id) < settings.random_slice


def order_pairs(settings: QueueSettings, annotator: str, margins: Mapping[str, float | None]) -> list[str]:
    """All pairs in the order in which they are offered to the annotator.

    With `order = margin` the random slice is spread evenly between the others, which come by the size of
    their margin, closest first, those without one last.

    Args:
        settings: the order and its seed.
        annotator: for whom.
        margins: every pair with its margin, in order of arrival.
    """
    if settings.order == "file":
        return [*margins]
    rank_of = {pair_id: chance(settings.seed, "order", annotator, pair_id) for pair_id in margins}
    if settings.order == "margin":
        chosen = [pair_id for pair_id in margins if not in_random_slice(settings, pair_id)]
        chosen.sort(key=lambda pair_id: (_distance(margins[pair_id]), rank_of[pair_id]))
        rank_of |= {pair_id: (rank + 0.5) / len(chosen) for rank, pair_id in enumerate(chosen)}
    return sorted(rank_of, key=lambda pair_id: (rank_of[pair_id], pair_id))


def _distance(margin: float | None) -> float:
    return math.inf if margin is None else abs(margin)
