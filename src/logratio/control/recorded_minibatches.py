"""Minibatches of rows, whose losses and gradients are recorded at their first use and replayed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

from logratio.control.graph_replay import GraphCache
from logratio.policies.microbatches import MicroBatch, RowLossFunction
from logratio.trajectories import ActionEvaluation, Rollout


@dataclass(frozen=True, slots=True)
class _UpdateInputs:
    """What the minibatches of an update read beside their rows."""

    losses: RowLossFunction
    """The update's losses."""
    trained: list[nn.Parameter]
    identity_index: Tensor
    """`[sequences · time]` the numbers of all rows."""
    tensors: list[Tensor]
    """The parameters, and all tensors that the rollout and the losses hold."""
    key: int
    """The same number where the same is computed: shapes, and all that the losses hold beside tensors."""


class RecordedMinibatches:
    """The minibatches of a module that computes all rows at once, each as one micro-batch.

    Args:
        module: what is trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.graphs = module, GraphCache()
        self._inputs: _UpdateInputs | None = None
        self._gradients = _Gradients()

    def backpropagate(
        self,
        rows: Tensor,
        evaluate: Callable[[Tensor, Rollout], ActionEvaluation],
        rollout: Rollout,
        losses: RowLossFunction,
        weights: Tensor,
    ) -> MicroBatch:
        """Add the gradients of `[R]` rows to those that stand, recorded where they are the first of a form.

        Args:
            rows: places in the flattened `[sequences · time]`.
            evaluate: what the module says of rows, from the tensors of the rollout alone.
            rollout: what was collected.
            losses: the trainer's loss of rows; the same object for all minibatches of an update.
            weights: `[sequences · time]` what each row counts.
        """
        inputs = self._inputs_of(rollout, losses)

        def record() -> tuple[list[Tensor], tuple[list[nn.Parameter], tuple[str, ...]]]:
            now = evaluate(rows, rollout)
            result = losses(now)
            loss = (result.loss * weights[rows].to(now.logprobs)).sum()
            gradients = torch.autograd.grad(loss, inputs.trained, allow_unused=True)
            # In one tensor: what is then done to all of them is one call.
            flat_gradient = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
            used = [
                parameter
                for parameter, gradient in zip(inputs.trained, gradients, strict=True)
                if gradient is not None
            ]
            return [loss.detach(), result.sums(), flat_gradient], (used, tuple(result.parts))

        whole = torch.equal(rows, inputs.identity_index)
        (loss, sums, flat_gradient), (used, names) = self.graphs(
            *((len(rows), whole, inputs.key), record, [*inputs.tensors, rows, weights]),
            num_static=len(inputs.trained),
            identity_index=rows if whole else None,
        )
        for parameter, gradient in zip(used, self._gradients.unflatten(flat_gradient, used), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return MicroBatch(rows, loss, sums, names)

    def _inputs_of(self, rollout: Rollout, losses: RowLossFunction) -> _UpdateInputs:
        """What an update reads, found once."""
        if self._inputs is not None and self._inputs.losses is losses:
            return self._inputs
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        tensors, constants = tensors_of(rollout), list[Hashable]([losses.func])
        for name, value in losses.keywords.items():
            if is_dataclass(value) and (held := tensors_of(value)):
                tensors += held
            else:
                constants += [name, value]
        forms = [(tensor.shape, tensor.dtype) for tensor in [*tensors, *trained]]
        key = self.graphs.key_index((*constants, *forms))
        identity_index = torch.arange(rollout.trajectories.mask.numel())
        self._inputs = _UpdateInputs(losses, trained, identity_index, [*trained, *tensors], key)
        return self._inputs


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


def tensors_of(holder: Any) -> list[Tensor]:
    """The tensors that a dataclass holds itself, in the order of its fields."""
    values = (getattr(holder, part.name) for part in fields(holder))
    return [value for value in values if isinstance(value, Tensor)]
