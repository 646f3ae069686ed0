"""The settings that every trainer has."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from logratio.errors import BadConfig

FREE_ON_RESUME = ("row_tokens", "checkpoint_every", "keep_checkpoints", "tensorboard")
"""What may change between parts of a run; `row_tokens` changes the order of float32 sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the weights are moved; what they are moved towards is the algorithm's own."""

    learning_rate: float = 1e-5
    """Peak learning rate of AdamW."""
    epochs: float = 1.0
    """Passes over the data; 1.5 is allowed."""
    batch_size: int = 8
    """Examples an update."""
    warmup: float = 0.1
    """Share of the updates in which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """What the learning rate does after that: stays, or falls to zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay; norms, biases and embeddings are never decayed."""
    adam_beta1: float = 0.9
    """Decay of the mean of gradients."""
    adam_beta2: float = 0.999
    """Decay of the mean of squared gradients."""
    adam_epsilon: float = 1e-8
    """Added to the square root of the second moment after its bias correction."""
    max_gradient_norm: float = 1.0
    """Maximum gradient norm; 0 turns clipping off."""
    row_tokens: int = 1024
    """Tokens computed at a time: more takes more memory, and is faster up to a point; same result."""
    shuffle: bool = True
    """Draw a new order each epoch, a function of seed and epoch alone; otherwise the file's order."""
    seed: int = 0
    """Seed of the data's order."""
    checkpoint_every: int = 50
    """Updates between checkpoints; 0 saves none but the last."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept; the older ones are deleted after a newer one stands."""
    tensorboard: bool = False
    """Write TensorBoard events into the run's directory as well."""

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "epochs", "batch_size", "adam_epsilon", "row_tokens")
        check_not_negative(self, "weight_decay", "max_gradient_norm", "checkpoint_every", "seed")
        check_range(self, "warmup", 0.0, 1.0)
        check_range(self, "adam_beta1", 0.0, 1.0)
        check_range(self, "adam_beta2", 0.0, 1.0)
        if self.keep_checkpoints < 1:
            raise bad_setting("keep_checkpoints", self.keep_checkpoints, "at least 1")

    def to_json(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share with the run it goes on with."""
        return {name: value for name, value in self.to_json().items() if name not in FREE_ON_RESUME}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradientConfig(TrainingConfig):
    """What the policy-gradient trainers have in common."""

    row_tokens: int = 512
    """Tokens computed at a time, of answers to learn from and of those to be judged; same result."""
    checkpoint_every: int = 10
    """Updates between checkpoints; 0 saves none but the last. The best so far is kept beside the newest."""
    critic_learning_rate: float = 0.0
    """Peak learning rate of what only the critic has: its head, and its body where that is its own. 0 takes
    --learning-rate."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    local_kl: float = 0.0
    """Weight of a loss a token whose gradient is that of the KL to the reference with the states held fixed.
    It leaves out that the policy chooses its states: the KL in the reward (--kl-coefficient) does not."""
    max_reference_kl: float = 50.0
    """The run stops where the KL to the reference passes this, in nats an answer; 0: it never does."""
    max_repetition: float = 0.5
    """The run stops where more than this share of an answer's triples of tokens stood in it before; 0:
    never."""
    max_length_change: float = 4.0
    """The run stops where answers are this many times longer or shorter than at first; 0: never."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        check_not_negative(self, "critic_learning_rate", "value_coefficient", "entropy_coefficient")
        check_not_negative(self, "local_kl", "max_reference_kl")
        check_range(self, "max_repetition", 0.0, 1.0)
        if self.max_length_change and self.max_length_change <= 1:
            raise bad_setting("max_length_change", self.max_length_change, "above 1, or 0")


def bad_setting(name: str, value: Any, wanted: str) -> BadConfig:
    """The fault of one setting."""
    flag = "--" + name.replace("_", "-")
    return BadConfig(f"{name} is {value}, it must be {wanted}", where=flag, action=f"change {flag}")


def check_positive(config: Any, *names: str) -> None:
    """Raise `BadConfig` where a setting is not a positive number."""
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise bad_setting(name, value, "above 0")


def check_not_negative(config: Any, *names: str) -> None:
    """Raise `BadConfig` where a setting is negative or not a number."""
    for name in names:
        value = getattr(config, name)
        if not (value >= 0 and math.isfinite(value)):
            raise bad_setting(name, value, "0 or more")


def check_range(config: Any, name: str, low: float, high: float) -> None:
    """Raise `BadConfig` where a setting is outside `[low, high]`."""
    value = getattr(config, name)
    if not low <= value <= high:
        raise bad_setting(name, value, f"from {low:g} to {high:g}")
