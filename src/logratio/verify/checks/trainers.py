"""The trainers themselves, on a transformer whose best policy is known exactly.

The trainers run whole: sessions, run directories, packed rows, minibatches, critic, optimiser.
`train_reinforce` and `train_ppo` start from the reference and are charged for their KL divergence to it, so
that they must end at `π* ∝ π_ref exp(r/β)` and at the objective `β E[log Z]`, both found by enumeration.
`train_dpo` must end at the same with the strengths s in the place of r that make its comparisons most likely
(Bradley and Terry, 1952), which Newton's method finds. Products of bfloat16 must lead to the same place.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.kernels.precision import Precision
from logratio.packed_rows import AnswerGroup
from logratio.policies.actor_critic import LanguageActor, ValueHead
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from logratio.stats.strengths import fit_strengths
from logratio.verify.checks.rows import Check, Row, below, control, worst_of
from logratio.verify.worlds import optimum, oracle
from logratio.verify.worlds.agents import EnumeratedCollector
from logratio.verify.worlds.training import Problem
from logratio.verify.worlds.transformer import small_llama, word_tokenizer
from logratio.verify.worlds.world import END, World

# A Llama without a token of its own at the start cannot tell "1" from "1 1": positions turn queries and keys,
# but the average of equal values is the same. The end token stands in no prefix, so it can mark the start.
WORLD = World(vocabulary=3, horizon=3, prompts=((END, 1), (END, 2, 1)))
WIDTH = 32
COMPARED = World(vocabulary=3, horizon=2, prompts=((END, 1), (END, 2, 1)))
"""What DPO learns: every pair of its sequences is compared `COMPARISONS` times."""
COMPARISONS = 3
SEEDS = (0, 1, 2, 3, 4)
BETA = 1.0
STEPS: dict[str, Any] = {
    # Adam forgets soon: the advantages, and the noise with them, vanish as the optimum comes near.
    **{"learning_rate": 0.005, "adam_beta1": 0.8, "adam_beta2": 0.95},
    **{"warmup": 0.0, "checkpoint_every": 0, "batch_size": 2},
}
CONFIGS: dict[str, ReinforceConfig | PPOConfig] = {
    "train_reinforce": ReinforceConfig.of(epochs=200, **STEPS),
    # As it is by default, whitened advantages among others; but no update ends early, which would take more.
    "train_ppo": PPOConfig.of(epochs=60, update_epochs=3, minibatches=1, early_stop_factor=0.0, **STEPS),
}


DPO = DPOConfig.of(
    beta=BETA,
    epochs=60,
    **(STEPS | {"batch_size": len(COMPARED.prompts) * 21 * COMPARISONS}),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run of a trainer ended."""

    distance: float
    """Total variation to π*, the mean over prompts."""
    gap: float
    """The objective that is missing to `β E[log Z]`."""
    distances: Sequence[float] = field(default=())
    """Total variation before each update, at the worst prompt."""


def check_reinforce_trainer(quick: bool) -> list[Row]:
    """The policy gradient with the leave-one-out baseline; with less KL in the reward it ends elsewhere."""
    rows = _ends("train_reinforce", quick)
    cheap = train("train_reinforce", seed=0, charged=0.5)
    rows.append(control("The same charged half of β: TV to π*", cheap.distance, at_least=0.1))
    return rows


def check_ppo_trainer(quick: bool) -> list[Row]:
    """PPO with its critic, three steps on what was collected; also with products of bfloat16."""
    narrow = train("train_ppo", seed=0, precision="bf16")
    return [*_ends("train_ppo", quick), *_near("train_ppo on a Llama, products of bfloat16", narrow)]


def check_dpo_trainer(quick: bool) -> list[Row]:
    """DPO on comparisons of all pairs, with products of either precision; turned round it ends elsewhere."""
    rows = _near("train_dpo on a Llama", compare(seed=0))
    rows += _near("train_dpo on a Llama, products of bfloat16", compare(seed=0, precision="bf16"))
    turned = compare(seed=0, turned=True)
    rows.append(control("Chosen and rejected exchanged: TV to π*", turned.distance, at_least=0.1))
    return rows


def _ends(trainer: str, quick: bool) -> list[Row]:
    runs = [train(trainer, seed=seed) for seed in (SEEDS[:1] if quick else SEEDS)]
    return _near(f"{trainer} on a Llama, {worst_of(len(runs))}", *runs)


def _near(of: str, *runs: Run) -> list[Row]:
    return [
        below(f"{of}: objective missed", max(run.gap for run in runs), 1e-2, exact=0.0),
        below(f"{of}: TV to π*", max(run.distance for run in runs), 0.02, exact=0.0),
    ]


