"""Tensor operations recorded once and done again, with no Python and no autograd in between.

Where networks are small, what costs is not arithmetic but the way to it: a minibatch of 64 rows spends
three quarters of its time in Python, in the graph of gradients and in choosing kernels. The operations are
the same every time, only the numbers differ. A tape holds them: from its inputs to losses, gradients and
measurements, in the order in which they were done, so that what comes out is equal to the last bit.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
SAME = (aten.detach.default, aten.alias.default)
"""What they give is what they take, but for the graph of gradients, of which a tape has none."""
LITERAL = aten.lift_fresh.default
"""What it takes was written down in the code, and is the same every time."""
MOST = 64
"""So many computations are recorded at most; what comes after them is computed anew every time."""
NOT_THE_SAME = "a recorded computation differed from itself: it is computed anew from here on, and slower"


class NotRecordable(Exception):
    """What was done depends on numbers, on chance, or on a tensor that was not among the inputs."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a tensor on a tape."""

    number: int


@dataclass(frozen=True, slots=True)
class Call:
    """One operation."""

    operation: Any
    arguments: tuple[Any, ...]
    """With a `Slot` for every tensor."""
    keywords: dict[str, Any]
    results: tuple[Slot | None, ...]
    """Where its tensors go."""
    several: bool
    """Whether it gives a tuple or a list."""
    changes: bool = False
    """Whether some memory that it reads or writes is changed in place at any time: it stays where it is."""

    @property
    def read(self) -> list[Slot]:
        """The places of what it takes."""
        return _parts(Slot, (self.arguments, self.keywords))

    @property
    def made(self) -> list[Slot]:
        """The places of what it gives."""
        return [slot for slot in self.results if slot is not None]

    def renamed(self, names: Mapping[Slot, Slot], *, changes: bool) -> Call:
        """The same call on tensors in other places."""
        arguments, keywords = _changed(
            Slot, lambda slot: names.get(slot, slot), (self.arguments, self.keywords)
        )
        return Call(self.operation, arguments, keywords, self.results, self.several, changes)


