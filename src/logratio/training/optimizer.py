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

from logratio.training.config import TrainingConfig

NORM_EPSILON = 1e-6
TABLE = 4096
"""Rows from which a gradient is looked through for rows without any: a vocabulary's, read here and there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamGroupLR:
    """Weights that learn at a rate of their own, such as a critic's."""

    parameters: Sequence[nn.Parameter]
    """The weights."""
    scale: float
    """Their learning rate, as a multiple of that of the rest."""


@dataclass(frozen=True, slots=True)
class _FusedBucket:
    """Weights of one kind that are moved by one call, with what AdamW keeps of each."""

    weights: list[Tensor]
    steps: list[Tensor]
    """How often each was moved, `[]`."""
    exp_avgs: list[Tensor]
    """The moving averages of their gradients."""
    exp_avg_sqs: list[Tensor]
    """The moving averages of their gradients' squares."""
    step_counts: Tensor | None
    """The one tensor that the steps are the parts of, if there is one."""

    def step(self, group: Mapping[str, Any]) -> None:
        """Move the weights along their gradients, as the settings of their group say."""
        if self.step_counts is None:
            torch._foreach_add_(self.steps, 1.0)
        else:
            self.step_counts.add_(1.0)
        torch._fused_adamw_(
            self.weights,
            [weight.grad for weight in self.weights if weight.grad is not None],
            self.exp_avgs,
            self.exp_avg_sqs,
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
        self._buckets_of_group: dict[int, tuple[list[int], list[_FusedBucket]]] = {}
        super().__init__(*arguments, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._buckets_of_group.clear()
        unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)

    def step(self) -> None:  # type: ignore[override]
        """Move the weights along their gradients, in one call for all of a group that are of one kind."""
        # Not as a decorator, which is made anew with every step.
        with torch.no_grad():
            for number, group in enumerate(self.param_groups):
                for bucket in self._buckets(number, group):
                    bucket.step(group)

    def init_state(self) -> None:
        """Take the memory of all states now, in one piece, rather than between what a first step computes."""
        for group in self.param_groups:
            if new := [parameter for parameter in group["params"] if not self.state[parameter]]:
                self._init_state(new)

    def _buckets(self, number: int, group: dict[str, Any]) -> list[_FusedBucket]:
        """What is moved of a group: the same as in the last step, where the same weights have gradients."""
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        identities = list(map(id, trained))
        known, buckets = self._buckets_of_group.get(number, (None, []))
        if identities != known:
            by_device_and_dtype: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for parameter in trained:
                by_device_and_dtype.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            buckets = list(map(self._bucket, by_device_and_dtype.values()))
            self._buckets_of_group[number] = identities, buckets
        return buckets

    def _bucket(self, trained: list[Tensor]) -> _FusedBucket:
        if new := [parameter for parameter in trained if not self.state[parameter]]:
            self._init_state(new)
        states = [self.state[parameter] for parameter in trained]
        steps, exp_avgs, exp_avg_sqs = (
            [state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq")
        )
        return _FusedBucket(trained, steps, exp_avgs, exp_avg_sqs, _shared_base(steps))

    def _init_state(self, parameters: Sequence[Tensor]) -> None:
        """The state before the first step, in PyTorch's form; the counts are parts of one tensor."""
        step_counts = torch.zeros(len(parameters), dtype=torch.float32, device=parameters[0].device)
        for parameter, count in zip(parameters, step_counts.unbind(), strict=True):
            self.state[parameter]["step"] = count
            for name in ("exp_avg", "exp_avg_sq"):
                moment = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                self.state[parameter][name] = moment

    step.hooked = True  # type: ignore[attr-defined]


def build_optimizer(
    model: nn.Module, config: TrainingConfig, param_group_lr: ParamGroupLR | None = None
) -> PlainAdamW:
    """AdamW with no decay on embeddings and on whatever has one axis: norms and biases.

    Weights with a rate of their own are groups of their own, with their `scale` in the group.
    """
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    separate_ids = {id(parameter) for parameter in param_group_lr.parameters} if param_group_lr else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Without decay there is nothing to tell apart, and one group is one call.
            no_decay = not config.optimizer.weight_decay or parameter.ndim < 2 or id(parameter) in embeddings
            groups.setdefault((id(parameter) in separate_ids, no_decay), []).append(parameter)
    return PlainAdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.0 if no_decay else config.optimizer.weight_decay,
                "scale": param_group_lr.scale if param_group_lr and separate else 1.0,
            }
            for (separate, no_decay), parameters in sorted(groups.items(), key=lambda group: group[0])
        ],
        lr=config.optimizer.learning_rate,
        betas=(config.optimizer.adam_beta1, config.optimizer.adam_beta2),
        eps=config.optimizer.adam_epsilon,
        fused=True,
    )


def learning_rate_at(step: int, *, num_steps: int, config: TrainingConfig) -> float:
    """Learning rate of update `step`, counted from 0: a linear rise, then the schedule.

    The rise ends at the peak with update `warmup · num_steps`; a falling schedule would reach zero one
    update after the last, so that no update is spent at zero.
    """
    warmup_steps = math.ceil(config.optimizer.warmup * num_steps)
    if step < warmup_steps:
        return config.optimizer.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    if config.optimizer.schedule == "cosine":
        return config.optimizer.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    if config.optimizer.schedule == "linear":
        return config.optimizer.learning_rate * (1.0 - progress)
    return config.optimizer.learning_rate


def clip_gradient(parameters: Iterable[nn.Parameter], *, max_norm: float) -> float:
    """Scale all gradients so that their joint 2-norm is at most `max_norm`; 0 leaves them as they are.

    Returns:
        The norm before clipping, NaN or infinite where a gradient is.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    base = _shared_base(gradients)
    if base is not None:
        norm = float(torch.linalg.vector_norm(base))
        if 0 < max_norm < norm:
            base.mul_(max_norm / (norm + NORM_EPSILON))
        return norm
    tables = [gradient for gradient in gradients if gradient.ndim == 2 and len(gradient) >= TABLE]
    others = [gradient for gradient in gradients if gradient.ndim != 2 or len(gradient) < TABLE]
    row_norms = [torch.linalg.vector_norm(table, dim=1) for table in tables]
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm([*others, *row_norms]))))
    if 0 < max_norm < norm:
        factor = max_norm / (norm + NORM_EPSILON)
        if others:
            torch._foreach_mul_(others, factor)
        for table, norms in zip(tables, row_norms, strict=True):
            _scale_rows(table, norms, factor)
    return norm


def _scale_rows(table: Tensor, norms: Tensor, factor: float) -> None:
    """Scale a table; where few rows hold anything, those alone: zeros never written take no memory."""
    rows = norms.nonzero()[:, 0]
    if len(rows) < len(table) // 2:
        table[rows] = table[rows].mul_(factor)
    else:
        table.mul_(factor)


def _shared_base(views: list[Tensor]) -> Tensor | None:
    """The tensor that these are all the parts of, if there is one: what is done to all is one call then."""
    base = views[0]._base
    if base is None or any(view._base is not base for view in views):
        return None
    return base if sum(view.numel() for view in views) == base.numel() else None
