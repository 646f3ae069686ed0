"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from logratio.generation.config import SamplingConfig
from logratio.kernels.precision import Precision
from logratio.recipes.prompt_format import PromptFormatConfig
from logratio.recipes.rows import RowConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationSampling(SamplingConfig):
    """How answers to be compared are drawn: from the models themselves unless the temperature is not 1."""

    top_k: tyro.conf.Suppress[int] = 0
    top_p: tyro.conf.Suppress[float] = 1.0
    precision: tyro.conf.Suppress[Precision] = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """On which prompts models are compared, and how their answers are drawn."""

    prompt_format: Annotated[PromptFormatConfig, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatConfig
    )
    """How prompts given as text are rendered."""
    num_prompts: int = 0
    """Evaluate on so many of the prompts, drawn by --seed; 0 takes all."""
    sampling: Annotated[EvaluationSampling, tyro.conf.arg(name="")] = field(
        default_factory=partial(EvaluationSampling, decode_batch_size=64)
    )
    """How answers are drawn; only temperature 1 measures the models themselves."""
    seed: int = 0
    """Seed of answers and intervals, the same for every model."""
    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1, mps."""
    dtype: str = "float32"
    """Numbers of the weights: float32, or bfloat16 (KL is then less exact)."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of prompts that cannot be answered or judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """All that `evaluate` is told, as `logratio evaluate` takes it."""

    policy: str
    """The model in question: a transformers directory, a run directory, a hub id, a .gguf file, or
    `embedded`."""
    reference: str
    """What it is compared with, given likewise; usually the model that training started from."""
    prompts: Path
    """Held-out prompts: JSON Lines with a column `prompt`, or a .txt file with one prompt a line. Further
    columns are given to the judge."""
    reward: str
    """The judge: module:function, found in this directory or among the installed packages, or the directory
    of a reward model."""
    out: Path = Path("runs/evaluation")
    """Directory of report.json and samples.jsonl."""
    also: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    """Models between the two, as name=model: --also sft=runs/sft."""
    options: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = field(default_factory=EvaluationOptions)
    """Prompts and sampling."""
    overwrite: bool = False
    """Replace a report that stands in --out."""
