"""How the rows of a recipe are read: which are kept out, how prompts are rendered, what is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from logratio.recipes.prompt_format import PromptFormatConfig
from logratio.recipes.rows import RowConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDataConfig:
    """What is read of a file of prompts, and what of it is trained on."""

    prompt_format: Annotated[PromptFormatConfig, tyro.conf.arg(name="")] = field(
        default_factory=PromptFormatConfig
    )
    """How prompts given as text are rendered."""
    held_out: float = 0.1
    """Share of the prompts kept out of training and written to held_out.jsonl, for `logratio evaluate`."""
    limit: int | None = None
    """Read only so many rows."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of rows that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceDataConfig(PromptDataConfig):
    """What is read of a file of comparisons, and what of it is trained on."""

    max_length: int = 1024
    """Tokens of prompt and answer together; longer answers are cut and counted, longer prompts left out."""
