"""The flag that says how prompts given as text are rendered, which every command that reads prompts takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from logratio.data.rendering import count_unrendered, describe_rendering, describe_unrendered
from logratio.errors import BadConfig
from logratio.models.chat_template import has_chat_template, uses_chat_template
from logratio.progress import say
from logratio.records import Completion, Prompt, PromptFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormatConfig:
    """How prompts given as text are rendered; prompts given as messages go through the chat template."""

    prompt_format: PromptFormat = "auto"
    """`chat`: a prompt given as text is one user turn of the chat template. `raw`: it is continued as it
    stands, and its answer ends in the tokenizer's end token, as in TRL. `auto`: as the rows say that their
    answers were sampled, else `chat` where the model has a chat template."""

    def identity(self) -> dict[str, Any]:
        """What a run is known by; null, as in runs of old, where it is left to the rows and the model."""
        return {"prompt_format": None if self.prompt_format == "auto" else self.prompt_format}

    def ensure_possible(self, tokenizer: Any) -> None:
        """Raise `BadConfig` where turns are asked of a model that has no form for them."""
        if self.prompt_format == "chat" and not has_chat_template(tokenizer):
            raise BadConfig(
                "the model has no chat template",
                where="--prompt-format chat",
                action="take --prompt-format raw, or a model with a chat template",
            )


def announce_rendering(
    tokenizer: Any, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]] | None = None
) -> None:
    """Print how prompts are taken, and what of them the model does not read."""
    rows = zip(prompts, answers or [()] * len(prompts), strict=True)
    unrendered = describe_unrendered(tokenizer, count_unrendered(tokenizer, rows))
    for line in [*describe_rendering(tokenizer, prompts), *unrendered]:
        say(f"prompts: {line}")


def with_format_taken(tokenizer: Any, prompt: Prompt) -> Prompt:
    """The prompt with the format that it is sampled in, where there was a choice."""
    if not (isinstance(prompt.content, str) and has_chat_template(tokenizer)):
        return prompt
    return replace(prompt, format="chat" if uses_chat_template(tokenizer, prompt) else "raw")
