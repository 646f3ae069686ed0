"""A policy and its critic that drive environments: small networks, with a memory or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from logratio.batches import Evaluation, Numbers, Rollout
from logratio.errors import BadConfig
from logratio.models.mlp import (
    VALUE_GAIN,
    Activation,
    ImageEncoder,
    Memory,
    TwinPerceptron,
    linear,
    perceptron,
)
from logratio.models.tape import Tapes
from logratio.policies.categorical import CategoricalHead
from logratio.policies.gaussian import Deviation, GaussianHead


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The form of policy and critic."""

    widths: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the policy's and of the critic's."""
    activation: Activation = "tanh"
    """What follows each hidden layer."""
    shared: bool = False
    """Policy and critic have their hidden layers in common; for images and with a memory they always have."""
    memory: int = 0
    """Width of a recurrent layer (GRU) behind the hidden layers, where one observation does not tell the
    state; 0: none."""
    deviation: Deviation = "parameter"
    """Where the deviation of continuous actions comes from: one parameter each, or the state."""
    initial_log_deviation: float = 0.0
    """Its logarithm at the start, in the environment's own units, or in halves of the range between its
    bounds where these are scaled."""
    image_width: int = 512
    """Features of an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRollout(Rollout):
    """Rows with what the policy saw and did, `[sequences · time, ...]`.

    An item is a real row, or a sequence where the policy has a memory.
    """

    observations: Tensor
    """What it saw, as it saw it: normalised, if observations are."""
    actions: Tensor
    """`[rows, columns]` what it did, before any bounds."""
    begins: Tensor
    """`[rows]` true where an episode begins."""
    allowed: Tensor | None
    """`[rows, Σ sizes]` the actions that it had."""
    remembered: Tensor
    """`[sequences, width]` what it remembered before the first row; of width 0 without a memory."""
    all_real: bool
    """Whether every row is one to learn from."""

    def items_of(self, numbers: Numbers) -> Sequence[Any]:
        """The items are their places."""
        return numbers  # type: ignore[return-value]


