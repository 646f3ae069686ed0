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
"""What they give is what they take, but for the graph of gradients, of which a tape has none."""
LITERAL = aten.lift_fresh.default
"""What it takes was written down in the code, and is the same every time."""
OF_A_FORM = (aten.zeros_like.default, aten.ones_like.default, aten.new_zeros.default, aten.new_ones.default)
"""What they give depends on the form of what they take, which stays."""
VIEWS = (aten.t.default, aten.transpose.int, aten.select.int, aten.view.default, aten.unsqueeze.default)
"""What they give is the memory of what they take, in another form."""
UNDONE_BY_THEMSELVES = (aten.neg.default, aten.t.default)
"""What they give of what they gave is what they took."""


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


class Recorder(TorchDispatchMode):
    """Writes down every operation below autograd, its tensors by their places."""

    def __init__(self, inputs: Sequence[Tensor], in_order: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._in_order = in_order
        # Copies that are not made, and what they are copies of.
        self._taken: list[Tensor] = []
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
        if operation in SAME or self._takes_all(operation, args) or _is_by_one(operation, args):
            self._kept.append(found)
            self._slots[id(found)] = arguments[0]
            self._taken += [found, args[0]] if operation not in SAME else []
            return found
        several = isinstance(found, (tuple, list))
        results = tuple(
            self._place(one) if isinstance(one, Tensor) else None for one in (found if several else [found])
        )
        self._changed |= {_memory(tensor) for tensor in _written(operation, args, kwargs)}
        self.calls.append(Call(operation, arguments, keywords, results, several))
        return found

    def finished(self, results: Sequence[Tensor]) -> tuple[list[Call], list[Slot]]:
        """The calls that the results need, each once, and the places of the results."""
        given = {_memory(tensor) for tensor in results}
        if any(_memory(tensor) in self._changed | given for tensor in self._taken):
            raise NotRecordable(
                "a copy that is not made is changed in place or given, or what it is a copy of"
            )
        renamed: dict[Slot, Slot] = {}
        known: dict[str, Call] = {}
        made_by: dict[Slot, Call] = {}
        different = []
        for recorded in self.calls:
            changes = any(self._is_changed(slot) for slot in (*recorded.read, *recorded.made))
            call = recorded.renamed(renamed, changes=changes)
            name = repr((call.operation, call.arguments, call.keywords))
            if not changes and name in known:
                renamed |= dict(zip(call.made, known[name].made, strict=True))
                continue
            if (same := _in_vain(call, made_by)) and self._stands_for(same, call, given):
                renamed[call.made[0]] = same
                continue
            different.append(call)
            made_by |= dict.fromkeys(call.made, call)
            if not changes:
                # What one that is changed gave is not what another would give.
                known[name] = call
        wanted = [renamed.get(place, place) for place in map(self.slot, results)]
        return self._without_constants(_needed(different, wanted), given), wanted

    def _without_constants(self, calls: Sequence[Call], given: set[int]) -> list[Call]:
        """The calls whose results are not the same whatever the inputs hold; the others become literals.

        Those whose memory is among the results are made every time, since it is theirs who get them.
        """
        kept = []
        for call in calls:
            known = all(slot.number in self.literals for slot in call.read) or call.operation in OF_A_FORM
            mine = given.isdisjoint(_memory(self._kept[slot.number]) for slot in call.made)
            if call.changes or not known or not mine:
                kept.append(call)
            else:
                self.literals |= {slot.number: self._kept[slot.number] for slot in call.made}
        return kept

    def _takes_all(self, operation: Any, args: tuple[Any, ...]) -> bool:
        """Whether it gives all rows of a tensor in their order."""
        if self._in_order is None or operation is not aten.index.Tensor:
            return False
        tensor, places = args
        return len(places) == 1 and places[0] is self._in_order and len(tensor) == len(self._in_order)

    def _stands_for(self, same: Slot, call: Call, given: set[int]) -> bool:
        """Whether a tensor can be read where a call's result was, whose numbers it has."""
        one, other = self._kept[same.number], self._kept[call.made[0].number]
        alike = one.shape == other.shape and one.stride() == other.stride()
        return alike and not call.changes and not self._is_changed(same) and _memory(other) not in given

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


def _written(operation: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Tensor]:
    """What an operation changes in place."""
    if not operation._schema.is_mutable:
        return []
    given = dict(zip((one.name for one in operation._schema.arguments), arguments, strict=False)) | keywords
    names = [one.name for one in operation._schema.arguments if one.alias_info and one.alias_info.is_write]
    return _parts(Tensor, [given[name] for name in names if name in given])


def do(calls: Sequence[Call], known: dict[int, Any]) -> None:
    """Do the calls, and add what they give to what is known by its place."""
    for call in calls:
        arguments, keywords = _changed(Slot, lambda slot: known[slot.number], (call.arguments, call.keywords))
        found = call.operation(*arguments, **keywords)
        for slot, tensor in zip(call.results, found if call.several else [found], strict=True):
            if slot is not None:
                known[slot.number] = tensor


def views_ahead(calls: Sequence[Call], lasting: int) -> tuple[list[Call], list[Call]]:
    """The calls that give views of the first inputs alone, and the others."""
    ahead, others, known = list[Call](), list[Call](), {Slot(number) for number in range(lasting)}
    for call in calls:
        if call.operation in VIEWS and not call.changes and known.issuperset(call.read):
            ahead.append(call)
            known.update(call.made)
        else:
            others.append(call)
    return ahead, others


def _is_by_one(operation: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether it gives a copy of the numbers that it takes: a product with 1, or a first power."""
    if operation not in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.pow.Tensor_Scalar):
        return False
    return arguments[0].is_floating_point() and isinstance(arguments[1], float) and arguments[1] == 1.0


def _in_vain(call: Call, made_by: Mapping[Slot, Call]) -> Slot | None:
    """Whose numbers a call gives again: those of which it takes the negative's negative, say."""
    if call.operation in UNDONE_BY_THEMSELVES:
        before = made_by.get(call.arguments[0])
        return before.arguments[0] if before and before.operation is call.operation else None
    if call.operation is aten.where.self and call.arguments[1] == call.arguments[2]:
        return call.arguments[1]
    return None


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