class Tape:
    """What was done between some inputs and some results, to be done again on other numbers.

    Args:
        compute: does it once; gradients inside are taken with `torch.autograd.grad`.
        inputs: every tensor that it reads, by the very objects that it reads; shapes stay.

    Raises:
        NotRecordable: it looked at a number, drew one, or read a tensor that is not an input.
    """

    def __init__(self, compute: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor]) -> None:
        with _Recorder(inputs) as recorder:
            results = compute()
        (calls, wanted), held = recorder.finished(results), recorder.literals

        def play(*tensors: Tensor) -> tuple[Tensor, ...]:
            known = dict(enumerate(tensors)) | held
            for call in calls:
                arguments, keywords = _changed(
                    Slot, lambda slot: known[slot.number], (call.arguments, call.keywords)
                )
                found = call.operation(*arguments, **keywords)
                for slot, tensor in zip(call.results, found if call.several else [found], strict=True):
                    if slot is not None:
                        known[slot.number] = tensor
            return tuple(known[slot.number] for slot in wanted)

        with torch.no_grad(), warnings.catch_warnings():
            # It warns of being replaced by exporters that compile for minutes; this takes milliseconds.
            warnings.simplefilter("ignore")
            self._play = torch.jit.trace(play, tuple(inputs), check_trace=False)

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The results for these inputs, which are as many and of the same shapes as the first ones."""
        before = torch._C._get_graph_executor_optimize()
        # What it would make better it would make otherwise: a product and a sum of one operation, say.
        torch._C._set_graph_executor_optimize(False)
        try:
            return self._play(*inputs)
        finally:
            torch._C._set_graph_executor_optimize(before)


class Tapes:
    """Computations by key, each recorded at its first use and played from then on.

    A tape is believed while it agrees: at its uses number 1, 2, 4, 8 and so on the results are computed anew
    as well, and a tape that differs in one bit is not played again.
    """

    def __init__(self) -> None:
        self._tapes: dict[Hashable, Tape | None] = {}
        self._labels: dict[Hashable, Any] = {}
        self._uses: dict[Hashable, int] = {}
        self._numbers: dict[Hashable, int] = {}
        self.kept: Any = None
        """What their user keeps from one use to the next."""

    def __call__(
        self, key: Hashable, compute: Callable[[], tuple[Sequence[Tensor], Any]], inputs: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Any]:
        """The results of a computation and what else it says of them, which is the same for a key.

        Args:
            key: equal for what is the same computation on other numbers, shapes included.
            compute: does it; `Tape` says what it may do.
            inputs: what it reads.
        """
        if key not in self._tapes:
            return self._record(key, compute, inputs)
        tape = self._tapes[key]
        if tape is None:
            return compute()
        self._uses[key] += 1
        results = tape(inputs)
        if self._uses[key].bit_count() == 1:
            anew, _ = compute()
            if not all(map(_identical, results, anew)):
                self._tapes[key] = None
                print(NOT_THE_SAME, file=sys.stderr)
                results = anew
        return results, self._labels[key]

    def number_of(self, key: Hashable) -> int:
        """A number for a key, the same for equal keys: what is long to compare is compared once."""
        return self._numbers.setdefault(key, len(self._numbers))

    @property
    def num_playing(self) -> int:
        """How many computations are played."""
        return sum(tape is not None for tape in self._tapes.values())

    def _record(
        self, key: Hashable, compute: Callable[[], tuple[Sequence[Tensor], Any]], inputs: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Any]:
        if len(self._tapes) >= MOST:
            return compute()
        done: list[tuple[Sequence[Tensor], Any]] = []

        def tensors() -> Sequence[Tensor]:
            done.append(compute())
            return done[0][0]

        try:
            self._tapes[key] = Tape(tensors, inputs)
        except NotRecordable:
            self._tapes[key] = None
            return done[0] if done else compute()
        self._labels[key], self._uses[key] = done[0][1], 0
        return done[0]


def _identical(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


class _Recorder(TorchDispatchMode):
    """Writes down every operation below autograd, its tensors by their places."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.literals: dict[int, Tensor] = {}
        self._slots: dict[int, Slot] = {}
        # A tensor that were let go of could leave its identity to another.
        self._kept: list[Tensor] = []
        self._changed: set[int] = set()
        for tensor in inputs:
            self._place(tensor)

    def slot(self, tensor: Tensor) -> Slot:
        """Where a tensor is."""
        found = self._slots.get(id(tensor))
        if found is None:
            raise NotRecordable(f"a tensor of shape {tuple(tensor.shape)} is not among the inputs")
        return found

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Or PyTorch's compiler is imported, which takes seconds, to be told not to compile this.
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        _check_fit(operation, args)
        if operation is LITERAL and id(args[0]) not in self._slots:
            self.literals[self._place(args[0]).number] = args[0]
        arguments, keywords = _changed(Tensor, self.slot, (args, kwargs))
        found = operation(*args, **kwargs)
        if operation in SAME:
            self._kept.append(found)
            self._slots[id(found)] = arguments[0]
            return found
        several = isinstance(found, (tuple, list))
        results = tuple(
            self._place(one) if isinstance(one, Tensor) else None for one in (found if several else [found])
        )
        if operation._schema.is_mutable:
            self._changed |= {_memory(tensor) for tensor in _parts(Tensor, (args, kwargs))}
        self.calls.append(Call(operation, arguments, keywords, results, several))
        return found

    def finished(self, results: Sequence[Tensor]) -> tuple[list[Call], list[Slot]]:
        """The calls that the results need, each once, and the places of the results."""
        renamed: dict[Slot, Slot] = {}
        known: dict[str, Call] = {}
        different = []
        for recorded in self.calls:
            changes = any(self._is_changed(slot) for slot in (*recorded.read, *recorded.made))
            call = recorded.renamed(renamed, changes=changes)
            name = repr((call.operation, call.arguments, call.keywords))
            if not changes and name in known:
                renamed |= dict(zip(call.made, known[name].made, strict=True))
                continue
            different.append(call)
            if not changes:
                # What one that is changed gave is not what another would give.
                known[name] = call
        wanted = [renamed.get(place, place) for place in map(self.slot, results)]
        return _needed(different, wanted), wanted

    def _is_changed(self, slot: Slot) -> bool:
        return _memory(self._kept[slot.number]) in self._changed

    def _place(self, tensor: Tensor) -> Slot:
        # An operation in place gives what it took.
        if id(tensor) not in self._slots:
            self._slots[id(tensor)] = Slot(len(self._kept))
            self._kept.append(tensor)
        return self._slots[id(tensor)]


def _check_fit(operation: Any, arguments: tuple[Any, ...]) -> None:
    """Raise `NotRecordable` where an operation draws numbers, or the form of its results depends on some."""
    tags = operation.tags
    if torch.Tag.nondeterministic_seeded in tags:
        raise NotRecordable(f"{operation} draws numbers")
    if torch.Tag.data_dependent_output in tags:
        raise NotRecordable(f"{operation} looks at a number")
    if torch.Tag.dynamic_output_shape in tags:
        # Of indexing that is true where an index is a mask.
        places = arguments[1] if operation is aten.index.Tensor else [None]
        if any(place is None or place.dtype in (torch.bool, torch.uint8) for place in places):
            raise NotRecordable(f"{operation} gives a form that depends on numbers")


def _needed(calls: Sequence[Call], wanted: Sequence[Slot]) -> list[Call]:
    """The calls without those whose results nobody takes."""
    taken, kept = set(wanted), list[Call]()
    for call in reversed(calls):
        if call.changes or taken.intersection(call.made):
            taken.update(call.read)
            kept.append(call)
    return kept[::-1]


def _changed(kind: type, change: Callable[[Any], Any], value: Any) -> Any:
    """The value with something else for every part of a kind."""
    match value:
        case tuple() | list():
            return type(value)([_changed(kind, change, part) for part in value])
        case dict():
            return {name: _changed(kind, change, part) for name, part in value.items()}
    return change(value) if isinstance(value, kind) else value


def _parts(kind: type, value: Any) -> list[Any]:
    """The parts of a kind."""
    found: list[Any] = []
    _changed(kind, found.append, value)
    return found


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
