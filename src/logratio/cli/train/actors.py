"""From names of models to an actor with its critic and its reference."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logratio.cli.train.compute import ComputingFlags, compute_as
from logratio.cli.train.lora import LoraFlags, attach_lora
from logratio.cli.train.preference_options import resolve_model
from logratio.errors import BadConfig, ReferenceAliased
from logratio.packed_rows import AnswerGroup
from logratio.records import Prompt

if TYPE_CHECKING:
    from logratio.models.loading import LoadedModel
    from logratio.policies.actor_critic import LanguageActor, ValueHead
    from logratio.policies.language import LanguagePolicy
    from logratio.training.invariants import InvariantResult

SHARED, SEPARATE, NO_CRITIC = "shared", "separate", "none"
BASE, POLICY, CRITIC = "base", "policy", "critic"
"""What the adapters on one model are called, and the model without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedActor:
    """A policy that can be trained, and what it is held near."""

    actor: LanguageActor
    """Policy and critic."""
    reference: LanguagePolicy
    """What the KL divergence is to; its weights are frozen."""
    fingerprint: str
    """Hash of the policy's weights as they were loaded."""
    reference_fingerprint: str
    """Hash of the reference's."""
    layout: InvariantResult
    """The invariant that packed rows are the model's own numbers."""


def open_actor(
    *,
    model: str,
    reference: str,
    prompts: Sequence[Prompt],
    row_tokens: int,
    critic: str = SHARED,
    lora: LoraFlags | None = None,
    computing: ComputingFlags | None = None,
    seed: int = 0,
    device: str = "cpu",
    num_frozen_bytes: int = 0,
) -> OpenedActor:
    """Load a policy, its reference and its critic, and settle in which layout they are computed.

    With an adapter there is one base: the policy is the base with the adapter, its reference the base
    without it, and a separate critic the base with an adapter of its own.

    Args:
        model: what training starts from.
        reference: what the divergence is to.
        prompts: some of those that will be answered, to settle the layout on.
        row_tokens: tokens computed at a time.
        critic: `shared`, `separate`, `none`, or the directory of a model that a separate critic starts from.
        lora: whether adapters are trained in the place of the weights.
        computing: how the numbers of all three are computed.
        seed: of the adapters' first weights.
        device: where to compute.
        num_frozen_bytes: what else will be in memory, such as a reward model.

    Raises:
        ReferenceAliased: policy and reference, or policy and critic, do not read the same tokens.
        ModelNotFound and others: as for `loading.load`.
    """
    from logratio.models.loading import load
    from logratio.policies.actor_critic import LanguageActor
    from logratio.policies.language import LanguagePolicy
    from logratio.training.memory_estimate import ACTIVATIONS, FEWER_ACTIVATIONS, estimate_bytes

    lora = lora or LoraFlags()
    source = resolve_model(model)
    loaded = load(source, device=device)
    for note in loaded.notes:
        print(note, file=sys.stderr)
    attach_lora(loaded.model, lora, source=source, seed=seed)
    policy = LanguagePolicy(loaded.model, loaded.tokenizer, adapter=POLICY if lora.lora_rank else None)
    held, reference_fingerprint = open_reference(
        resolve_model(reference), loaded, on_base=bool(lora.lora_rank), device=device
    )
    head, body = open_critic(critic, loaded, lora=lora, seed=seed, device=device)
    for reader in (policy, held, body):
        if reader is not None:
            compute_as(reader, computing or ComputingFlags())
    invariant = select_common_layout(policy, held, body, layout_probe(loaded.tokenizer, prompts))
    actor = LanguageActor(policy, row_tokens=row_tokens, value_head=head, critic=body)
    frozen = None if held.model is policy.model else held.model
    activations = ACTIVATIONS if policy.decoder is None else FEWER_ACTIVATIONS
    peak = num_frozen_bytes + estimate_bytes(
        actor.module, frozen=frozen, row_tokens=row_tokens, activations=activations
    )
    print(f"memory: about {peak / 1e9:.1f} GB at the peak, estimated", file=sys.stderr)
    return OpenedActor(
        actor=actor,
        reference=held,
        fingerprint=loaded.fingerprint,
        reference_fingerprint=reference_fingerprint,
        layout=invariant,
    )


def open_reference(
    source: str, policy: LoadedModel, *, on_base: bool, device: str
) -> tuple[LanguagePolicy, str]:
    """The reference with the hash of its weights: the policy's own base where it is that, else another model.

    Raises:
        ReferenceAliased: it reads other tokens than the policy.
    """
    from logratio.models.loading import load
    from logratio.policies.language import LanguagePolicy

    if on_base and source == policy.source:
        return LanguagePolicy(policy.model, policy.tokenizer, adapter=BASE), policy.fingerprint
    other = load(source, device=device)
    ensure_reference_fits(policy, other)
    other.model.requires_grad_(False)
    return LanguagePolicy(other.model, policy.tokenizer), other.fingerprint


