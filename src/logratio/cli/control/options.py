"""What training has in common in all environments: settings for small networks, and none that are of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from logratio.training.config import PolicyGradientConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTrainingConfig(PolicyGradientConfig):
    """Settings of the policy-gradient trainers as they suit small networks; an update is one rollout.

    It adds no field of its own, so that the settings of either trainer can be put behind it.
    """

    checkpoint_every: int = 50
    """Updates between checkpoints; 0 saves none but the last. The best so far is kept beside the newest."""
    adam_epsilon: float = 1e-5
    """Added to the square root of the second moment after its bias correction."""
    warmup: float = 0.0
    """Share of the updates in which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """What the learning rate does: stays, or falls to zero."""
    max_gradient_norm: float = 0.5
    """Maximum gradient norm; 0 turns clipping off."""
    entropy_coefficient: float = 0.0
    """Weight of a bonus for being undecided, which keeps the policy trying; 0.01 is usual."""
    # One example is one rollout, in the order in which they are made; and no text is written.
    epochs: tyro.conf.Suppress[float] = 1.0
    batch_size: tyro.conf.Suppress[int] = 1
    shuffle: tyro.conf.Suppress[bool] = False
    row_tokens: tyro.conf.Suppress[int] = 512
    seed: tyro.conf.Suppress[int] = 0
    local_kl: tyro.conf.Suppress[float] = 0.0
    max_reference_kl: tyro.conf.Suppress[float] = 0.0
    max_repetition: tyro.conf.Suppress[float] = 0.0
    max_length_change: tyro.conf.Suppress[float] = 0.0