class ControlPolicy(nn.Module):
    """Observations to actions and values.

    Args:
        shape: of an observation: `(features,)`, or `(C, H, W)` of an image.
        sizes: of how many actions each choice is one; empty where an action is numbers.
        num_numbers: numbers in an action, where it has no choices.
        config: the networks.
        critic: whether values are wanted.
        own_critic: whether the critic's weights are tensors of their own, so that it can learn at a rate of
            its own; otherwise they are held together with the policy's, which is faster.
        seed: of the weights.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        sizes: Sequence[int],
        num_numbers: int,
        config: NetworkConfig,
        critic: bool,
        own_critic: bool = False,
        seed: int,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config, self.is_image, self.own_critic = config, len(shape) == 3, own_critic
        self.has_memory = config.memory > 0
        self.encoder = (
            ImageEncoder(shape, width=config.image_width, generator=generator) if self.is_image else None
        )
        inputs = config.image_width if self.is_image else shape[0]
        self.body: nn.Sequential | TwinPerceptron = perceptron(
            inputs, config.widths, activation=config.activation, generator=generator
        )
        features = config.widths[-1] if config.widths else inputs
        self.memory = Memory(features, config.memory, generator=generator) if self.has_memory else None
        shared = config.shared or self.is_image or self.has_memory
        features = config.memory or features
        self.head: CategoricalHead | GaussianHead = (
            CategoricalHead(features, sizes, generator=generator)
            if sizes
            else GaussianHead(
                features,
                num_numbers,
                deviation=config.deviation,
                initial=config.initial_log_deviation,
                generator=generator,
            )
        )
        self.critic_body = (
            perceptron(inputs, config.widths, activation=config.activation, generator=generator)
            if critic and not shared
            else None
        )
        if self.critic_body is not None and config.widths and not own_critic:
            self.body = TwinPerceptron(self.body, self.critic_body, activation=config.activation)
            self.critic_body = None
        self.value_layer = linear(features, 1, gain=VALUE_GAIN, generator=generator) if critic else None
        self._weights, self._acts = list(self.parameters()), Tapes()

    @property
    def critic_parameters(self) -> list[nn.Parameter]:
        """What only the critic has; with `own_critic` everything that it is computed from."""
        parts = [part for part in (self.critic_body, self.value_layer) if part is not None]
        return [parameter for part in parts for parameter in part.parameters()]

    def blank(self, sequences: int) -> Tensor:
        """`[sequences, width]` nothing remembered."""
        return torch.zeros(sequences, self.config.memory)

    def act(
        self,
        observations: Tensor,
        remembered: Tensor,
        begins: Tensor,
        *,
        noise: Tensor | None,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Act on `[n, ...]` observations.

        Args:
            observations: what is seen.
            remembered: `[n, width]` what is remembered.
            begins: `[n]` true where an episode begins.
            noise: what actions are made of, as the head draws it; `None` takes the most probable ones.
            allowed: `[n, Σ sizes]` which actions there are.

        Returns:
            `[n, columns]` actions, `[n]` their log-probabilities (0 for the most probable ones, which are not
            drawn), and what is remembered now.
        """
        if self.memory is not None or self.encoder is not None or noise is None:
            return self._act(observations, remembered, begins, noise=noise, allowed=allowed)
        actions, logprobs = self._draw(observations, noise, allowed)
        return actions, logprobs, remembered

    def _act(
        self,
        observations: Tensor,
        remembered: Tensor,
        begins: Tensor,
        *,
        noise: Tensor | None,
        allowed: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        features = self._policy_features(self._encode(observations))
        if self.memory is not None:
            features, remembered = self.memory(features[:, None], remembered, begins[:, None])
            features = features[:, 0]
        if noise is None:
            actions = self.head.greedy(features, allowed=allowed)
            return actions, torch.zeros(len(actions)), remembered
        actions, logprobs = self.head.sample(features, noise=noise, allowed=allowed)
        return actions, logprobs, remembered

    def _draw(self, observations: Tensor, noise: Tensor, allowed: Tensor | None) -> Sequence[Tensor]:
        """Actions and their log-probabilities, recorded: it is done for a few rows at a time, very often."""

        def compute() -> tuple[Sequence[Tensor], None]:
            # Not as a decorator, which is made anew with every call.
            with torch.no_grad():
                features = self._policy_features(observations)
                return self.head.sample(features, noise=noise, allowed=allowed), None

        key = (observations.shape, noise.shape, allowed is None)
        inputs = [*self._weights, observations, noise, *([] if allowed is None else [allowed])]
        return self._acts(key, compute, inputs, lasting=len(self._weights))[0]

    def evaluate(
        self,
        observations: Tensor,
        actions: Tensor,
        *,
        remembered: Tensor,
        begins: Tensor,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probability of the actions, entropy and values, of rows `[R]` or of sequences `[S, T]`."""
        policy, critic = self._features(observations, remembered, begins)
        logprobs, entropy = self.head.evaluate(policy, actions, allowed=allowed)
        return logprobs, entropy, self._value(critic)

    def values(self, observations: Tensor, *, remembered: Tensor, begins: Tensor) -> Tensor:
        """What the critic expects of observations `[R, ...]` or sequences `[S, T, ...]`; 0 without one."""
        if self.value_layer is None:
            return torch.zeros(begins.shape)
        value = self._value(self._critic_features(observations, remembered, begins))
        assert value is not None
        return value

    def memories(self, observations: Tensor, *, remembered: Tensor, begins: Tensor) -> Tensor:
        """`[S, T, width]` what is remembered after each step of sequences `[S, T, ...]`."""
        if self.memory is None:
            return torch.zeros(*begins.shape, 0)
        return self.memory(self._policy_features(self._encode(observations)), remembered, begins)[0]

    def _features(self, observations: Tensor, remembered: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """Features for the policy's head and for the critic's."""
        encoded = self._encode(observations)
        if isinstance(self.body, TwinPerceptron):
            return self.body(encoded)
        features = self.body(encoded)
        if self.memory is not None:
            features, _ = self.memory(features, remembered, begins)
        return features, features if self.critic_body is None else self.critic_body(encoded)

    def _critic_features(self, observations: Tensor, remembered: Tensor, begins: Tensor) -> Tensor:
        if isinstance(self.body, TwinPerceptron):
            return self.body.second(self._encode(observations))
        return self._features(observations, remembered, begins)[1]

    def _policy_features(self, encoded: Tensor) -> Tensor:
        return self.body.first(encoded) if isinstance(self.body, TwinPerceptron) else self.body(encoded)

    def _encode(self, observations: Tensor) -> Tensor:
        return observations if self.encoder is None else self.encoder(observations)

    def _value(self, features: Tensor) -> Tensor | None:
        return None if self.value_layer is None else self.value_layer(features).squeeze(-1)


class ControlActor:
    """A control policy as the trainers ask it again; see `Actor`.

    Without a memory every row is an item, and minibatches are rows from anywhere. With one, an item is all
    that an environment did in a rollout, read from what was remembered at its beginning.
    """

    def __init__(self, policy: ControlPolicy) -> None:
        self.policy = policy
        self.tapes = None if policy.has_memory or policy.is_image else Tapes()
        """Minibatches of rows, recorded: the networks are so small that the way to them is what costs."""

    @property
    def module(self) -> nn.Module:
        """The networks."""
        return self.policy

    @property
    def critic_parameters(self) -> Sequence[nn.Parameter]:
        """The critic's own weights, which can learn at a rate of their own.

        Raises:
            BadConfig: its hidden layers are held together with the policy's, and cannot.
        """
        if isinstance(self.policy.body, TwinPerceptron):
            raise BadConfig(
                "the critic's hidden layers are held together with the policy's, and learn at one rate",
                where="critic_learning_rate",
                action="make the ControlPolicy with own_critic=True, or leave the rate at 0",
            )
        return self.policy.critic_parameters

    def evaluate(self, items: Sequence[Any], numbers: Numbers, rollout: Rollout) -> Iterator[Evaluation]:
        """All real rows of the items at a time."""
        assert isinstance(rollout, ControlRollout)
        if self.policy.has_memory:
            yield self._sequences(numbers, rollout)
        else:
            yield self.evaluate_rows(self.rows_of(numbers, rollout), rollout)

    def rows_of(self, numbers: Numbers, rollout: Rollout) -> Tensor:
        """`[R]` the rows that items without a memory are, as places in the flattened `[sequences · time]`."""
        assert isinstance(rollout, ControlRollout)
        rows = torch.as_tensor(numbers)
        return rows if rollout.all_real else rollout.trajectories.mask.flatten().nonzero()[rows, 0]

    def evaluate_rows(self, rows: Tensor, rollout: Rollout) -> Evaluation:
        """What the policy says now of `[R]` rows."""
        assert isinstance(rollout, ControlRollout)
        logprobs, entropy, values = self.policy.evaluate(
            rollout.observations[rows],
            rollout.actions[rows],
            remembered=rollout.remembered,
            begins=rollout.begins,
            allowed=None if rollout.allowed is None else rollout.allowed[rows],
        )
        return Evaluation(rows=rows, logprobs=logprobs, entropy=entropy, values=values)

    def _sequences(self, numbers: Numbers, rollout: ControlRollout) -> Evaluation:
        mask = rollout.trajectories.mask
        chosen = torch.as_tensor(numbers)

        def of(column: Tensor) -> Tensor:
            return column.unflatten(0, mask.shape)[chosen]

        said = self.policy.evaluate(
            of(rollout.observations),
            of(rollout.actions),
            remembered=rollout.remembered[chosen],
            begins=of(rollout.begins),
            allowed=None if rollout.allowed is None else of(rollout.allowed),
        )
        real = mask[chosen]
        logprobs, entropy, values = (None if part is None else part[real] for part in said)
        assert logprobs is not None
        assert entropy is not None
        rows = torch.arange(mask.numel()).reshape(mask.shape)[chosen][real]
        return Evaluation(rows=rows, logprobs=logprobs, entropy=entropy, values=values)
