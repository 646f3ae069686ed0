"""Micro-batches: gradient accumulation over a minibatch, computed or replayed from a recorded graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

from logratio.policies.protocols import Actor, RowActor
from logratio.trajectories import ItemIds, Rollout


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
    def sums(self) -> Tensor:
        """Sums over the rows, as `MetricSums.add` takes them: one tensor, since each look at one costs."""
        weights = self.log_weights.exp()
        # Not every device has float64.
        columns = torch.stack([weights, weights.square(), *self.parts.values()]).cpu()
        farthest = self.log_ratio.expm1().abs().max().cpu()
        return torch.cat([columns.sum(dim=1, dtype=torch.float64), farthest[None]])


Columns = TypeVar("Columns")
"""A dataclass whose fields are all tensors."""
RowLossFunction = partial[RowLosses]
"""A trainer's loss of the rows of an `ActionEvaluation`, with all else that it takes bound by name."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A micro-batch that has been computed, its gradients not yet taken over."""

    rows: Tensor
    """`[R]` which rows it holds."""
    loss: Tensor
    """Their share of the minibatch's loss, `[]`."""
    sums: Tensor
    """What `RowLosses.sums` gave."""
    names: tuple[str, ...]
    """The names of the losses' parts."""
    backward: Callable[[], None]
    """Adds its gradients to those that stand."""


def micro_batches_of(
    actor: Actor, rollout: Rollout, item_ids: ItemIds, losses: RowLossFunction, weights: Tensor
) -> Iterator[MicroBatch]:
    """The micro-batches of a minibatch, one at a time.

    Args:
        actor: the policy that is re-evaluated; with recorded graphs a minibatch is one micro-batch.
        rollout: what was collected.
        item_ids: the items of the minibatch.
        losses: the trainer's loss of rows.
        weights: `[sequences · time]` what each row counts.
    """
    if getattr(actor, "graphs", None) is None:
        return compute_micro_batches(actor, rollout, item_ids, losses, weights)
    return replay_micro_batch(cast(RowActor, actor), rollout, item_ids, losses, weights)


def compute_micro_batches(
    actor: Actor, rollout: Rollout, item_ids: ItemIds, losses: RowLossFunction, weights: Tensor
) -> Iterator[MicroBatch]:
    """The micro-batches of a minibatch, each with its graph of gradients."""
    for now in actor.evaluate(rollout.items_of(item_ids), item_ids, rollout):
        result = losses(now)
        loss = (result.loss * weights[now.rows].to(now.logprobs)).sum()
        yield MicroBatch(now.rows, loss.detach(), result.sums(), tuple(result.parts), loss.backward)
        # Or their graph, with memory of its own, stands until the next one has been made.
        del now, result, loss


def replay_micro_batch(
    actor: RowActor, rollout: Rollout, item_ids: ItemIds, losses: RowLossFunction, weights: Tensor
) -> Iterator[MicroBatch]:
    """A minibatch as one micro-batch, recorded where it is the first of its form."""
    assert actor.graphs is not None
    update_inputs, rows = _update_inputs(actor, rollout, losses), actor.row_indices(item_ids, rollout)

    def record() -> tuple[list[Tensor], tuple[list[nn.Parameter], tuple[str, ...]]]:
        now = actor.evaluate_rows(rows, rollout)
        result = losses(now)
        loss = (result.loss * weights[rows].to(now.logprobs)).sum()
        gradients = torch.autograd.grad(loss, update_inputs.trained, allow_unused=True)
        # In one tensor: what is then done to all of them is one call.
        flat_gradient = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
        used = [
            parameter
            for parameter, gradient in zip(update_inputs.trained, gradients, strict=True)
            if gradient is not None
        ]
        return [loss.detach(), result.sums(), flat_gradient], (used, tuple(result.parts))

    def backward() -> None:
        for parameter, gradient in zip(
            used, update_inputs.gradients.unflatten(flat_gradient, used), strict=True
        ):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    whole = torch.equal(rows, update_inputs.identity_index)
    (loss, sums, flat_gradient), (used, names) = actor.graphs(
        *((len(rows), whole, update_inputs.key), record, [*update_inputs.inputs, rows, weights]),
        num_static=len(update_inputs.trained),
        identity_index=rows if whole else None,
    )
    yield MicroBatch(rows, loss, sums, names, backward)


class _Gradients:
    """Gradients that are the parts of one tensor, which stays from one minibatch to the next."""

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._flat_gradient = torch.empty(0)
        self._views: Sequence[Tensor] = []

    def unflatten(self, flat_gradient: Tensor, parameters: list[nn.Parameter]) -> Sequence[Tensor]:
        """The gradients of the parameters, of one tensor that holds them all."""
        if any(parameter.grad is not None for parameter in parameters):
            return _unflatten_dense_tensors(flat_gradient, parameters)
        if self._parameters is not parameters:
            self._parameters, self._flat_gradient = parameters, torch.empty_like(flat_gradient)
            self._views = _unflatten_dense_tensors(self._flat_gradient, parameters)
        self._flat_gradient.copy_(flat_gradient)
        return self._views


@dataclass(frozen=True, slots=True)
class _UpdateInputs:
    """What the minibatches of an update read beside their rows."""

    losses: RowLossFunction
    """The update's losses."""
    trained: list[nn.Parameter]
    identity_index: Tensor
    """`[sequences · time]` the numbers of all rows."""
    inputs: list[Tensor]
    """The parameters, and all tensors that the rollout and the losses hold."""
    key: int
    """The same number where the same is computed: shapes, and all that the losses hold beside tensors."""
    gradients: _Gradients
    """Where they are put."""


def _update_inputs(actor: RowActor, rollout: Rollout, losses: RowLossFunction) -> _UpdateInputs:
    """What an update reads, found once."""
    assert actor.graphs is not None
    if isinstance(kept := actor.graphs.kept, _UpdateInputs) and kept.losses is losses:
        return kept
    trained = [parameter for parameter in actor.module.parameters() if parameter.requires_grad]
    inputs, constants = tensors_of(rollout), list[Hashable]([losses.func])
    for name, value in losses.keywords.items():
        if is_dataclass(value) and (tensors := tensors_of(value)):
            inputs += tensors
        else:
            constants += [name, value]
    forms = [(tensor.shape, tensor.dtype) for tensor in [*inputs, *trained]]
    number = actor.graphs.key_index((*constants, *forms))
    identity_index = torch.arange(rollout.trajectories.mask.numel())
    gradients = kept.gradients if isinstance(kept, _UpdateInputs) else _Gradients()
    actor.graphs.kept = _UpdateInputs(losses, trained, identity_index, [*trained, *inputs], number, gradients)
    return actor.graphs.kept


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
