"""The small world as a place to act in: a transformer's sequences are drawn from the list of all of them.

The trainers meet here what they meet anywhere, an actor to be asked again and a collector of trajectories,
but nothing is decoded: plain forward passes over the longest prefixes give the policy's table, the table
the probability of every sequence, and a sequence is one draw from those. What the table says of each token
is recorded as the policy's log-probability: a trainer's first ratios compare packed rows with plain ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from logratio.objectives.kl import k1
from logratio.packed_rows import AnswerGroup
from logratio.policies.actor_critic import LanguageActor
from logratio.policies.protocols import Controller, Partition
from logratio.trajectories import Rollout, Trajectories
from logratio.verify.worlds.training import Problem
from logratio.verify.worlds.world import World, sequence_logprobs, token_logprobs


class EnumeratedCollector:
    """Trajectories of a language actor on an enumerated problem; see `Collector`.

    A token is charged `β·(log π − log π_ref)`, the last one earns the sequence's reward; no discount.

    Args:
        actor: who acts; its model knows the world's tokens.
        problem: the world, the reference's table, the rewards and β.
        num_samples: sequences of each example.
        copies: how many examples a pass has of each prompt.
        lam: λ of the generalised advantages.
        seed: of the sequences that are drawn.
    """

    unit = "prompts"

    def __init__(
        self,
        actor: LanguageActor,
        problem: Problem,
        *,
        num_samples: int,
        copies: int = 1,
        lam: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.actor, self.problem, self.lam, self.seed = actor, problem, lam, seed
        self.num_samples, self.copies = num_samples, copies

    @property
    def num_examples(self) -> int:
        """How many examples a pass has."""
        return len(self.problem.world.prompts) * self.copies

    @property
    def controllers(self) -> dict[str, Controller]:
        """None: β stands."""
        return {}

    def reference_fingerprint(self) -> str:
        """Hash of the reference's table."""
        return hashlib.sha256(self.problem.reference.numpy().tobytes()).hexdigest()

    @torch.no_grad()
    def collect(self, step: int, examples: Sequence[int], partition: Partition | None = None) -> Rollout:
        """Draw sequences for `examples`; the same again for the same weights and step."""
        world = self.problem.world
        logits, values = read_tables(world, self.actor)
        prompts = torch.tensor(examples) % len(world.prompts)
        chances = sequence_logprobs(world, logits).exp()[prompts]
        digest = hashlib.sha256(f"{self.seed}:{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        drawn = torch.multinomial(chances, self.num_samples, replacement=True, generator=generator)
        groups = [
            AnswerGroup(prompt=world.prompts[prompt], answers=tuple(world.sequences[index] for index in row))
            for prompt, row in zip(prompts.tolist(), drawn.tolist(), strict=True)
        ]
        return Rollout(
            trajectories=self.trajectories(logits, values, prompts[:, None].expand_as(drawn), drawn),
            items=groups,
            item_of_row=torch.arange(len(drawn))
            .repeat_interleave(self.num_samples)[:, None]
            .expand(-1, world.horizon),
            metrics={
                "distance": float(self.problem.distance(logits)),
                "objective": float(self.problem.objective(logits).mean()),
            },
            # The table is of plain forward passes; an update reads packed rows.
            recomputed_noise=self.actor.policy.rounding_noise(groups),
            group_size=self.num_samples,
        )

    def update_controllers(self, rollout: Rollout) -> dict[str, float]:
        """Nothing is adapted."""
        return {}

    def trajectories(self, logits: Tensor, values: Tensor, prompts: Tensor, drawn: Tensor) -> Trajectories:
        """Rows of the tables, for `[examples, k]` numbers of prompts and of their sequences."""
        world, owner, sequence = self.problem.world, prompts.flatten(), drawn.flatten()
        mask = world.mask[sequence]
        continues = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        logprobs = token_logprobs(world, logits)[owner, sequence]
        log_ratio = logprobs - self._reference[owner, sequence]
        zero = torch.zeros_like(logprobs)
        score = torch.where(mask & ~continues, self.problem.rewards[owner, sequence][:, None], zero)
        here = torch.where(mask, values[owner[:, None], world.states[sequence]], zero)
        return Trajectories(
            mask=mask,
            logprobs=logprobs,
            rewards=score - torch.where(mask, self.problem.beta * k1(log_ratio), zero),
            values=here,
            next_values=torch.cat([here[:, 1:], zero[:, :1]], dim=1),
            discounts=continues.to(logprobs),
            traces=self.lam * continues.to(logprobs),
        )

    @cached_property
    def _reference(self) -> Tensor:
        return token_logprobs(self.problem.world, self.problem.reference)


@torch.no_grad()
def read_tables(world: World, actor: LanguageActor) -> tuple[Tensor, Tensor]:
    """`[P, N, V]` logits and `[P, N]` values of an actor, 0 without a critic.

    One plain forward pass a prompt, over all prefixes of the greatest length: they hold the shorter ones.
    """
    model, head = actor.policy.model, actor.value_head
    longest = list(product(range(1, world.vocabulary), repeat=world.horizon - 1))
    lengths = torch.tensor([len(prefix) for prefix in world.prefixes])
    rows = torch.tensor(
        [next(i for i, row in enumerate(longest) if row[: len(p)] == p) for p in world.prefixes]
    )
    logits, values = [], []
    for prompt in world.prompts:
        hidden = model.base_model(input_ids=torch.tensor([[*prompt, *row] for row in longest]))
        states = hidden.last_hidden_state[rows, len(prompt) - 1 + lengths]
        logits.append(model.get_output_embeddings()(states))
        values.append(logits[-1].new_zeros(len(rows)) if head is None else head(states))
    return torch.stack(logits), torch.stack(values)
