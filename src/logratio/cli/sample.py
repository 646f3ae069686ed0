"""Answer prompts, and keep each answer's tokens with their exact log-probabilities.

    logratio sample --model SmolLM2.gguf --prompts prompts.jsonl --out completions.jsonl

reads prompts from JSON Lines (a column `prompt` with a text or with messages; further columns are kept) or
from a .txt file with one prompt a line, and writes one row a prompt:

    {"prompt": "...", "completions": [{"text": "...", "token_ids": [...], "logprobs": [...], ...}]}

`logprobs` are those of the distribution that was drawn from, temperature, top-k and top-p included;
`model_logprobs` those of the model itself. Every answer has its own seed, made of --seed, the prompt and the
answer's number, so that answers do not depend on --decode-batch-size or on the other prompts. A run that was
stopped goes on where it was when the same command is given again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from logratio.recipes.sample import SampleSettings as Arguments
from logratio.recipes.sample import run_sample
from logratio.records import Completion, Sample
from logratio.stats.wilson import percent

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Sample, write the answers and print the counts."""
    drawn = run_sample(arguments)
    known = drawn.known
    print(
        describe(drawn.samples, seconds=drawn.seconds, num_known=len(known), known_tokens=count_tokens(known))
    )
    print(f"written to {arguments.out}")
    return 0


def count_tokens(completions: Iterable[Completion]) -> int:
    """Tokens of the answers, end tokens included."""
    return sum(len(completion.token_ids or ()) for completion in completions)


def describe(samples: Sequence[Sample], *, seconds: float, num_known: int, known_tokens: int) -> str:
    """What was drawn, in two lines."""
    completions = [completion for drawn in samples for completion in drawn.completions]
    tokens = count_tokens(completions)
    ended = sum(completion.finish_reason == "stop" for completion in completions)
    logprob = sum(sum(completion.model_logprobs or ()) for completion in completions)
    before = f" ({num_known} of them from a run that was stopped)" if num_known else ""
    new = tokens - known_tokens
    # Where all answers were there already, none was drawn at any rate.
    rate = f", {new / max(seconds, 1e-9):.0f} tokens/s" if new else ""
    return (
        f"{len(completions)} answers to {len(samples)} prompts{before}: "
        f"{tokens} tokens{rate}\n"
        f"{percent(ended / len(completions), 0)} ended by themselves; mean log-probability under the model "
        f"{logprob / len(completions):.2f} nats per answer, {logprob / tokens:.3f} a token"
    )
