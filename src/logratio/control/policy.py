"""A policy and its critic that drive environments: small networks, with a memory or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from logratio.control.categorical import CategoricalHead
from logratio.control.gaussian import GaussianHead, StdSource
from logratio.control.graph_replay import GraphCache
from logratio.control.networks import (
    VALUE_GAIN,
    Activation,
    ImageEncoder,
    RecurrentLayer,
    StackedMLP,
    linear,
    mlp,
)
from logratio.control.recorded_minibatches import RecordedMinibatches
from logratio.errors import BadConfig
from logratio.policies.microbatches import MicroBatch, RowLossFunction, backpropagate_rows
from logratio.trajectories import ActionEvaluation, ItemIds, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The form of policy and critic."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the policy's and of the critic's."""
    activation: Activation = "tanh"
    """What follows each hidden layer."""
    shared: bool = False
    """Policy and critic have their hidden layers in common; for images and with a memory they always have."""
    recurrent_width: int = 0
    """Width of a recurrent layer (GRU) behind the hidden layers, where one observation does not tell the
    state; 0: none."""
    std: StdSource = "parameter"
    """Where the deviation of continuous actions comes from: one parameter each, or the state."""
    initial_log_std: float = 0.0
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
    episode_start: Tensor
    """`[rows]` true where an episode begins."""
    action_mask: Tensor | None
    """`[rows, Σ sizes]` the actions that it had."""
    hidden_state: Tensor
    """`[sequences, width]` what it remembered before the first row; of width 0 without a memory."""
    all_valid: bool
    """Whether every row is one to learn from."""

    def items_of(self, item_ids: ItemIds) -> Sequence[Any]:
        """The items are their places."""
        return item_ids  # type: ignore[return-value]


