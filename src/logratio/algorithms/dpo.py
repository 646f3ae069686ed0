"""Direct preference optimisation: the policy as its own reward model (Rafailov et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from logratio.data.encoding import EncodedPair
from logratio.errors import BadConfig
from logratio.kernels.rounding_error import SAME_ROWS_NOISE, repeat_difference, sum_difference
from logratio.models.loading import weights_fingerprint
from logratio.objectives import dpo
from logratio.packed_rows import AnswerGroup, PackedRow
from logratio.policies.language import LanguagePolicy, answer_lengths
from logratio.run_directory import RunDirectory
from logratio.training import invariants
from logratio.training.config import TrainingConfig, check_not_negative, check_positive, check_range
from logratio.training.layout_check import select_layout
from logratio.training.loop import Session, first_epoch_batches, memory_fault
from logratio.training.reference import hash_tensor, reference_logprobs

Loss = Literal[
    "dpo",
    "robust",
    "ipo",
    "ipo-mean",
    "hinge",
    "length-normalised",
    "simpo",
    "orpo",
    "dpop",
    "dpo-nll",
    "apo-zero",
]
TIE = 0.5
"""The preference of a tie: half a label for each side."""
SMOOTHED = ("dpo", "robust")
INDIFFERENT = ("apo-zero",)
"""Losses of which a tie has no gradient: that of one order is the other's turned round."""
WEIGHTED = {"simpo": "the margin γ", "orpo": "λ", "dpop": "λ", "dpo-nll": "α"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOConfig(TrainingConfig):
    """Settings of direct preference optimisation."""

    loss: Loss = "dpo"
    """Which loss of the pair: docs/objectives.md says. `simpo` and `orpo` take no reference."""
    beta: float = 0.1
    """Strength of the pull to the reference; τ of IPO. Losses that divide by length want 2 and more."""
    label_smoothing: float = 0.0
    """Share of labels taken to be wrong: conservative DPO with `dpo`, the unbiased form with `robust`."""
    loss_weight: float = 0.0
    """The further constant of a loss: γ of `simpo`, λ of `orpo` and `dpop`, α of `dpo-nll`."""

    def __post_init__(self) -> None:
        check_positive(self, "beta")
        check_not_negative(self, "loss_weight")
        check_range(self, "label_smoothing", 0.0, 0.49)
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise BadConfig(
                f"label_smoothing has no meaning for the loss {self.loss!r}",
                where="--label-smoothing",
                action=f"leave it out, or take one of {', '.join(SMOOTHED)}",
            )
        if bool(self.loss_weight) != (self.loss in WEIGHTED):
            needed = WEIGHTED.get(self.loss)
            raise BadConfig(
                f"the loss {self.loss!r} needs {needed}"
                if needed
                else f"the loss {self.loss!r} has no loss_weight",
                where="--loss-weight",
                action="give it a value above 0" if needed else "leave it out",
            )


class PairLogprobs(NamedTuple):
    """Log-probabilities and lengths of a batch's pairs, `[pairs]` each."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor
    preference: Tensor
    """Probability that chosen is preferred: 1, or ½ for a tie."""

    def swap(self) -> PairLogprobs:
        """The same pairs in the other order."""
        return PairLogprobs(
            *(self.rejected, self.chosen, self.reference_rejected, self.reference_chosen),
            *(self.rejected_lengths, self.chosen_lengths, 1 - self.preference),
        )


def train_dpo(
    policy: LanguagePolicy,
    groups: Sequence[AnswerGroup],
    config: DPOConfig,
    run: RunDirectory,
    *,
    preferences: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Raise the log-ratio to the reference of chosen answers over that of rejected ones.

    `L = −log σ(β·(log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)))`, arXiv 2305.18290 equation 7,
    averaged over the batch. The reference is the policy as it comes in: its log-probabilities are computed
    before the first update and kept, so there is no second model and no doubt which one it is.

    Args:
        policy: changed in place; what it is now is the reference.
        groups: prompts with two answers each, chosen first.
        config: settings.
        run: the run directory, which holds checkpoints to go on from where there are any.
        preferences: for each group the probability that its first answer is preferred, ½ for a tie; 1 for
            all without it. The loss is then `p L(w, l) + (1 − p) L(l, w)`, whichever loss L is configured.

    Returns:
        The run's summary.

    Raises:
        InvariantViolated: the loss before the first update is not what it must be, among others.
        NonFiniteLoss, NonFiniteGradient: before the weights would have taken it.
        Interrupted: on a signal, after a checkpoint.
        OutOfMemory: with the next smaller setting.
    """
    policy.model.eval()
    layout_invariant = select_layout(policy, groups)
    model_hash = weights_fingerprint(policy.model)
    reference = reference_logprobs(
        policy,
        groups,
        run.path,
        model_hash=model_hash,
        row_tokens=config.loop.row_tokens,
        batches=first_epoch_batches(len(groups), config),
    )
    reference_hash = hash_reference(policy, reference)
    labels = torch.ones(len(groups)) if preferences is None else torch.tensor(preferences)
    longest = max(group.num_tokens for group in groups)
    with (
        policy.accumulate_in_place(),
        Session(policy.model, config, run, stage="dpo", num_examples=len(groups), unit="pairs") as session,
    ):
        session.record_invariant(layout_invariant)
        for step in session.steps():
            examples = session.batch(step)
            batch = [groups[index] for index in examples]
            order, pairs, micro_losses = [], [], []
            with memory_fault(step=step, config=config, longest=longest):
                for indices, rows in policy.micro_batches(batch, max_tokens=config.loop.row_tokens):
                    order += (ids := [examples[index] for index in indices])
                    pair, loss = backpropagate(
                        policy, rows, reference[ids], labels[ids], config, batch_size=len(batch)
                    )
                    pairs.append(pair)
                    micro_losses.append(loss)
            whole = PairLogprobs(*map(torch.cat, zip(*pairs, strict=True)))
            losses = pair_losses(whole, config)
            invariants.check_loss_is_finite(losses, order, step=step)
            session.record_invariant(
                invariants.check_accumulation_equals_batch(micro_losses, losses, step=step)
            )
            if step == 0:
                recompute = partial(recompute_logprobs, policy, batch, config)
                check_step_zero(session, losses, whole, recompute, config=config)
            session.update(step, order, summarise(losses, whole, config))
        now = hash_reference(policy, reference)
        session.record_invariant(invariants.check_reference_unchanged(reference_hash, now, step=session.step))
        return session.finish()


def hash_reference(policy: LanguagePolicy, logprobs: Tensor) -> str:
    """Hash of the reference's numbers, and of the weights under an adapter, which are the reference."""
    return hash_tensor(logprobs) + weights_fingerprint(policy.model, trainable=False)


def group_pairs(pairs: Sequence[EncodedPair]) -> tuple[list[AnswerGroup], list[float]]:
    """Comparisons as prompts with two answers, and for each the probability that the first is preferred."""
    groups = [AnswerGroup(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in pairs]
    return groups, [TIE if pair.comparison.tie else 1.0 for pair in pairs]


def backpropagate(
    policy: LanguagePolicy,
    rows: Sequence[PackedRow],
    reference: Tensor,
    preferences: Tensor,
    config: DPOConfig,
    *,
    batch_size: int,
) -> tuple[PairLogprobs, float]:
    """Add the gradients of a micro-batch to those that stand; its graph ends in here.

    Args:
        policy: what is trained.
        rows: pairs of answers, chosen and rejected in turn.
        reference: `[pairs, 2]` log-probabilities of the same answers under the reference.
        preferences: `[pairs]` probability that chosen is preferred.
        config: settings.
        batch_size: pairs of the whole batch.

    Returns:
        The micro-batch's pairs, and its share of the batch's loss.
    """
    pair = gather_pairs(policy.sequence_logprobs(rows), reference, rows, preferences)
    loss = pair_losses(pair, config).sum() / batch_size
    loss.backward()
    return PairLogprobs(*(column.detach() for column in pair)), float(loss.detach())


def gather_pairs(
    logprobs: Tensor, reference: Tensor, rows: Sequence[PackedRow], preferences: Tensor
) -> PairLogprobs:
    """Lay `[2·pairs]` log-probabilities, chosen and rejected in turn, beside the reference's `[pairs, 2]`."""
    policy = logprobs.reshape(-1, 2)
    before = reference.to(policy)
    lengths = answer_lengths(rows).reshape(-1, 2)
    return PairLogprobs(
        *(policy[:, 0], policy[:, 1], before[:, 0], before[:, 1]),
        *(lengths[:, 0], lengths[:, 1], preferences.to(policy)),
    )


def pair_losses(pair: PairLogprobs, config: DPOConfig) -> Tensor:
    """`p L(w, l) + (1 − p) L(l, w)` of every pair, p its preference: `[pairs]`."""
    losses = ordered_losses(pair, config)
    if bool((pair.preference == 1).all()):
        return losses
    return pair.preference * losses + (1 - pair.preference) * ordered_losses(pair.swap(), config)


def ordered_losses(pair: PairLogprobs, config: DPOConfig) -> Tensor:  # noqa: C901 - a table of losses
    """The configured loss L(w, l) of every pair, its first answer taken to be preferred: `[pairs]`."""
    policy = (pair.chosen, pair.rejected)
    policy_and_reference = (*policy, pair.reference_chosen, pair.reference_rejected)
    lengths = {"chosen_lengths": pair.chosen_lengths, "rejected_lengths": pair.rejected_lengths}
    beta, weight, smoothing = config.beta, config.loss_weight, config.label_smoothing
    match config.loss:
        case "dpo":
            return dpo.dpo_loss(*policy_and_reference, beta=beta, label_smoothing=smoothing)
        case "robust":
            return dpo.robust_dpo_loss(*policy_and_reference, beta=beta, label_smoothing=smoothing)
        case "ipo":
            return dpo.ipo_loss(*policy_and_reference, tau=beta, normalise="sum")
        case "ipo-mean":
            return dpo.ipo_loss(*policy_and_reference, tau=beta, normalise="mean", **lengths)
        case "hinge":
            return dpo.hinge_loss(*policy_and_reference, beta=beta)
        case "length-normalised":
            return dpo.length_normalised_dpo_loss(*policy_and_reference, **lengths, beta=beta)
        case "simpo":
            return dpo.simpo_loss(*policy, **lengths, beta=beta, margin=weight)
        case "orpo":
            return dpo.orpo_loss(*policy, **lengths, lam=weight)
        case "dpop":
            return dpo.dpop_loss(*policy_and_reference, beta=beta, lam=weight)
        case "dpo-nll":
            return dpo.dpo_nll_loss(
                *policy_and_reference, chosen_lengths=pair.chosen_lengths, beta=beta, nll_weight=weight
            )
        case "apo-zero":
            return dpo.apo_zero_loss(*policy_and_reference, beta=beta)


def loss_at_reference(config: DPOConfig) -> float | None:
    """What every pair's loss is while policy and reference are one; `None` where that depends on the pair."""
    match config.loss:
        case "dpo" | "robust" | "length-normalised" | "dpop":
            return math.log(2.0)
        case "ipo" | "ipo-mean":
            return 1.0 / (4.0 * config.beta**2)
        case "hinge" | "apo-zero":
            return 1.0
        case "simpo" | "orpo" | "dpo-nll":
            return None


def check_step_zero(
    session: Session,
    losses: Tensor,
    pair: PairLogprobs,
    recompute: Callable[[], Tensor],
    *,
    config: DPOConfig,
) -> None:
    """Before the first update policy and reference are one: rewards are 0, losses those at log-ratio 0.

    Args:
        session: where the invariants are recorded.
        losses: `[pairs]`.
        pair: what they are of.
        recompute: the answers' log-probabilities once more, `[2·pairs]`, chosen and rejected in turn.
        config: settings.
    """
    lengths = torch.stack([pair.chosen_lengths, pair.rejected_lengths], dim=1)
    policy = torch.stack([pair.chosen, pair.rejected], dim=1)
    before = torch.stack([pair.reference_chosen, pair.reference_rejected], dim=1)
    in_order = before.device.type == "cpu"
    rounding = sum_difference(before, lengths, noise=SAME_ROWS_NOISE, in_order=in_order)
    if bool(((policy - before).abs() > rounding).any()):
        # Only a device that does not compute the same numbers twice gets room for that.
        spread = repeat_difference(recompute).reshape(-1, 2) / lengths.sqrt()
        rounding = rounding + sum_difference(before, lengths, noise=float(spread.max()))
    rewards, tolerance = config.beta * (policy - before), config.beta * rounding
    session.record_invariant(
        invariants.check_step_zero_rewards(rewards.flatten(), step=0, tolerance=tolerance.flatten())
    )
    expected = loss_at_reference(config)
    if expected is not None:
        # The losses are monotone in either log-probability, or convex: they are farthest off at the ends.
        offsets = rounding * rounding.new_tensor([1.0, -1.0])
        level, *ends = (
            pair_losses(pair._replace(chosen=chosen, rejected=rejected), config)
            for chosen, rejected in (before.T, (before + offsets).T, (before - offsets).T)
        )
        off = torch.stack([(end - level).abs() for end in ends]).amax(dim=0)
        rounded = 8 * torch.finfo(losses.dtype).eps * max(1.0, abs(expected))
        session.record_invariant(
            invariants.check_step_zero_loss(expected, losses, step=0, tolerance=off + rounded)
        )


def recompute_logprobs(policy: LanguagePolicy, batch: Sequence[AnswerGroup], config: DPOConfig) -> Tensor:
    """`[2·pairs]` log-probabilities of a batch as the policy computes them now, in the order of its rows."""
    parts = policy.micro_batches(batch, max_tokens=config.loop.row_tokens)
    return torch.cat([policy.sequence_logprobs(rows).detach() for _, rows in parts])


def summarise(losses: Tensor, pair: PairLogprobs, config: DPOConfig) -> dict[str, float | None]:
    """The metrics of an update: means over its decided pairs, the loss over all.

    A margin of 0 is half an agreement. A pair that is a tie has no preferred answer, and says nothing of
    any of these but the loss; where all are ties they are `None`.
    """
    losses, pair = losses.cpu(), PairLogprobs(*(column.cpu() for column in pair))
    decided = pair.preference != TIE
    chosen = dpo.implicit_rewards(pair.chosen, pair.reference_chosen, beta=config.beta)
    rejected = dpo.implicit_rewards(pair.rejected, pair.reference_rejected, beta=config.beta)
    margin = chosen - rejected
    values = {
        "margin": margin,
        "chosen_reward": chosen,
        "rejected_reward": rejected,
        "accuracy": (margin.sign() + 1.0) / 2.0,
        "gradient_weight": torch.sigmoid(-margin),
        "chosen_logprob": pair.chosen,
        "rejected_logprob": pair.rejected,
    }
    means = {
        name: float(value[decided].double().mean()) if decided.any() else None
        for name, value in values.items()
    }
    whole = {
        "loss": float(losses.double().mean()),
        "tokens": float((pair.chosen_lengths + pair.rejected_lengths).sum()),
    }
    ties = {} if decided.all() else {"ties": float((~decided).sum())}
    return whole | means | ties
