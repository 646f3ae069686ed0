"""Directed graphs: which nodes reach each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar


class Sortable(Protocol):
    """What has an order."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it comes before `other`."""


Node = TypeVar("Node", bound=Sortable)


def strongly_connected(edges: Mapping[Node, Iterable[Node]]) -> list[set[Node]]:
    """Sets of nodes that reach each other (Kosaraju: by falling time of leaving, against the arrows)."""
    against: dict[Node, set[Node]] = defaultdict(set)
    for node, targets in edges.items():
        for target in targets:
            against[target].add(node)
    seen: set[Node] = set()
    order = [node for start in edges for node in _leaving_order(start, edges, seen)]
    seen = set()
    return [set(_leaving_order(node, against, seen)) for node in reversed(order) if node not in seen]


def _leaving_order(start: Node, edges: Mapping[Node, Iterable[Node]], seen: set[Node]) -> list[Node]:
    """Nodes not yet seen that `start` reaches, a node after all that it leads to; no recursion."""
    if start in seen:
        return []
    seen.add(start)
    left: list[Node] = []
    open_nodes = [(start, iter(sorted(edges.get(start, ()))))]
    while open_nodes:
        node, targets = open_nodes[-1]
        target = next((target for target in targets if target not in seen), None)
        if target is None:
            left.append(node)
            open_nodes.pop()
        else:
            seen.add(target)
            open_nodes.append((target, iter(sorted(edges.get(target, ())))))
    return left
