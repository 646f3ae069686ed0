"""Strongly connected groups: worked by hand, against reachability written out, and far down."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.stats.graphs import strongly_connected


def test_two_rounds_and_a_node_of_its_own():
    edges = {0: [4, 1], 4: [2], 2: [0], 1: [5], 5: [1], 3: []}
    assert sorted(map(sorted, strongly_connected(edges))) == [[0, 2, 4], [1, 5], [3]]


def test_a_node_that_only_arrows_name_is_a_group():
    assert sorted(map(sorted, strongly_connected({"a": "b"}))) == [["a"], ["b"]]
    assert strongly_connected({}) == []


def test_a_chain_of_thousands_needs_no_recursion():
    chain = {n: [n + 1] for n in range(5000)}
    assert len(strongly_connected(chain)) == 5001
    assert strongly_connected(chain | {5000: [0]}) == [set(range(5001))]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(arrows=st.lists(st.tuples(*[st.integers(0, 6)] * 2), max_size=14))
def test_groups_are_the_classes_of_nodes_that_reach_each_other(arrows):
    nodes = range(7)
    reach = {(n, n) for n in nodes} | set(arrows)
    for via in nodes:
        reach |= {(n, m) for n in nodes for m in nodes if (n, via) in reach and (via, m) in reach}
    classes = {frozenset(m for m in nodes if (n, m) in reach and (m, n) in reach) for n in nodes}
    edges = {n: [target for source, target in arrows if source == n] for n in nodes}
    groups = strongly_connected(edges)
    assert sorted(map(sorted, groups)) == sorted(map(sorted, classes))
