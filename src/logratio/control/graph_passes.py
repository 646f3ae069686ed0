"""What a recorded graph leaves out of what was recorded, without a bit of difference in what comes out.

Operations that were done already or in vain, constants made anew, views of what stays, and the tensors that
PyTorch makes of every number that an operation takes, in as much time as the operation itself needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from logratio.control.op_recorder import OpCall, OpRecorder, Slot, aten, memory

OF_A_FORM = (aten.zeros_like.default, aten.ones_like.default, aten.new_zeros.default, aten.new_ones.default)
"""What they give depends on the form of what they take, which stays."""
VIEWS = (aten.t.default, aten.transpose.int, aten.select.int, aten.view.default, aten.unsqueeze.default)
"""What they give is the memory of what they take, in another form."""
PERHAPS_THE_SAME = (aten.view.default, aten.expand.default)
"""What they give is what they take, where it has the wanted form already."""
UNDONE_BY_THEMSELVES = (aten.neg.default, aten.t.default)
"""What they give of what they gave is what they took."""
WITH_NUMBERS = {
    aten.gt.Scalar: aten.gt.Tensor,
    aten.lt.Scalar: aten.lt.Tensor,
    aten.add.Tensor: aten.add.Tensor,
    aten.sub.Tensor: aten.sub.Tensor,
    aten.mul.Tensor: aten.mul.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Tensor: aten.div.Tensor,
}
"""Operations that may be given a number second, and which they are with a tensor of it."""


def optimise_graph(recorder: OpRecorder, results: Sequence[Tensor]) -> tuple[list[OpCall], list[Slot]]:
    """The calls that the results need, each once, and the places of the results.

    Raises:
        NotRecordable: a copy was not made that somebody would miss.
    """
    recorder.check_copies(results)
    shortening = _GraphOptimiser(recorder, {memory(tensor) for tensor in results})
    calls, renamed = shortening.different()
    wanted = [renamed.get(place, place) for place in map(recorder.slot, results)]
    calls = shortening.without_constants(_needed(calls, wanted))
    return list(map(shortening.with_tensors, calls)), wanted


def hoist_views(calls: Sequence[OpCall], num_static: int) -> tuple[list[OpCall], list[OpCall]]:
    """The calls that give views of the first inputs alone, and the others."""
    ahead, others, known = list[OpCall](), list[OpCall](), {Slot(number) for number in range(num_static)}
    for call in calls:
        if call.operation in VIEWS and not call.mutates and known.issuperset(call.read):
            ahead.append(call)
            known.update(call.made)
        else:
            others.append(call)
    return ahead, others


class _GraphOptimiser:
    """Calls and what is found out about them.

    Args:
        recorder: wrote them down.
        given: the memory of the results, which is theirs who get them.
    """

    def __init__(self, recorder: OpRecorder, given: set[int]) -> None:
        self.recorder, self.given = recorder, given
        # Places of what is the same whatever the inputs hold.
        self._constants = {Slot(number) for number in recorder.literals}
        self._numbers: dict[tuple[str, torch.dtype, torch.device], Slot] = {}

    def different(self) -> tuple[list[OpCall], dict[Slot, Slot]]:
        """The calls that give what no other has given, and the new places of what the others gave."""
        renamed: dict[Slot, Slot] = {}
        known: dict[str, OpCall] = {}
        made_by: dict[Slot, OpCall] = {}
        different = []
        for place, recorded in enumerate(self.recorder.calls):
            touched = (*recorded.read, *recorded.made)
            mutates = any(self.recorder.is_changed(slot, since=place) for slot in touched)
            call = recorded.renamed(renamed, mutates=mutates)
            name = repr((call.operation, call.arguments, call.keywords))
            if not mutates and name in known:
                renamed |= dict(zip(call.made, known[name].made, strict=True))
                continue
            if (same := self._in_vain(call, made_by)) and self._stands_for(same, call, since=place):
                renamed[call.made[0]] = same
                continue
            different.append(call)
            made_by |= dict.fromkeys(call.made, call)
            if not mutates:
                # What one that is changed gave is not what another would give.
                known[name] = call
                if call.operation in OF_A_FORM or self._constants.issuperset(call.read):
                    self._constants.update(call.made)
        return different, renamed

    def without_constants(self, calls: Sequence[OpCall]) -> list[OpCall]:
        """The calls whose results are not the same whatever the inputs hold; the others become literals.

        Those whose memory is among the results are made every time, since it is theirs who get them.
        """
        kept = []
        for call in calls:
            mine = self.given.isdisjoint(memory(self.recorder.tensor(slot)) for slot in call.made)
            if call.made and mine and self._constants.issuperset(call.made):
                for slot in call.made:
                    self.recorder.add_literal(self.recorder.tensor(slot))
            else:
                kept.append(call)
        return kept

    def with_tensors(self, call: OpCall) -> OpCall:
        """The call with a literal for a number that it takes, in the type of what it takes it with."""
        if call.operation not in WITH_NUMBERS or not isinstance(call.arguments[1], (int, float)):
            return call
        first, number, *others = call.arguments
        tensor = self.recorder.tensor(first)
        if not tensor.is_floating_point():
            return call
        # As text: 0 and −0 are equal and are not the same.
        name = (repr(number), tensor.dtype, tensor.device)
        if name not in self._numbers:
            literal = torch.tensor(number, dtype=tensor.dtype, device=tensor.device)
            self._numbers[name] = self.recorder.add_literal(literal)
        arguments = (first, self._numbers[name], *others)
        return replace(call, operation=WITH_NUMBERS[call.operation], arguments=arguments)

    def _in_vain(self, call: OpCall, made_by: Mapping[Slot, OpCall]) -> Slot | None:
        """Whose numbers a call gives again: those of which it takes the negative's negative, say."""
        if call.operation in UNDONE_BY_THEMSELVES:
            before = made_by.get(call.arguments[0])
            return before.arguments[0] if before and before.operation is call.operation else None
        if call.operation is aten.where.self and call.arguments[1] == call.arguments[2]:
            return call.arguments[1]
        if call.operation is aten.mul.Tensor:
            return next((one for one, other in _both_ways(call) if self._is_one(other)), None)
        return call.arguments[0] if call.operation in PERHAPS_THE_SAME else None

    def _is_one(self, slot: Slot) -> bool:
        """Whether something is always ones."""
        return slot in self._constants and bool((self.recorder.tensor(slot) == 1).all())

    def _stands_for(self, same: Slot, call: OpCall, *, since: int) -> bool:
        """Whether a tensor can be read where a call's result was, whose numbers it has."""
        one, other = self.recorder.tensor(same), self.recorder.tensor(call.made[0])
        alike = (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        stays = not call.mutates and not self.recorder.is_changed(same, since=since)
        return alike and stays and memory(other) not in self.given


def _both_ways(call: OpCall) -> list[tuple[Slot, Slot]]:
    """The two tensors that a call takes, each with the other."""
    first, second = call.arguments
    return [(first, second), (second, first)] if isinstance(second, Slot) else []


def _needed(calls: Sequence[OpCall], wanted: Sequence[Slot]) -> list[OpCall]:
    """The calls without those whose results nobody takes."""
    taken, kept = set(wanted), list[OpCall]()
    for call in reversed(calls):
        if call.mutates or taken.intersection(call.made):
            taken.update(call.read)
            kept.append(call)
    return kept[::-1]