@lru_cache
def train(trainer: str, *, seed: int, charged: float = 1.0, precision: Precision = "fp32") -> Run:
    """Run a trainer from the reference to its end.

    Args:
        trainer: `train_reinforce` or `train_ppo`.
        seed: of the model's weights and of the sequences.
        charged: share of β that is charged; 1 but for the negative control.
        precision: of products; `fp32` leaves the Llama's float64.
    """
    config = CONFIGS[trainer]
    model = reference_llama(seed=seed)
    critic = ValueHead(WIDTH, dtype=torch.float64) if isinstance(config, PPOConfig) else None
    policy = LanguagePolicy(model, word_tokenizer())
    policy.set_compute(precision=precision)
    actor = LanguageActor(policy, row_tokens=512, value_head=critic)
    reference, rewards = oracle.transformer_logits(WORLD, model), WORLD.rewards(seed=7)
    problem = Problem(world=WORLD, reference=reference, rewards=rewards, beta=charged * BETA)
    collector = EnumeratedCollector(actor, problem, num_samples=128, seed=seed)
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stderr(io.StringIO()):
        path = Path(directory) / "run"
        with RunDirectory.begin(path, {"identity": config.identity()}) as run:
            if isinstance(config, PPOConfig):
                train_ppo(actor, collector, config, run)
            else:
                train_reinforce(actor, collector, config, run)
            distances = [row["distance"] for row in run.metrics]
    return _ended(WORLD, model, reference, rewards, distances)


@lru_cache
def compare(*, seed: int, precision: Precision = "fp32", turned: bool = False) -> Run:
    """Run `train_dpo` from the reference to its end, on comparisons of every pair of sequences.

    Args:
        seed: of the model's weights.
        precision: of products.
        turned: whether the rejected answer is taken for the chosen one; only for the negative control.
    """
    # A third of the way is far enough to see that it is the wrong one.
    config = DPO.replace(epochs=DPO.loop.epochs // 3) if turned else DPO
    model = reference_llama(seed=seed)
    policy = LanguagePolicy(model, word_tokenizer())
    policy.set_compute(precision=precision)
    reference = oracle.transformer_logits(COMPARED, model)
    wins = won(COMPARED.rewards(seed=7))
    groups = [
        AnswerGroup(prompt, (COMPARED.sequences[loser], COMPARED.sequences[winner]))
        if turned
        else AnswerGroup(prompt, (COMPARED.sequences[winner], COMPARED.sequences[loser]))
        for prompt, counts in zip(COMPARED.prompts, wins, strict=True)
        for winner, row in enumerate(counts.tolist())
        for loser, count in enumerate(row)
        for _ in range(int(count))
    ]
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.redirect_stderr(io.StringIO()),
        RunDirectory.begin(Path(directory) / "run", {"identity": config.identity()}) as run,
    ):
        train_dpo(policy, groups, config, run)
    strengths = torch.stack([fit_strengths(counts).strengths for counts in wins])
    return _ended(COMPARED, model, reference, strengths, [])


def won(rewards: torch.Tensor) -> torch.Tensor:
    """`[P, S, S]` how often each sequence beats each other: as often as Bradley and Terry expect, about.

    Every pair has at least one win each way, so that the most likely strengths are finite.
    """
    chances = (rewards[:, :, None] - rewards[:, None, :]).sigmoid()
    above = (COMPARISONS * chances).round().clamp(1, COMPARISONS - 1).triu(1)
    below_diagonal = (COMPARISONS - above).triu(1).transpose(1, 2)
    return above + below_diagonal


def _ended(
    world: World, model: Any, reference: torch.Tensor, rewards: torch.Tensor, distances: Sequence[float]
) -> Run:
    end = oracle.transformer_logits(world, model)
    best, normalisers = optimum.optimal_probabilities(world, reference, rewards, beta=BETA)
    reached = optimum.regularised_reward(world, end, reference, rewards, beta=BETA)
    return Run(
        distance=optimum.total_variation(oracle.sequence_probabilities(world, end), best),
        gap=BETA * sum(normalisers) / len(normalisers) - reached,
        distances=distances,
    )


def reference_llama(*, seed: int) -> Any:
    """A Llama that starts with every token within reach and can come to represent any policy of the world.

    Wide embeddings tell the states apart; a small head gives no token so little probability that it would not
    be drawn.
    """
    model = small_llama(seed=seed, vocabulary=WORLD.vocabulary, hidden=WIDTH, spread=0.15)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(4.0)
        model.get_output_embeddings().weight.mul_(0.4)
    return model


CHECKS = (
    Check(name="T1", title="REINFORCE takes a Llama to the exact optimum", run=check_reinforce_trainer),
    Check(name="T2", title="PPO takes a Llama to the exact optimum", run=check_ppo_trainer),
    Check(
        name="T3", title="DPO takes a Llama to the exact optimum of its comparisons", run=check_dpo_trainer
    ),
)
