"""From names of models to an actor with its critic and its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logratio.errors import BadConfig, ReferenceAliased
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.progress import say
from logratio.recipes.policy import Policy, resolve_model
from logratio.records import Prompt

if TYPE_CHECKING:
    from logratio.models.loading import LoadedModel
    from logratio.policies.actor_critic import LanguageActor, ValueHead
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
    policy: Policy,
    *,
    reference: str,
    critic: str = SHARED,
    prompts: Sequence[Prompt],
    row_tokens: int,
    seed: int = 0,
    num_frozen_bytes: int = 0,
) -> OpenedActor:
    """Load a policy, its reference and its critic, and settle in which layout they are computed.

    With an adapter there is one base: the policy is the base with the adapter, its reference the base
    without it, and a separate critic the base with an adapter of its own.

    Args:
        policy: what training starts from, with its adapter and how it is computed.
        reference: the model that the divergence is to, by name.
        critic: `shared`, `separate`, `none`, or the directory of a model that a separate critic starts from.
        prompts: some of those that will be answered, to settle the layout on.
        row_tokens: tokens of a micro-batch.
        seed: of the adapters' first weights.
        num_frozen_bytes: what else will be in memory, such as a reward model.

    Raises:
        ReferenceAliased: policy and reference, or policy and critic, do not read the same tokens.
        ModelNotFound and others: as for `models.loading.load`.
    """
    from logratio.policies.actor_critic import LanguageActor

    loaded, lora = policy.load(), policy.lora
    lora.attach(loaded.model, source=policy.source, seed=seed)
    trained = LanguagePolicy(loaded.model, loaded.tokenizer, adapter=POLICY if lora.rank else None)
    held, reference_fingerprint = open_reference(
        resolve_model(reference), loaded, on_base=bool(lora.rank), device=policy.compute.device
    )
    head, body = open_critic(critic, policy, seed=seed)
    for model in (trained, held, body):
        if model is not None:
            policy.compute.apply(model)
    invariant = select_common_layout(trained, held, body, layout_probe(loaded.tokenizer, prompts))
    actor = LanguageActor(trained, row_tokens=row_tokens, value_head=head, critic=body)
    announce_memory(actor, held, num_frozen_bytes=num_frozen_bytes)
    return OpenedActor(
        actor=actor,
        reference=held,
        fingerprint=loaded.fingerprint,
        reference_fingerprint=reference_fingerprint,
        layout=invariant,
    )


def announce_memory(actor: LanguageActor, reference: LanguagePolicy, *, num_frozen_bytes: int) -> None:
    """Say how much memory training will take at its peak, as estimated."""
    from logratio.training.memory_estimate import ACTIVATIONS, FEWER_ACTIVATIONS, estimate_bytes

    peak = num_frozen_bytes + estimate_bytes(
        actor.module,
        frozen=None if reference.model is actor.policy.model else reference.model,
        row_tokens=actor.row_tokens,
        activations=ACTIVATIONS if actor.policy.decoder is None else FEWER_ACTIVATIONS,
    )
    say(f"memory: about {peak / 1e9:.1f} GB at the peak, estimated")


def open_reference(
    source: str, policy: LoadedModel, *, on_base: bool, device: str
) -> tuple[LanguagePolicy, str]:
    """The reference with the hash of its weights: the policy's own base where it is that, else another model.

    Raises:
        ReferenceAliased: it reads other tokens than the policy.
    """
    from logratio.models.loading import load

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

    results = [select_layout(model, probe) for model in (policy, reference)]
    invariant = max(results, key=lambda result: result.value)
    models = [policy, reference] if critic is None else [policy, reference, critic]
    if any(model.layout == "unpacked" for model in models):
        for model in models:
            model.layout = "unpacked"
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


def open_critic(critic: str, policy: Policy, *, seed: int) -> tuple[ValueHead | None, LanguagePolicy | None]:
    """The critic's head, and the model whose states it reads where those are not the policy's own.

    A head begins at 0, which says nothing; where the critic starts from a reward model, at that model's own
    head, which says what an answer would be worth if it ended here.
    """
    from logratio.models.loading import load
    from logratio.models.reward_model import is_reward_model, load_reward_model
    from logratio.models.sources import local_directory
    from logratio.policies.actor_critic import ValueHead, value_head_of

    if critic == NO_CRITIC:
        return None, None
    loaded, lora, device = policy.load(), policy.lora, policy.compute.device
    if critic == SHARED or (critic == SEPARATE and lora.rank):
        head = ValueHead(hidden_width(loaded.model)).to(loaded.model.device)
        if critic == SHARED:
            return head, None
        lora.attach(loaded.model, source=policy.source, seed=seed, name=CRITIC)
        return head, LanguagePolicy(loaded.model, loaded.tokenizer, adapter=CRITIC)
    source = policy.source if critic == SEPARATE else resolve_model(critic)
    if is_reward_model(local_directory(source)):
        scorer = load_reward_model(source, device=device)
        model, tokenizer, head = scorer.model, scorer.tokenizer, value_head_of(scorer.model)
    else:
        separate = load(source, device=device)
        model, tokenizer = separate.model, separate.tokenizer
        head = ValueHead(hidden_width(model)).to(model.device)
    ensure_tokens_fit(loaded.tokenizer, tokenizer, source=source)
    lora.attach(model, source=source, seed=seed, name=CRITIC)
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
