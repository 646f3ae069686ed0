"""The settings that every trainer has, in components: each knob is declared once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import tyro

from logratio.errors import BadConfig

FREE_ON_RESUME = ("row_tokens", "checkpoint_every", "keep_checkpoints", "tensorboard")
"""What may change between parts of a run; `row_tokens` changes the order of float32 sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101), its learning rate over the run, and the limit on the gradient."""

    learning_rate: float = 1e-5
    """Peak learning rate of AdamW."""
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

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "adam_epsilon")
        check_not_negative(self, "weight_decay", "max_gradient_norm")
        for name in ("warmup", "adam_beta1", "adam_beta2"):
            check_range(self, name, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Passes over the data, batches, micro-batches and their order."""

    epochs: float = 1.0
    """Passes over the data; 1.5 is allowed."""
    batch_size: int = 8
    """Examples per update."""
    row_tokens: int = 1024
    """Tokens of a micro-batch: gradients are accumulated over as many as a batch needs. More takes more
    memory, and is faster up to a point; same result."""
    shuffle: bool = True
    """Draw a new order each epoch, a function of seed and epoch alone; otherwise the file's order."""
    seed: int = 0
    """Seed of the data's order."""

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "row_tokens")
        check_not_negative(self, "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """What a run writes while it trains."""

    checkpoint_every: int = 50
    """Updates between checkpoints; 0 saves none but the last. The best so far of a policy gradient is kept
    beside the newest."""
    keep_checkpoints: int = 2
    """How many checkpoints are kept; the older ones are deleted after a newer one stands."""
    tensorboard: bool = False
    """Write TensorBoard events into the run's directory as well."""

    def __post_init__(self) -> None:
        check_not_negative(self, "checkpoint_every")
        if self.keep_checkpoints < 1:
            raise bad_setting("keep_checkpoints", self.keep_checkpoints, "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """Limits of a policy gradient: a run that leaves them for several updates stops, and keeps its best."""

    max_reference_kl: float = 50.0
    """The run stops where the KL to the reference passes this, in nats per answer; 0: it never does."""
    max_repetition: float = 0.5
    """The run stops where more than this share of an answer's triples of tokens stood in it before; 0:
    never."""
    max_length_change: float = 4.0
    """The run stops where answers are this many times longer or shorter than at first; 0: never."""

    def __post_init__(self) -> None:
        check_not_negative(self, "max_reference_kl")
        check_range(self, "max_repetition", 0.0, 1.0)
        if self.max_length_change and self.max_length_change <= 1:
            raise bad_setting("max_length_change", self.max_length_change, "above 1, or 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What every trainer is configured by; an algorithm adds its own fields.

    >>> config = TrainingConfig(optimizer=OptimizerConfig(learning_rate=1e-6))
    >>> config.optimizer.learning_rate, config.loop.batch_size
    (1e-06, 8)
    >>> TrainingConfig.of(learning_rate=1e-6) == config
    True
    """

    # Flags are flat: --learning-rate, not --optimizer.learning-rate.
    optimizer: Annotated[OptimizerConfig, tyro.conf.arg(name="")] = field(default_factory=OptimizerConfig)
    """The optimiser and its learning rate."""
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)
    """Passes, batches and their order."""
    output: Annotated[OutputConfig, tyro.conf.arg(name="")] = field(default_factory=OutputConfig)
    """Checkpoints and event files."""

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """The configuration with some settings by their own names, whichever component declares them.

        Raises:
            BadConfig: a name is no setting, or a value is out of range.
        """
        own, components = _by_component(cls, settings)
        defaults = _default_components(cls)
        return cls(**own, **{name: replace(defaults[name], **given) for name, given in components.items()})

    def replace(self, **settings: Any) -> Self:
        """The same configuration with some settings changed, by their own names.

        Raises:
            BadConfig: as for `of`.
        """
        own, components = _by_component(type(self), settings)
        changed = {name: replace(getattr(self, name), **given) for name, given in components.items()}
        return replace(self, **own, **changed)

    def to_json(self) -> dict[str, Any]:
        """The settings by name, those of all components side by side."""
        settings: dict[str, Any] = {}
        for name, value in asdict(self).items():
            settings |= value if is_dataclass(getattr(self, name)) else {name: value}
        return settings

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share with the run it goes on with."""
        return {name: value for name, value in self.to_json().items() if name not in FREE_ON_RESUME}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradientConfig(TrainingConfig):
    """What the policy-gradient trainers have in common."""

    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(
        default_factory=partial(LoopConfig, row_tokens=512)
    )
    """Passes, batches and their order; a batch is prompts."""
    output: Annotated[OutputConfig, tyro.conf.arg(name="")] = field(
        default_factory=partial(OutputConfig, checkpoint_every=10)
    )
    """Checkpoints and event files."""
    guard: Annotated[GuardConfig, tyro.conf.arg(name="")] = field(default_factory=GuardConfig)
    """When a run stops by itself."""
    critic_learning_rate: float = 0.0
    """Peak learning rate of what only the critic has: its head, and its body where that is its own. 0 takes
    --learning-rate."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    local_kl: float = 0.0
    """Weight of a loss per token whose gradient is that of the KL to the reference with the states held
    fixed. It leaves out that the policy chooses its states: the KL in the reward (--kl-coefficient) does
    not."""

    def __post_init__(self) -> None:
        check_not_negative(
            self, "critic_learning_rate", "value_coefficient", "entropy_coefficient", "local_kl"
        )


def _by_component(
    config: type[TrainingConfig], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings of the configuration itself, and those of each of its components."""
    home = {
        setting.name: name
        for name, component in _default_components(config).items()
        for setting in fields(component)
    }
    own: dict[str, Any] = {}
    components: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name in home:
            components.setdefault(home[name], {})[name] = value
        elif any(part.name == name for part in fields(config)):
            own[name] = value
        else:
            raise BadConfig(
                f"{config.__name__} has no setting {name!r}", action=f"one of: {', '.join(sorted(home))}"
            )
    return own, components


def _default_components(config: type[TrainingConfig]) -> dict[str, Any]:
    """The components of a configuration, dataclasses of settings of their own, as they are by default."""
    made = {part.name: part.default_factory() for part in fields(config) if callable(part.default_factory)}
    return {name: component for name, component in made.items() if is_dataclass(component)}


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
