"""Tensor operations as they are done: written down below autograd, with what they take and give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
SAME = (aten.detach.default, aten.alias.default)
"""What they give is what they take, but for the graph of gradients, of which a recorded graph has none."""
LITERAL = aten.lift_fresh.default
"""What it takes was written down in the code, and is the same every time."""


class NotRecordable(Exception):
    """What was done depends on numbers, on chance, or on a tensor that was not among the inputs."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a tensor on a recorded graph."""

    number: int


@dataclass(frozen=True, slots=True)
class OpCall:
    """One operation."""

    operation: Any
    arguments: tuple[Any, ...]
    """With a `Slot` for every tensor."""
    keywords: dict[str, Any]
    results: tuple[Slot | None, ...]
    """Where its tensors go."""
    several: bool
    """Whether it gives a tuple or a list."""
    mutates: bool = False
    """Whether it changes memory in place, or reads or makes what is changed later: it stays where it is."""

    @property
    def read(self) -> list[Slot]:
        """The places of what it takes."""
        return _leaves(Slot, (self.arguments, self.keywords))

    @property
    def made(self) -> list[Slot]:
        """The places of what it gives."""
        return [slot for slot in self.results if slot is not None]

    def renamed(self, names: Mapping[Slot, Slot], *, mutates: bool) -> OpCall:
        """The same call on tensors in other places."""
        arguments, keywords = map_leaves(
            Slot, lambda slot: names.get(slot, slot), (self.arguments, self.keywords)
        )
        return OpCall(self.operation, arguments, keywords, self.results, self.several, mutates)


class OpRecorder(TorchDispatchMode):
    """Writes down every operation below autograd, its tensors by their places."""

    def __init__(self, inputs: Sequence[Tensor], identity_index: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._in_order = identity_index
        # Copies that are not made, and what they are copies of.
        self._taken: list[Tensor] = []
        self.calls: list[OpCall] = []
        self.literals: dict[int, Tensor] = {}
        """By their places, tensors that are the same every time."""
        self._slots: dict[int, Slot] = {}
        # A tensor that were let go of could leave its identity to another.
        self._kept: list[Tensor] = []
        # By memory, the last call that changes it.
        self._changed: dict[int, int] = {}
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
            self.add_literal(args[0])
        arguments, keywords = map_leaves(Tensor, self.slot, (args, kwargs))
        found = operation(*args, **kwargs)
        if operation in SAME or self._takes_all(operation, args) or _is_by_one(operation, args):
            self._kept.append(found)
            self._slots[id(found)] = arguments[0]
            self._taken += [found, args[0]] if operation not in SAME else []
            return found
        several = isinstance(found, (tuple, list))
        results = tuple(
            self._place(one) if isinstance(one, Tensor) else None for one in (found if several else [found])
        )
        self._changed |= {memory(tensor): len(self.calls) for tensor in _written(operation, args, kwargs)}
        self.calls.append(OpCall(operation, arguments, keywords, results, several))
        return found

    def add_literal(self, literal: Tensor) -> Slot:
        """A place for a tensor that is the same every time."""
        slot = self._place(literal)
        self.literals[slot.number] = literal
        return slot

    def tensor(self, slot: Slot) -> Tensor:
        """What is at a place."""
        return self._kept[slot.number]

    def is_changed(self, slot: Slot, *, since: int) -> bool:
        """Whether the memory of what is at a place is changed by the call of this number or a later one."""
        return self._changed.get(memory(self.tensor(slot)), -1) >= since

    def check_copies(self, results: Sequence[Tensor]) -> None:
        """Raise `NotRecordable` where it shows that a copy was not made."""
        given = {memory(tensor) for tensor in results}
        if any(memory(tensor) in self._changed.keys() | given for tensor in self._taken):
            raise NotRecordable(
                "a copy that is not made is changed in place or given, or what it is a copy of"
            )

    def _takes_all(self, operation: Any, args: tuple[Any, ...]) -> bool:
        """Whether it gives all rows of a tensor in their order."""
        if self._in_order is None or operation is not aten.index.Tensor:
            return False
        tensor, places = args
        return len(places) == 1 and places[0] is self._in_order and len(tensor) == len(self._in_order)

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


def _written(operation: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Tensor]:
    """What an operation changes in place."""
    if not operation._schema.is_mutable:
        return []
    given = dict(zip((one.name for one in operation._schema.arguments), arguments, strict=False)) | keywords
    names = [one.name for one in operation._schema.arguments if one.alias_info and one.alias_info.is_write]
    return _leaves(Tensor, [given[name] for name in names if name in given])


def execute(calls: Sequence[OpCall], known: dict[int, Any]) -> None:
    """Do the calls, and add what they give to what is known by its place."""
    for call in calls:
        arguments, keywords = map_leaves(
            Slot, lambda slot: known[slot.number], (call.arguments, call.keywords)
        )
        found = call.operation(*arguments, **keywords)
        for slot, tensor in zip(call.results, found if call.several else [found], strict=True):
            if slot is not None:
                known[slot.number] = tensor


def _is_by_one(operation: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether it gives a copy of the numbers that it takes: a product with 1, or a first power."""
    if operation not in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.pow.Tensor_Scalar):
        return False
    return arguments[0].is_floating_point() and isinstance(arguments[1], float) and arguments[1] == 1.0


def map_leaves(kind: type, change: Callable[[Any], Any], value: Any) -> Any:
    """The value with something else for every part of a kind."""
    match value:
        case tuple() | list():
            return type(value)([map_leaves(kind, change, part) for part in value])
        case dict():
            return {name: map_leaves(kind, change, part) for name, part in value.items()}
    return change(value) if isinstance(value, kind) else value


def _leaves(kind: type, value: Any) -> list[Any]:
    """The parts of a kind."""
    found: list[Any] = []
    map_leaves(kind, found.append, value)
    return found


def memory(tensor: Tensor) -> int:
    """Where a tensor's numbers are, the same for a tensor and its views."""
    return tensor.untyped_storage().data_ptr()
