"""What rounding does to log-probabilities, beside the limits of the invariants: `make bench-rounding`.

    PYTHONPATH=tests python benchmarks/rounding.py --write docs/computing.md

An answer of 8 to 2,000 tokens of this project's own pages is read by the embedded model in bfloat16, by
products that accumulate in another order for each shape (`tests/reordered_matmul.py`), as bfloat16 tiles do:
alone, again in the same row, and in a row with another answer; beside them a reference with 1 % of noise in a
layer.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Tensor

from logratio.kernels.rounding_error import (
    SAME_ROWS_NOISE,
    TOKEN_NOISE,
    LogprobDifference,
    largest_difference,
    mean_square_difference,
    sum_difference,
)
from logratio.models.gguf.loading import embedded_model_path
from logratio.models.loading import load
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from reordered_matmul import reordered_products

PAGES = Path(__file__).parent.parent / "docs"
LENGTHS = (8, 32, 128, 512, 2000)
BEGIN, END = "<!-- written by make bench-rounding -->", "<!-- to here -->"
HEADINGS = (
    "tokens",
    "off float32, RMS",
    "same row: sum (limit)",
    "1 % in a layer, same row: sum",
    "another row: RMS (limit)",
    "another row: largest (limit)",
    "another row: sum (limit)",
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is written where."""

    write: Path | None = None
    """The page whose table is replaced."""
    threads: int = 2
    """Threads of the processor."""


def disturbed(policy: LanguagePolicy) -> LanguagePolicy:
    """The same policy with noise of 1 % in the weights of its middle layer."""
    model = copy.deepcopy(policy.model)
    layer = model.model.layers[len(model.model.layers) // 2]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(1.0 + 0.01 * torch.randn(weight.shape, generator=generator))
    other = LanguagePolicy(model, policy.tokenizer)
    other.set_compute(precision=policy.precision)
    return other


@torch.no_grad()
def logprobs(policy: LanguagePolicy, groups: list[AnswerGroup], length: int) -> Tensor:
    """`[length]` log-probabilities of the first answer's tokens."""
    return torch.cat([policy.evaluate(row) for row in policy.pack(groups)])[:length].double()


def measure(policy: LanguagePolicy, wrong: LanguagePolicy, ids: list[int], length: int) -> list[str]:
    """A row of the table."""
    group = AnswerGroup(tuple(ids[:32]), (tuple(ids[32 : 32 + length]),))
    other = AnswerGroup(tuple(ids[-90:-58]), (tuple(ids[-58:-17]), tuple(ids[-17:])))
    with reordered_products():
        alone, again = logprobs(policy, [group], length), logprobs(policy, [group], length)
        beside = logprobs(policy, [group, other], length)
        disturbance = logprobs(wrong, [group], length) - alone
    noise, usual = policy.rounding_noise([group]), TOKEN_NOISE["bf16"]
    total, tokens = alone.sum()[None].float(), torch.tensor([length])
    same = float(sum_difference(total, tokens, noise=SAME_ROWS_NOISE, in_order=True)[0])
    elsewhere = float(sum_difference(total, tokens, noise=usual)[0])
    found = LogprobDifference.of(beside - alone)
    return [
        f"{length:,}",
        f"{noise:.3f}",
        f"{float((again - alone).sum()):.2g} ({same:.2g})",
        f"{abs(float(disturbance.sum())):.2g}",
        f"{found.root_mean_square:.3f} ({mean_square_difference(usual, length):.2f})",
        f"{found.largest:.2f} ({largest_difference(usual):.2f})",
        f"{abs(float((beside - alone).sum())):.2g} ({elsewhere:.2g})",
    ]


def main(arguments: Arguments) -> None:
    """Measure, show, and write."""
    torch.set_num_threads(arguments.threads)
    loaded = load(str(embedded_model_path()))
    policy = LanguagePolicy(loaded.model, loaded.tokenizer)
    policy.set_compute(precision="bf16")
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("c*.md")))
    text = re.sub(f"{BEGIN}.*{END}", "", text, flags=re.DOTALL)
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    wrong = disturbed(policy)
    rows = [HEADINGS, ["---:"] * len(HEADINGS)]
    for length in LENGTHS:
        rows.append(measure(policy, wrong, ids, length))
        Console().print(" | ".join(rows[-1]))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    if arguments.write is not None:
        page = arguments.write.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        arguments.write.write_text(
            f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8"
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
