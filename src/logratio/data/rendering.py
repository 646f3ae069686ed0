"""What is said about how a file's conversations reach a model: what is left out, how texts are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from logratio.models.chat_template import has_chat_template, uses_chat_template
from logratio.models.end_of_turn import describe_end
from logratio.models.tokenisation import name_unrendered
from logratio.records import Completion, Prompt


def count_unrendered(tokenizer: Any, rows: Iterable[tuple[Prompt, Sequence[Completion]]]) -> dict[str, int]:
    """How many rows have a field, a content or tools that the model does not read, by name."""
    counts: Counter[str] = Counter()
    for prompt, answers in rows:
        counts.update(name_unrendered(tokenizer, prompt, answers))
    return dict(counts.most_common())


def describe_unrendered(tokenizer: Any, counts: Mapping[str, int]) -> list[str]:
    """A line for each name: what is not read, by whom, in how many rows."""
    by = "by the chat template" if has_chat_template(tokenizer) else "(the model has no chat template)"
    return [
        f"{name} is not rendered {by}: {count} row{'' if count == 1 else 's'}"
        for name, count in counts.items()
    ]


def describe_rendering(tokenizer: Any, prompts: Sequence[Prompt]) -> list[str]:
    """How prompts given as text are taken where there is a choice, and what ends a finished answer."""
    lines = []
    texts = [prompt for prompt in prompts if isinstance(prompt.content, str)]
    if texts and has_chat_template(tokenizer):
        num_turns = sum(uses_chat_template(tokenizer, prompt) for prompt in texts)
        if num_turns:
            lines.append(f"{num_turns} prompts given as text are one user turn each (--prompt-format chat)")
        if num_turns < len(texts):
            lines.append(
                f"{len(texts) - num_turns} prompts given as text are continued as they stand "
                "(--prompt-format raw)"
            )
    if any(uses_chat_template(tokenizer, prompt) for prompt in prompts):
        lines.append(describe_end(tokenizer))
    return lines
