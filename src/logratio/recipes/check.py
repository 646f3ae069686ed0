"""What is wrong with comparisons, row by row, before a model is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logratio.data.encoding import UNLIMITED
from logratio.data.given_rows import GivenRows, Row, as_source
from logratio.data.label_metadata import REWARDS
from logratio.data.preference_formats import COLUMNS, read_comparisons
from logratio.data.validation import CheckReport, check_comparisons
from logratio.models.input_limits import ModelLimits
from logratio.recipes.prompt_format import PromptFormatConfig
from logratio.recipes.rows import RowConfig

if TYPE_CHECKING:
    from logratio.recipes.policy import ModelName


def check(
    comparisons: Path | str | GivenRows | Sequence[Row],
    model: ModelName | None = None,
    *,
    max_length: int = 1024,
    max_prompt_length: int | None = None,
    prompt_format: PromptFormatConfig | None = None,
    rows: RowConfig | None = None,
    limit: int | None = None,
) -> CheckReport:
    """Find the rows that cannot be trained on, each with its one reason; the counts add up to the rows.

    Args:
        comparisons: a file, or rows as `Comparison` or mappings with `prompt`, `chosen` and `rejected`.
        model: the model to be trained, whose tokenizer and configuration show what training would see; no
            weight is loaded.
        max_length: tokens of prompt and answer together; longer answers are cut and counted.
        max_prompt_length: tokens of a prompt; rows with a longer one are left out.
        prompt_format: how prompts given as text are rendered.
        rows: which share of the rows may be left out.
        limit: read only so many rows.

    Returns:
        Rows left out by reason, duplicates, contradictions, lengths, and whether training would be refused.

    Raises:
        DataFault: the file cannot be read as comparisons at all.
    """
    prompt_format, rows = prompt_format or PromptFormatConfig(), rows or RowConfig()
    source = as_source(comparisons, name="comparisons")
    result = read_comparisons(source, limit=limit, prompt_format=prompt_format.prompt_format)
    tokenizer, limits = open_tokenizer(model)
    if tokenizer is not None:
        prompt_format.ensure_possible(tokenizer)
    return check_comparisons(
        result,
        tokenizer,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        limits=limits,
        max_unusable_share=rows.max_unusable_share,
        used=(*COLUMNS, *REWARDS),
    )


def open_tokenizer(model: ModelName | None) -> tuple[Any, ModelLimits]:
    """The tokenizer of a model and what it can read, or neither; torch is imported only for a model."""
    if model is None:
        return None, UNLIMITED
    from logratio.recipes.policy import as_policy

    policy = as_policy(model)
    return policy.tokenizer, policy.limits
