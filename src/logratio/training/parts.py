"""The losses and gradients of a minibatch, part by part: computed, or played from a tape."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

from logratio.batches import Numbers, Rollout
from logratio.policies.actor import Actor, RowActor


@dataclass(frozen=True, slots=True)
class RowLosses:
    """What a trainer says of `R` rows, `[R]` each."""

    loss: Tensor
    """What is made small, differentiable."""
    log_ratio: Tensor
    """`log π − log μ`, μ the policy that collected."""
    log_weights: Tensor
    """Logarithm of what a row counts for having been drawn from μ."""
    parts: dict[str, Tensor]
    """What else is written down, by name."""

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Sums over the rows, as `Tally.add` takes them: one tensor, since each look at a number costs."""
        weights = self.log_weights.exp()
        # Not every device has float64.
        columns = torch.stack([weights, weights.square(), *self.parts.values()]).cpu()
        farthest = self.log_ratio.expm1().abs().max().cpu()
        return torch.cat([columns.sum(dim=1, dtype=torch.float64), farthest[None]])


Columns = TypeVar("Columns")
"""A dataclass whose fields are all tensors."""
Losses = partial[RowLosses]
"""A trainer's loss of the rows of an `Evaluation`, with all else that it takes bound by name."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a minibatch that has been computed, its gradients not yet taken over."""

    rows: Tensor
    """`[R]` which rows it holds."""
    loss: Tensor
    """Their share of the minibatch's loss, `[]`."""
    measured: Tensor
    """What `RowLosses.measure` gave."""
    names: tuple[str, ...]
    """The names of the losses' parts."""
    backward: Callable[[], None]
    """Adds its gradients to those that stand."""


def parts_of(
    actor: Actor, rollout: Rollout, numbers: Numbers, losses: Losses, weights: Tensor
) -> Iterator[Part]:
    """The parts of a minibatch, one at a time.

    Args:
        actor: who is asked again; where it has tapes, the minibatch is one part.
        rollout: what was collected.
        numbers: the items of the minibatch.
        losses: the trainer's loss of rows.
        weights: `[sequences · time]` what each row counts.
    """
    if getattr(actor, "tapes", None) is None:
        return compute(actor, rollout, numbers, losses, weights)
    return replay(cast(RowActor, actor), rollout, numbers, losses, weights)


def compute(
    actor: Actor, rollout: Rollout, numbers: Numbers, losses: Losses, weights: Tensor
) -> Iterator[Part]:
    """The parts of a minibatch, each with its graph of gradients."""
    for now in actor.evaluate(rollout.items_of(numbers), numbers, rollout):
        said = losses(now)
        loss = (said.loss * weights[now.rows].to(now.logprobs)).sum()
        yield Part(now.rows, loss.detach(), said.measure(), tuple(said.parts), loss.backward)
        # Or their graph, with memory of its own, stands until the next one has been made.
        del now, said, loss


def replay(
    actor: RowActor, rollout: Rollout, numbers: Numbers, losses: Losses, weights: Tensor
) -> Iterator[Part]:
    """A minibatch in one part, recorded where it is the first of its form."""
    assert actor.tapes is not None
    read, rows = _read(actor, rollout, losses), actor.rows_of(numbers, rollout)

    def anew() -> tuple[list[Tensor], tuple[list[nn.Parameter], tuple[str, ...]]]:
        now = actor.evaluate_rows(rows, rollout)
        said = losses(now)
        loss = (said.loss * weights[rows].to(now.logprobs)).sum()
        found = torch.autograd.grad(loss, read.trained, allow_unused=True)
        # In one tensor: what is then done to all of them is one call.
        joint = torch.cat([gradient.flatten() for gradient in found if gradient is not None])
        used = [one for one, gradient in zip(read.trained, found, strict=True) if gradient is not None]
        return [loss.detach(), said.measure(), joint], (used, tuple(said.parts))

    def backward() -> None:
        for parameter, gradient in zip(used, read.gradients.apart(joint, used), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    whole = torch.equal(rows, read.in_order)
    (loss, measured, joint), (used, names) = actor.tapes(
        *((len(rows), whole, read.key), anew, [*read.inputs, rows, weights]),
        lasting=len(read.trained),
        in_order=rows if whole else None,
    )
    yield Part(rows, loss, measured, names, backward)


class _Gradients:
    """Gradients that are the parts of one tensor, which stays from one minibatch to the next."""

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._joint = torch.empty(0)
        self._parts: Sequence[Tensor] = []

    def apart(self, joint: Tensor, parameters: list[nn.Parameter]) -> Sequence[Tensor]:
        """The gradients of the parameters, of one tensor that holds them all."""
        if any(parameter.grad is not None for parameter in parameters):
            return _unflatten_dense_tensors(joint, parameters)
        if self._parameters is not parameters:
            self._parameters, self._joint = parameters, torch.empty_like(joint)
            self._parts = _unflatten_dense_tensors(self._joint, parameters)
        self._joint.copy_(joint)
        return self._parts


@dataclass(frozen=True, slots=True)
class _Read:
    """What the minibatches of an update read beside their rows."""

    losses: Losses
    """The update's losses."""
    trained: list[nn.Parameter]
    in_order: Tensor
    """`[sequences · time]` the numbers of all rows."""
    inputs: list[Tensor]
    """The parameters, and all tensors that the rollout and the losses hold."""
    key: int
    """The same number where the same is computed: shapes, and all that the losses hold beside tensors."""
    gradients: _Gradients
    """Where they are put."""


def _read(actor: RowActor, rollout: Rollout, losses: Losses) -> _Read:
    """What an update reads, found once."""
    assert actor.tapes is not None
    if isinstance(kept := actor.tapes.kept, _Read) and kept.losses is losses:
        return kept
    trained = [parameter for parameter in actor.module.parameters() if parameter.requires_grad]
    inputs, constants = tensors_of(rollout), list[Hashable]([losses.func])
    for name, value in losses.keywords.items():
        if is_dataclass(value) and (held := tensors_of(value)):
            inputs += held
        else:
            constants += [name, value]
    forms = [(tensor.shape, tensor.dtype) for tensor in [*inputs, *trained]]
    number = actor.tapes.number_of((*constants, *forms))
    in_order = torch.arange(rollout.trajectories.mask.numel())
    gradients = kept.gradients if isinstance(kept, _Read) else _Gradients()
    actor.tapes.kept = _Read(losses, trained, in_order, [*trained, *inputs], number, gradients)
    return actor.tapes.kept


def tensors_of(holder: Any) -> list[Tensor]:
    """The tensors that a dataclass holds itself, in the order of its fields."""
    values = (getattr(holder, part.name) for part in fields(holder))
    return [value for value in values if isinstance(value, Tensor)]


def detached(columns: Columns) -> Columns:
    """A dataclass of tensors without their graphs, which then can end."""
    return type(columns)(*(tensor.detach() for tensor in tensors_of(columns)))


def on_cpu(columns: Columns) -> Columns:
    """A dataclass of tensors where float64 is to be had, as it is not on every device."""
    return type(columns)(*(tensor.cpu() for tensor in tensors_of(columns)))


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Dataclasses of tensors, the parts of a batch, as one."""
    return type(parts[0])(*map(torch.cat, zip(*map(tensors_of, parts), strict=True)))