class ControlPolicy(nn.Module):
    """Observations to actions and values.

    Args:
        shape: of an observation: `(features,)`, or `(C, H, W)` of an image.
        sizes: of how many actions each choice is one; empty where an action is numbers.
        num_numbers: numbers in an action, where it has no choices.
        config: the networks.
        critic: whether values are wanted.
        separate_critic: whether the critic's weights are tensors of their own, so it can learn at a rate of
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
        separate_critic: bool = False,
        seed: int,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config, self.is_image, self.separate_critic = config, len(shape) == 3, separate_critic
        self.is_recurrent = config.recurrent_width > 0
        self.encoder = (
            ImageEncoder(shape, width=config.image_width, generator=generator) if self.is_image else None
        )
        inputs = config.image_width if self.is_image else shape[0]
        self.body: nn.Sequential | StackedMLP = mlp(
            inputs, config.hidden_sizes, activation=config.activation, generator=generator
        )
        features = config.hidden_sizes[-1] if config.hidden_sizes else inputs
        self.recurrent = (
            RecurrentLayer(features, config.recurrent_width, generator=generator)
            if self.is_recurrent
            else None
        )
        shared = config.shared or self.is_image or self.is_recurrent
        features = config.recurrent_width or features
        self.head: CategoricalHead | GaussianHead = (
            CategoricalHead(features, sizes, generator=generator)
            if sizes
            else GaussianHead(
                features,
                num_numbers,
                std=config.std,
                initial=config.initial_log_std,
                generator=generator,
            )
        )
        self.critic_body = (
            mlp(inputs, config.hidden_sizes, activation=config.activation, generator=generator)
            if critic and not shared
            else None
        )
        if self.critic_body is not None and config.hidden_sizes and not separate_critic:
            self.body = StackedMLP(self.body, self.critic_body, activation=config.activation)
            self.critic_body = None
        self.value_layer = linear(features, 1, gain=VALUE_GAIN, generator=generator) if critic else None
        self._weights, self._acts = list(self.parameters()), GraphCache()

    @property
    def critic_parameters(self) -> list[nn.Parameter]:
        """What only the critic has; with `separate_critic` everything that it is computed from."""
        parts = [part for part in (self.critic_body, self.value_layer) if part is not None]
        return [parameter for part in parts for parameter in part.parameters()]

    def initial_state(self, sequences: int) -> Tensor:
        """`[sequences, width]` nothing remembered."""
        return torch.zeros(sequences, self.config.recurrent_width)

    def act(
        self,
        observations: Tensor,
        hidden_state: Tensor,
        episode_start: Tensor,
        *,
        noise: Tensor | None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Act on `[n, ...]` observations.

        Args:
            observations: what is seen.
            hidden_state: `[n, width]` what is remembered.
            episode_start: `[n]` true where an episode begins.
            noise: what actions are made of, as the head draws it; `None` takes the most probable ones.
            action_mask: `[n, Σ sizes]` which actions there are.

        Returns:
            `[n, columns]` actions, `[n]` their log-probabilities (0 for the most probable ones, which are not
            drawn), and what is remembered now.
        """
        if self.recurrent is not None or self.encoder is not None or noise is None:
            return self._act(observations, hidden_state, episode_start, noise=noise, action_mask=action_mask)
        actions, logprobs = self._draw(observations, noise, action_mask)
        return actions, logprobs, hidden_state

    def _act(
        self,
        observations: Tensor,
        hidden_state: Tensor,
        episode_start: Tensor,
        *,
        noise: Tensor | None,
        action_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        features = self._policy_features(self._encode(observations))
        if self.recurrent is not None:
            features, hidden_state = self.recurrent(features[:, None], hidden_state, episode_start[:, None])
            features = features[:, 0]
        if noise is None:
            actions = self.head.greedy(features, action_mask=action_mask)
            return actions, torch.zeros(len(actions)), hidden_state
        actions, logprobs = self.head.sample(features, noise=noise, action_mask=action_mask)
        return actions, logprobs, hidden_state

    def _draw(self, observations: Tensor, noise: Tensor, action_mask: Tensor | None) -> Sequence[Tensor]:
        """Actions and their log-probabilities, recorded: it is done for a few rows at a time, very often."""

        def compute() -> tuple[Sequence[Tensor], None]:
            # Not as a decorator, which is made anew with every call.
            with torch.no_grad():
                features = self._policy_features(observations)
                return self.head.sample(features, noise=noise, action_mask=action_mask), None

        key = (observations.shape, noise.shape, action_mask is None)
        inputs = [*self._weights, observations, noise, *([] if action_mask is None else [action_mask])]
        return self._acts(key, compute, inputs, num_static=len(self._weights))[0]

    def evaluate(
        self,
        observations: Tensor,
        actions: Tensor,
        *,
        hidden_state: Tensor,
        episode_start: Tensor,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probability of the actions, entropy and values, of rows `[R]` or of sequences `[S, T]`."""
        policy, critic = self._features(observations, hidden_state, episode_start)
        logprobs, entropy = self.head.evaluate(policy, actions, action_mask=action_mask)
        return logprobs, entropy, self._value(critic)

    def values(self, observations: Tensor, *, hidden_state: Tensor, episode_start: Tensor) -> Tensor:
        """What the critic expects of observations `[R, ...]` or sequences `[S, T, ...]`; 0 without one."""
        if self.value_layer is None:
            return torch.zeros(episode_start.shape)
        value = self._value(self._critic_features(observations, hidden_state, episode_start))
        assert value is not None
        return value

    def hidden_states(self, observations: Tensor, *, hidden_state: Tensor, episode_start: Tensor) -> Tensor:
        """`[S, T, width]` what is remembered after each step of sequences `[S, T, ...]`."""
        if self.recurrent is None:
            return torch.zeros(*episode_start.shape, 0)
        return self.recurrent(self._policy_features(self._encode(observations)), hidden_state, episode_start)[
            0
        ]

    def _features(
        self, observations: Tensor, hidden_state: Tensor, episode_start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features for the policy's head and for the critic's."""
        encoded = self._encode(observations)
        if isinstance(self.body, StackedMLP):
            return self.body(encoded)
        features = self.body(encoded)
        if self.recurrent is not None:
            features, _ = self.recurrent(features, hidden_state, episode_start)
        return features, features if self.critic_body is None else self.critic_body(encoded)

    def _critic_features(self, observations: Tensor, hidden_state: Tensor, episode_start: Tensor) -> Tensor:
        if isinstance(self.body, StackedMLP):
            return self.body.second(self._encode(observations))
        return self._features(observations, hidden_state, episode_start)[1]

    def _policy_features(self, encoded: Tensor) -> Tensor:
        return self.body.first(encoded) if isinstance(self.body, StackedMLP) else self.body(encoded)

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
        recordable = not (policy.is_recurrent or policy.is_image)
        self.recorded = RecordedMinibatches(policy) if recordable else None
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
        if isinstance(self.policy.body, StackedMLP):
            raise BadConfig(
                "the critic's hidden layers are held together with the policy's, and learn at one rate",
                where="critic_learning_rate",
                action="make the ControlPolicy with separate_critic=True, or leave the rate at 0",
            )
        return self.policy.critic_parameters

    def accumulate_in_place(self) -> AbstractContextManager[None]:
        """Nothing: the gradients of these networks all come by the graph."""
        return nullcontext()

    def evaluate(
        self, items: Sequence[Any], item_ids: ItemIds, rollout: Rollout
    ) -> Iterator[ActionEvaluation]:
        """All real rows of the items at a time."""
        yield self._evaluate(item_ids, rollout)

    def backpropagate(
        self, rollout: Rollout, item_ids: ItemIds, losses: RowLossFunction, weights: Tensor
    ) -> Iterator[MicroBatch]:
        """The gradients of a minibatch, all at once, replayed where they are recorded; see `Actor`."""
        if self.recorded is None:
            yield backpropagate_rows(self._evaluate(item_ids, rollout), losses, weights)
        else:
            rows = self._row_indices(item_ids, rollout)
            yield self.recorded.backpropagate(rows, self._evaluate_rows, rollout, losses, weights)

    def _evaluate(self, item_ids: ItemIds, rollout: Rollout) -> ActionEvaluation:
        assert isinstance(rollout, ControlRollout)
        if self.policy.is_recurrent:
            return self._sequences(item_ids, rollout)
        return self._evaluate_rows(self._row_indices(item_ids, rollout), rollout)

    def _row_indices(self, item_ids: ItemIds, rollout: Rollout) -> Tensor:
        """`[R]` the rows that items without a memory are, as places in the flattened `[sequences · time]`."""
        assert isinstance(rollout, ControlRollout)
        rows = torch.as_tensor(item_ids)
        return rows if rollout.all_valid else rollout.trajectories.mask.flatten().nonzero()[rows, 0]

    def _evaluate_rows(self, rows: Tensor, rollout: Rollout) -> ActionEvaluation:
        """What the policy says now of `[R]` rows."""
        assert isinstance(rollout, ControlRollout)
        logprobs, entropy, values = self.policy.evaluate(
            rollout.observations[rows],
            rollout.actions[rows],
            hidden_state=rollout.hidden_state,
            episode_start=rollout.episode_start,
            action_mask=None if rollout.action_mask is None else rollout.action_mask[rows],
        )
        return ActionEvaluation(rows=rows, logprobs=logprobs, entropy=entropy, values=values)

    def _sequences(self, item_ids: ItemIds, rollout: ControlRollout) -> ActionEvaluation:
        mask = rollout.trajectories.mask
        chosen = torch.as_tensor(item_ids)

        def of(column: Tensor) -> Tensor:
            return column.unflatten(0, mask.shape)[chosen]

        said = self.policy.evaluate(
            of(rollout.observations),
            of(rollout.actions),
            hidden_state=rollout.hidden_state[chosen],
            episode_start=of(rollout.episode_start),
            action_mask=None if rollout.action_mask is None else of(rollout.action_mask),
        )
        valid = mask[chosen]
        logprobs, entropy, values = (None if part is None else part[valid] for part in said)
        assert logprobs is not None
        assert entropy is not None
        rows = torch.arange(mask.numel()).reshape(mask.shape)[chosen][valid]
        return ActionEvaluation(rows=rows, logprobs=logprobs, entropy=entropy, values=values)
