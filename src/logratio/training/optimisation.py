"""AdamW, the learning rate's course, and the last look at a gradient before it moves the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import unwrap

import torch
from torch import nn

from logratio.training.settings import TrainingConfig

NORM_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRate:
    """Weights that learn at a rate of their own, such as a critic's."""

    parameters: Sequence[nn.Parameter]
    """The weights."""
    scale: float
    """Their learning rate, as a multiple of that of the rest."""


class PlainAdamW(torch.optim.AdamW):
    """PyTorch's AdamW without the hooks of its compiler, which take seconds to import and do nothing here."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move the weights along their gradients."""
        unwrap(torch.optim.Adam.step)(self)

    step.hooked = True  # type: ignore[attr-defined]


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
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    norm = float(torch.stack(norms).norm())
    if 0 < max_norm < norm:
        for gradient in gradients:
            gradient.mul_(max_norm / (norm + NORM_EPSILON))
    return norm
