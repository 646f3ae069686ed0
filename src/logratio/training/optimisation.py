"""AdamW, the learning rate's course, and the last look at a gradient before it moves the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from logratio.training.settings import TrainingConfig


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with no decay on embeddings and on whatever has one axis: norms and biases."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or id(parameter) in embeddings
            (kept if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
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
