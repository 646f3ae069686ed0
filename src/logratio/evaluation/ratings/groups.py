"""Which groups of models the comparisons do not link, and how each stands to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from logratio.errors import TooFewLabels
from logratio.evaluation.ratings.pairwise_counts import Counts, short
from logratio.stats.strengths import linked_groups

MAX_GROUPS_SHOWN, MAX_NAMES_SHOWN = 6, 5
INDENT = "\n         "
"""Under the text of a fault's first line."""


def not_linked(groups: list[list[int]], models: Sequence[str], wins: Counts, ties: Counts) -> TooFewLabels:
    """The fault of comparisons that leave a strength without bound, or two that nothing joins.

    Args:
        groups: models that beat each other, directly or around.
        models: names.
        wins: of the row over the column.
        ties: symmetric.
    """
    played = wins + wins.T + ties > 0
    islands = linked_groups(torch.from_numpy(played))
    if len(islands) > 1:
        return TooFewLabels(
            f"the models fall into {len(islands)} groups that were never compared with each other"
            + _listing(islands, models),
            action="compare models of different groups, or rate each group by itself",
        )
    return TooFewLabels(
        f"the models fall into {len(groups)} groups that are not linked by wins both ways: one side won "
        "every comparison between them, so no finite number says how much stronger it is"
        + _listing(groups, models, lambda group: _standing(group, wins)),
        action="compare models of different groups until each group has won and lost (a tie links both ways),"
        " or rate each group by itself",
    )


def list_names(group: Sequence[int], models: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(short(models[i]) for i in group[:MAX_NAMES_SHOWN])
    more = len(group) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _listing(
    groups: list[list[int]], models: Sequence[str], describe: Callable[[list[int]], str] = lambda group: ""
) -> str:
    """A line for each group, the largest first."""
    ranked = sorted(groups, key=lambda group: (-len(group), group))
    lines = [
        f"group {rank}: {list_names(group, models)}{describe(group)}"
        for rank, group in enumerate(ranked[:MAX_GROUPS_SHOWN], start=1)
    ]
    if len(ranked) > MAX_GROUPS_SHOWN:
        lines.append(f"and {len(ranked) - MAX_GROUPS_SHOWN} groups more")
    return "".join(INDENT + line for line in lines)


def _standing(group: Sequence[int], wins: Counts) -> str:
    inside = np.isin(np.arange(len(wins)), group)
    won, lost = (round(between.sum()) for between in (wins[inside][:, ~inside], wins[~inside][:, inside]))
    if won and lost:
        return f": won all {won:,} against some groups, lost all {lost:,} against others"
    return f": won all {won:,} against the others" if won else f": lost all {lost:,} against the others"
