"""AdamW, the learning rate's course, and the last look at a gradient before it moves the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from logratio.training.settings import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRate:
    """Weights that learn at a rate of their own, such as a critic's."""

    parameters: Sequence[nn.Parameter]
    """The weights."""
    scale: float
    """Their learning rate, as a multiple of that of the rest."""


def build_optimizer(
    model: nn.Module, config: TrainingConfig, own: OwnRate | None = None
) -> torch.optim.AdamW:
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
            plain = parameter.ndim < 2 or id(parameter) in embeddings
            groups.setdefault((id(parameter) in apart, plain), []).append(parameter)
    return torch.optim.AdamW(
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
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    bound = max_norm if max_norm > 0 else math.inf
    return float(nn.utils.clip_grad_norm_(with_gradient, bound, error_if_nonfinite=False))