def select_common_layout(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    critic: LanguagePolicy | None,
    probe: Sequence[AnswerGroup],
) -> InvariantResult:
    """Settle the layout of all that read the same rows: where one must be computed apart, so must all."""
    from logratio.training.layout_check import select_layout

    invariant = max((select_layout(one, probe) for one in (policy, reference)), key=lambda held: held.value)
    readers = [policy, reference] if critic is None else [policy, reference, critic]
    if any(one.layout == "unpacked" for one in readers):
        for one in readers:
            one.layout = "unpacked"
    return invariant


def ensure_reference_fits(policy: LoadedModel, reference: LoadedModel) -> None:
    """Policy and reference read the same tokens, and share no weight.

    Raises:
        ReferenceAliased: they do not, or do.
    """
    from logratio.evaluation.run_evaluation import ensure_same_tokenizer
    from logratio.training.invariants import check_reference_is_separate

    ensure_same_tokenizer("policy", policy.tokenizer, reference.tokenizer)
    check_reference_is_separate(policy.model.state_dict(), reference.model.state_dict())


def open_critic(
    critic: str, policy: LoadedModel, *, lora: LoraFlags, seed: int, device: str
) -> tuple[ValueHead | None, LanguagePolicy | None]:
    """The critic's head, and the model whose states it reads where those are not the policy's own.

    A head begins at 0, which says nothing; where the critic starts from a reward model, at that model's own
    head, which says what an answer would be worth if it ended here.
    """
    from logratio.models.loading import load
    from logratio.models.reward_model import is_reward_model, load_reward_model
    from logratio.models.sources import local_directory
    from logratio.policies.actor_critic import ValueHead, value_head_of
    from logratio.policies.language import LanguagePolicy

    if critic == NO_CRITIC:
        return None, None
    if critic == SHARED or (critic == SEPARATE and lora.lora_rank):
        head = ValueHead(hidden_width(policy.model)).to(policy.model.device)
        if critic == SHARED:
            return head, None
        attach_lora(policy.model, lora, source=policy.source, seed=seed, name=CRITIC)
        return head, LanguagePolicy(policy.model, policy.tokenizer, adapter=CRITIC)
    source = policy.source if critic == SEPARATE else resolve_model(critic)
    if is_reward_model(local_directory(source)):
        scorer = load_reward_model(source, device=device)
        model, tokenizer, head = scorer.model, scorer.tokenizer, value_head_of(scorer.model)
    else:
        loaded = load(source, device=device)
        model, tokenizer = loaded.model, loaded.tokenizer
        head = ValueHead(hidden_width(model)).to(model.device)
    ensure_tokens_fit(policy.tokenizer, tokenizer, source=source)
    attach_lora(model, lora, source=source, seed=seed, name=CRITIC)
    freeze_head(model)
    return head, LanguagePolicy(model, tokenizer)


def freeze_head(model: Any) -> None:
    """Leave a critic's own output head out of training where nothing else reads it: it has no gradient."""
    head = getattr(model, "score", None) or model.get_output_embeddings()
    inside = {id(weight) for weight in model.base_model.parameters()}
    for weight in head.parameters():
        if id(weight) not in inside:
            weight.requires_grad_(False)


def ensure_tokens_fit(policy: Any, critic: Any, *, source: str) -> None:
    """Raise `ReferenceAliased` unless every token of the policy is the critic's token of the same number."""
    known = critic.get_vocab()
    differing = [token for token, number in policy.get_vocab().items() if known.get(token) != number]
    if differing:
        raise ReferenceAliased(
            f"the critic's tokenizer has another number for {differing[0]!r} than the policy's"
            f" ({len(differing)} tokens differ)",
            where=f"--critic {source}",
            action="start the critic from a model of the policy's family, or take --critic shared",
        )


def check_critic(critic: str) -> None:
    """Refuse the name of an unknown critic, before a model is loaded.

    Raises:
        BadConfig: it is neither a word that is known nor a directory.
    """
    if critic in (SHARED, SEPARATE) or Path(critic).exists():
        return
    raise BadConfig(
        f"there is no critic {critic!r}",
        where="--critic",
        action=f"give {SHARED}, {SEPARATE}, or the directory of a reward model or a language model",
    )


def layout_probe(tokenizer: Any, prompts: Sequence[Prompt]) -> list[AnswerGroup]:
    """Prompts with two answers each, on which it shows whether a prompt can be computed once for its answers.

    What the answers say is of no account: they are the prompt's own tokens, there and back.
    """
    from logratio.models.tokenisation import encode_prompt

    encoded = [tuple(encode_prompt(tokenizer, prompt)) for prompt in prompts[:8]]
    return [AnswerGroup(prompt, (prompt, prompt[::-1])) for prompt in encoded]


def hidden_width(model: Any) -> int:
    """The width of a model's hidden states, which its output embeddings read."""
    return int(model.get_output_embeddings().weight.shape[1])
