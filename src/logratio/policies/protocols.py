"""What the policy-gradient trainers ask of a policy, whether it writes text or drives an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from logratio.policies.microbatches import MicroBatch, RowLossFunction
from logratio.trajectories import ActionEvaluation, ItemIds, Rollout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Partition = Callable[[int], Sequence[ItemIds]]
"""From a number of items to the minibatches of an update's first pass, each a sequence of item ids."""


class Actor(Protocol):
    """A policy, with or without a critic, that can be asked again about what it did."""

    @property
    def module(self) -> nn.Module:
        """Everything that training moves: policy and critic."""
        ...

    @property
    def critic_parameters(self) -> Sequence[nn.Parameter]:
        """What only the critic has: its head, and its body where that is its own; none without a critic."""
        ...

    def accumulate_in_place(self) -> AbstractContextManager[None]:
        """Have backward passes of what is evaluated in here add to `grad` past the graph, where they can."""
        ...

    def evaluate(
        self, items: Sequence[Any], item_ids: ItemIds, rollout: Rollout
    ) -> Iterator[ActionEvaluation]:
        """What the policy says now of the rows of some items.

        Args:
            items: the items themselves.
            item_ids: their indices in the rollout.
            rollout: the rollout they are of, for its rows.

        Yields:
            Parts that are computed at a time; together they hold every real row of the items once. Each is
            differentiable and meant to be used before the next is asked for.
        """
        ...

    def backpropagate(
        self, rollout: Rollout, item_ids: ItemIds, losses: RowLossFunction, weights: Tensor
    ) -> Iterator[MicroBatch]:
        """Add the gradients of a minibatch to those that stand, one micro-batch after another.

        Args:
            rollout: what was collected.
            item_ids: the items of the minibatch.
            losses: the trainer's loss of rows, the same object for all minibatches of an update.
            weights: `[sequences · time]` what each row counts in the minibatch's loss.

        Yields:
            Every micro-batch, whose graph is gone; together they hold every real row of the items once.
        """
        ...


@runtime_checkable
class StatefulController(Protocol):
    """What says itself how it is kept in a checkpoint."""

    def save(self) -> dict[str, Any]:
        """The state, as JSON takes it."""
        ...

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        ...


Controller: TypeAlias = "StatefulController | DataclassInstance"
"""What changes from update to update beside the weights; a dataclass of numbers, or stateful."""


class Collector(Protocol):
    """Where trajectories come from, always from the policy as it stands."""

    @property
    def num_examples(self) -> int:
        """How many examples a pass has: prompts, or batches of environment steps."""
        ...

    @property
    def unit(self) -> str:
        """What an example is, for the progress line."""
        ...

    @property
    def controllers(self) -> Mapping[str, Controller]:
        """What the collector moves and a checkpoint must hold, by name."""
        ...

    def reference_fingerprint(self) -> str:
        """A hash of what must not change while the actor is trained, the reference; empty where none is."""
        ...

    def collect(self, step: int, examples: Sequence[int], partition: Partition | None = None) -> Rollout:
        """Let the policy act: a function of its weights, `step` and `examples`, and of nothing before.

        Args:
            step: the update.
            examples: what it learns from.
            partition: the minibatches in which the update will read the items for the first time. Where
                log-probabilities are computed after acting, they are computed so too: rows that are packed
                otherwise are rounded otherwise, which in bfloat16 shows.
        """
        ...

    def update_controllers(self, rollout: Rollout) -> dict[str, float]:
        """Adapt the controllers after an update with this rollout; returns their numbers for the metrics."""
        ...
