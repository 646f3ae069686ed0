"""AdamW, the learning rate's course, and the last look at a gradient before it moves the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from logratio.training.settings import TrainingConfig

NORM_EPSILON = 1e-6
TABLE = 4096
"""Rows from which a gradient is looked through for rows without any: a vocabulary's, read here and there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRate:
    """Weights that learn at a rate of their own, such as a critic's."""

    parameters: Sequence[nn.Parameter]
    """The weights."""
    scale: float
    """Their learning rate, as a multiple of that of the rest."""


@dataclass(frozen=True, slots=True)
class _Lot:
    """Weights of one kind that are moved by one call, with what AdamW keeps of each."""

    weights: list[Tensor]
    steps: list[Tensor]
    """How often each was moved, `[]`."""
    averages: list[Tensor]
    """The moving averages of their gradients."""
    squares: list[Tensor]
    """The moving averages of their gradients' squares."""
    counts: Tensor | None
    """The one tensor that the steps are the parts of, if there is one."""

    def move(self, group: Mapping[str, Any]) -> None:
        """Move the weights along their gradients, as the settings of their group say."""
        if self.counts is None:
            torch._foreach_add_(self.steps, 1.0)
        else:
            self.counts.add_(1.0)
        torch._fused_adamw_(
            self.weights,
            [weight.grad for weight in self.weights if weight.grad is not None],
            self.averages,
            self.squares,
            [],
            self.steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        # The fused kernel does not say that it wrote; copies in fewer bits are made anew by this count.
        increment_version(self.weights)


class PlainAdamW(torch.optim.AdamW):
    """PyTorch's AdamW without the hooks of its compiler, which take seconds to import and do nothing here."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self._lots_of: dict[int, tuple[list[int], list[_Lot]]] = {}
        super().__init__(*arguments, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._lots_of.clear()
        unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)

    def step(self) -> None:  # type: ignore[override]
        """Move the weights along their gradients, in one call for all of a group that are of one kind."""
        # Not as a decorator, which is made anew with every step.
        with torch.no_grad():
            for number, group in enumerate(self.param_groups):
                for lot in self._lots(number, group):
                    lot.move(group)

    def begin(self) -> None:
        """Take the memory of all states now, in one piece, rather than between what a first step computes."""
        for group in self.param_groups:
            if new := [parameter for parameter in group["params"] if not self.state[parameter]]:
                self._begin(new)

    def _lots(self, number: int, group: dict[str, Any]) -> list[_Lot]:
        """What is moved of a group: the same as in the last step, where the same weights have gradients."""
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        identities = list(map(id, trained))
        known, lots = self._lots_of.get(number, (None, []))
        if identities != known:
            kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for parameter in trained:
                kinds.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            lots = list(map(self._lot, kinds.values()))
            self._lots_of[number] = identities, lots
        return lots

    def _lot(self, trained: list[Tensor]) -> _Lot:
        if new := [parameter for parameter in trained if not self.state[parameter]]:
            self._begin(new)
        states = [self.state[parameter] for parameter in trained]
        steps, averages, squares = (
            [state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq")
        )
        return _Lot(trained, steps, averages, squares, _joint(steps))

    def _begin(self, parameters: Sequence[Tensor]) -> None:
        """The state before the first step, in PyTorch's form; the counts are parts of one tensor."""
        counts = torch.zeros(len(parameters), dtype=torch.float32, device=parameters[0].device)
        for parameter, count in zip(parameters, counts.unbind(), strict=True):
            self.state[parameter]["step"] = count
            for name in ("exp_avg", "exp_avg_sq"):
                moment = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                self.state[parameter][name] = moment

    step.hooked = True  # type: ignore[attr-defined]


def build_optimizer(model: nn.Module, config: TrainingConfig, own: OwnRate | None = None) -> PlainAdamW:
    """AdamW with no decay on embeddings and on whatever has one axis: norms and biases.

    Weights with a rate of their own are groups of their own, with their `scale` in the group.
    """
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    apart = {id(parameter) for parameter in own.parameters} if own else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Without decay there is nothing to tell apart, and one group is one call.
            plain = not config.weight_decay or parameter.ndim < 2 or id(parameter) in embeddings
            groups.setdefault((id(parameter) in apart, plain), []).append(parameter)
    return PlainAdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.0 if plain else config.weight_decay,
                "scale": own.scale if own and separate else 1.0,
            }
            for (separate, plain), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )


def learning_rate_at(step: int, *, num_steps: int, config: TrainingConfig) -> float:
    """Learning rate of update `step`, counted from 0: a linear rise, then the schedule.

    The rise ends at the peak with update `warmup · num_steps`; a falling schedule would reach zero one
    update after the last, so that no update is spent at zero.
    """
    rise = math.ceil(config.warmup * num_steps)
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    progress = (step - rise) / max(1, num_steps - rise)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    if config.schedule == "linear":
        return config.learning_rate * (1.0 - progress)
    return config.learning_rate


def clip_gradient(parameters: Iterable[nn.Parameter], *, max_norm: float) -> float:
    """Scale all gradients so that their joint 2-norm is at most `max_norm`; 0 leaves them as they are.

    Returns:
        The norm before clipping, NaN or infinite where a gradient is.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    joint = _joint(gradients)
    if joint is not None:
        norm = float(torch.linalg.vector_norm(joint))
        if 0 < max_norm < norm:
            joint.mul_(max_norm / (norm + NORM_EPSILON))
        return norm
    tables = [gradient for gradient in gradients if gradient.ndim == 2 and len(gradient) >= TABLE]
    others = [gradient for gradient in gradients if gradient.ndim != 2 or len(gradient) < TABLE]
    by_row = [torch.linalg.vector_norm(table, dim=1) for table in tables]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm([*others, *by_row]))))
    if 0 < max_norm < norm:
        factor = max_norm / (norm + NORM_EPSILON)
        if others:
            torch._foreach_mul_(others, factor)
        for table, norms in zip(tables, by_row, strict=True):
            _scale_rows(table, norms, factor)
    return norm


def _scale_rows(table: Tensor, norms: Tensor, factor: float) -> None:
    """Scale a table; where few rows hold anything, those alone: zeros never written take no memory."""
    rows = norms.nonzero()[:, 0]
    if len(rows) < len(table) // 2:
        table[rows] = table[rows].mul_(factor)
    else:
        table.mul_(factor)


def _joint(parts: list[Tensor]) -> Tensor | None:
    """The tensor that these are all the parts of, if there is one: what is done to all is one call then."""
    joint = parts[0]._base
    if joint is None or any(part._base is not joint for part in parts):
        return None
    return joint if sum(part.numel() for part in parts) == joint.numel() else None
