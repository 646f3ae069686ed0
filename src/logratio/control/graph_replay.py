"""Tensor operations recorded once and done again, with no Python and no autograd in between.

Where networks are small, what costs is not arithmetic but the way to it: a minibatch of 64 rows spends
three quarters of its time in Python, in the graph of gradients and in choosing kernels. The operations are
the same every time, only the numbers differ. A recorded graph holds them: from its inputs to losses,
gradients and measurements, in the order in which they were done, so that results are equal to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from logratio.control.graph_passes import hoist_views, optimise_graph
from logratio.control.op_recorder import NotRecordable, OpRecorder, execute
from logratio.progress import say

MAX_GRAPHS = 64
"""So many computations are recorded at most; what comes after them is computed anew every time."""
NOT_THE_SAME = "a recorded computation differed from itself: it is computed anew from here on, and slower"


class RecordedGraph:
    """What was done between some inputs and some results, to be done again on other numbers.

    Args:
        compute: does it once; gradients inside are taken with `torch.autograd.grad`.
        inputs: every tensor that it reads, by the very objects that it reads; shapes stay.
        num_static: so many of them, the first, are the same tensors every time, such as weights: views
            of them are made once.
        identity_index: one that is 0, 1, 2 and so on, always: what it takes of a tensor as long as itself
            is that tensor.

    Raises:
        NotRecordable: it looked at a number, drew one, or read a tensor that is not an input.
    """

    def __init__(
        self,
        compute: Callable[[], Sequence[Tensor]],
        inputs: Sequence[Tensor],
        *,
        num_static: int = 0,
        identity_index: Tensor | None = None,
    ) -> None:
        with OpRecorder(inputs, identity_index) as recorder:
            results = compute()
        calls, wanted = optimise_graph(recorder, results)
        self._ahead, calls = hoist_views(calls, num_static)
        self._lasting, self._views, self._made_of = num_static, list[Tensor](), list[int]()
        held, places = recorder.literals, [slot.number for call in self._ahead for slot in call.made]

        def play(*tensors: Tensor) -> tuple[Tensor, ...]:
            known = dict(enumerate(tensors[: len(inputs)])) | held
            known |= dict(zip(places, tensors[len(inputs) :], strict=True))
            execute(calls, known)
            return tuple(known[slot.number] for slot in wanted)

        with torch.no_grad(), warnings.catch_warnings():
            # It warns of being replaced by exporters that compile for minutes; this takes milliseconds.
            warnings.simplefilter("ignore")
            views = self._views_of(inputs)
            self._play = torch.jit.trace(play, (*inputs, *views), check_trace=False)

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The results for these inputs, which are as many and of the same shapes as the first ones."""
        optimised = torch._C._get_graph_executor_optimize()
        # What it would make better it would make otherwise: a product and a sum of one operation, say.
        torch._C._set_graph_executor_optimize(False)
        try:
            # Nothing is said to autograd, which would ask of every operation whether it should note it.
            with torch._C._AutoDispatchBelowADInplaceOrView():
                return self._play(*inputs, *self._views_of(inputs))
        finally:
            torch._C._set_graph_executor_optimize(optimised)

    def _views_of(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The views of the lasting inputs, made anew where one of them has another memory."""
        if not self._ahead:
            return self._views
        made_of = [tensor.data_ptr() for tensor in inputs[: self._lasting]]
        if made_of != self._made_of:
            known = dict(enumerate(inputs[: self._lasting]))
            execute(self._ahead, known)
            self._views = [known[slot.number] for call in self._ahead for slot in call.made]
            self._made_of = made_of
        return self._views


class GraphCache:
    """Computations by key, each recorded at its first use and played from then on.

    Recorded graphs are re-validated: at the uses number 1, 2, 4, 8 and so on the results are computed anew as
    well, and a recorded graph that differs in one bit is not played again.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, RecordedGraph | None] = {}
        self._labels: dict[Hashable, Any] = {}
        self._uses: dict[Hashable, int] = {}
        self._numbers: dict[Hashable, int] = {}

    def __call__(
        self,
        key: Hashable,
        compute: Callable[[], tuple[Sequence[Tensor], Any]],
        inputs: Sequence[Tensor],
        **known: Any,
    ) -> tuple[Sequence[Tensor], Any]:
        """The results of a computation and what else it says of them, which is the same for a key.

        Args:
            key: equal for what is the same computation on other numbers, shapes included.
            compute: does it; `RecordedGraph` says what it may do.
            inputs: what it reads.
            known: what `RecordedGraph` may be told of the inputs; what differs in it differs in the key.
        """
        if key not in self._graphs:
            return self._record(key, compute, inputs, known)
        graph = self._graphs[key]
        if graph is None:
            return compute()
        self._uses[key] += 1
        results = graph(inputs)
        if self._uses[key].bit_count() == 1:
            anew, _ = compute()
            if not all(map(_identical, results, anew)):
                self._graphs[key] = None
                say(NOT_THE_SAME)
                results = anew
        return results, self._labels[key]

    def key_index(self, key: Hashable) -> int:
        """A number for a key, the same for equal keys: what is long to compare is compared once."""
        return self._numbers.setdefault(key, len(self._numbers))

    @property
    def num_replayed(self) -> int:
        """How many computations are played."""
        return sum(graph is not None for graph in self._graphs.values())

    def _record(
        self,
        key: Hashable,
        compute: Callable[[], tuple[Sequence[Tensor], Any]],
        inputs: Sequence[Tensor],
        known: dict[str, Any],
    ) -> tuple[Sequence[Tensor], Any]:
        if len(self._graphs) >= MAX_GRAPHS:
            return compute()
        done: list[tuple[Sequence[Tensor], Any]] = []

        def tensors() -> Sequence[Tensor]:
            done.append(compute())
            return done[0][0]

        try:
            self._graphs[key] = RecordedGraph(tensors, inputs, **known)
        except NotRecordable:
            self._graphs[key] = None
            return done[0] if done else compute()
        self._labels[key], self._uses[key] = done[0][1], 0
        return done[0]


def _identical(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
