"""Files as lists of records, for programs: what cannot be used is left out and said, or refused."""

from __future__ import annotations

from pathlib import Path

from logratio.data import jsonl, preference_formats
from logratio.data.unusable_rows import UnusableRow, describe_rows, refuse_rows, too_many
from logratio.progress import say
from logratio.records import Comparison, Prompt, PromptFormat


def read_comparisons(
    path: Path | str, *, limit: int | None = None, prompt_format: PromptFormat = "auto"
) -> list[Comparison]:
    """Comparisons in every form that preference data come in; docs/rows.md lists the forms.

    Args:
        path: JSON Lines, also `.gz`, or Parquet, with `prompt`, `chosen` and `rejected` as text or messages,
            or whole transcripts.
        limit: read only so many rows.
        prompt_format: how prompts given as text are rendered, where a row does not say it itself.

    Returns:
        The usable rows in the file's order; `comparison.source` is `file:line`.

    Raises:
        FileNotReadable: there is no such file, or it is empty, cut off or of another kind.
        UnusableRows: over a tenth of the rows and more than five, or half of them, are no comparisons.
    """
    read = preference_formats.read_comparisons(path, limit=limit, prompt_format=prompt_format)
    _settle(read.unusable, read.num_rows)
    return read.comparisons


def read_prompts(
    path: Path | str, *, limit: int | None = None, prompt_format: PromptFormat = "auto"
) -> list[Prompt]:
    """Prompts: rows with `prompt` as text or messages, or the lines of a `.txt` file.

    Further columns of a row, which rewards may read, are not part of a `Prompt`: give recipes the path to
    have them read.

    Args:
        path: JSON Lines, also `.gz`, Parquet, or plain text.
        limit: read only so many rows.
        prompt_format: how prompts given as text are rendered, where a row does not say it itself.

    Returns:
        The usable rows in the file's order.

    Raises:
        FileNotReadable: there is no such file, or it is empty, cut off or of another kind.
        UnusableRows: over a tenth of the rows and more than five, or half of them, are no prompts.
    """
    read = jsonl.read_prompts(path, limit=limit, prompt_format=prompt_format)
    _settle(read.unusable, read.num_rows)
    return [row.prompt for row in read.usable]


def _settle(unusable: list[UnusableRow], num_rows: int) -> None:
    if unusable:
        say("\n".join(f"data: {line}" for line in describe_rows(unusable, num_rows, {})))
    if too_many(unusable, num_rows):
        raise refuse_rows(unusable, num_rows)
