"""The evaluation of models from beginning to end: they answer, a judge gives rewards, KL is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from logratio.errors import BadConfig, ReferenceAliased
from logratio.evaluation import evaluation_warnings
from logratio.evaluation.model_comparison import (
    REFERENCE,
    EvaluationResult,
    Judge,
    compare,
    ensure_enough,
    ordered_names,
)
from logratio.evaluation.policy_divergence import ROW_TOKENS, Divergence, measure_divergence
from logratio.generation.config import SamplingConfig
from logratio.generation.sampler import sample
from logratio.models import tokenisation
from logratio.models.loading import LoadedModel
from logratio.progress import Progress
from logratio.records import Prompt, Sample
from logratio.stats.bootstrap import RESAMPLES
from logratio.training.invariants import check_reference_is_separate


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """How models are evaluated."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How answers are drawn; KL is that of the models only at temperature 1, without top-k and top-p."""
    seed: int = 0
    """Seed of answers, intervals and the random rows; every model gets the same."""
    row_tokens: int = ROW_TOKENS
    """Tokens read at a time where KL is measured."""
    resamples: int = RESAMPLES
    """Draws of the bootstrap."""

    def to_json(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)


def evaluate_policies(
    models: Mapping[str, LoadedModel],
    prompts: Sequence[Prompt],
    judge: Judge,
    config: EvaluationConfig | None = None,
    *,
    columns: Sequence[Mapping[str, Any]] | None = None,
    trained_on_judge: bool = False,
    warnings: Sequence[evaluation_warnings.EvaluationWarning] = (),
) -> EvaluationResult:
    """Let every model answer the prompts with the same seeds, judge the answers, measure KL to the reference.

    Args:
        models: `policy` and `reference`, and models between them by name. Each is asked for once and let go
            of before the next, so that a mapping that opens models when asked holds two at a time.
        prompts: at least two, none twice; none that was trained on.
        judge: gives the rewards, such as `rollouts.rewards.load_reward("module:function")`.
        config: how to evaluate.
        columns: further columns of each prompt's row, for the judge.
        trained_on_judge: the policy was trained towards this very judge.
        warnings: those that are known already.

    Raises:
        BadConfig: policy or reference is missing, or a prompt stands twice.
        TooFewLabels: fewer than two prompts.
        ReferenceAliased: a model has another tokenizer than the reference, or shares its weights' storage.
        BadReward: the judge did not return a number for each answer.
        InvariantViolated: an exact KL is negative.
    """
    config = config or EvaluationConfig()
    order = ordered_names(models)
    ensure_enough(len(prompts))
    ensure_distinct(prompts)
    reference = models[REFERENCE]
    samples = {REFERENCE: answer(REFERENCE, reference, prompts, config, columns)}
    divergences: dict[str, Divergence] = {}
    for name in order[1:]:
        samples[name], divergences[name] = measure_model(
            name, models[name], reference, prompts, config, columns
        )
    off = evaluation_warnings.off_distribution(
        temperature=config.sampling.temperature, top_k=config.sampling.top_k, top_p=config.sampling.top_p
    )
    return compare(
        samples,
        judge,
        divergences,
        seed=config.seed,
        trained_on_judge=trained_on_judge,
        warnings=[*warnings, *off],
        resamples=config.resamples,
    )


def answer(
    name: str,
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    config: EvaluationConfig,
    columns: Sequence[Mapping[str, Any]] | None,
) -> list[Sample]:
    """One answer to each prompt; its seed depends on `config.seed` and the prompt, not on the model."""
    with Progress(f"answers of {name}", len(prompts), unit="answers") as progress:
        samples = sample(
            loaded.model,
            loaded.tokenizer,
            prompts,
            num_samples=1,
            seed=config.seed,
            config=config.sampling,
            progress=progress,
        )
    if columns is None:
        return samples
    return [replace(own, columns=row) for own, row in zip(samples, columns, strict=True)]


def measure_model(
    name: str,
    loaded: LoadedModel,
    reference: LoadedModel,
    prompts: Sequence[Prompt],
    config: EvaluationConfig,
    columns: Sequence[Mapping[str, Any]] | None,
) -> tuple[list[Sample], Divergence]:
    """A model's answers, and its KL to the reference along them."""
    check_reference_is_separate(loaded.model.state_dict(), reference.model.state_dict())
    ensure_same_tokenizer(name, loaded.tokenizer, reference.tokenizer)
    samples = answer(name, loaded, prompts, config, columns)
    encoded = [
        (
            tokenisation.encode_prompt(loaded.tokenizer, sample.prompt),
            tokenisation.encode_completion(loaded.tokenizer, sample.prompt, sample.completions[0]),
        )
        for sample in samples
    ]
    with Progress(f"KL of {name}", len(encoded), unit="answers") as progress:
        divergence = measure_divergence(
            loaded.model,
            reference.model,
            encoded,
            row_tokens=config.row_tokens,
            on_batch=lambda count: progress.advance(count),
        )
    return samples, divergence


def ensure_same_tokenizer(name: str, tokenizer: Any, reference: Any) -> None:
    """Raise `ReferenceAliased` where two models do not read the same tokens into the same prompt."""
    actual = tokenisation.tokenizer_fingerprint(tokenizer)
    expected = tokenisation.tokenizer_fingerprint(reference)
    if actual != expected:
        raise ReferenceAliased(
            f"{name} and reference have different tokenizers or chat templates ({actual}, {expected})",
            action="compare models of one family: their KL divergence is not defined otherwise",
        )


def ensure_distinct(prompts: Sequence[Prompt]) -> None:
    """Raise `BadConfig` where a prompt stands twice: its two answers would be one, counted twice."""
    seen: dict[str, int] = {}
    for index, prompt in enumerate(prompts):
        first = seen.setdefault(prompt.key, index)
        if first != index:
            raise BadConfig(
                f"prompt {index + 1} is the same as prompt {first + 1}", action="leave the repetition out"
            )
