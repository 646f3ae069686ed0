"""How answers are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

from logratio.errors import BadConfig
from logratio.kernels.precision import Precision

LEAST_TEMPERATURE = 1e-6
"""Below it the quotients leave float32."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How long answers become, and how many are decoded together."""

    max_new_tokens: int = 64
    """An answer that has not ended after so many tokens is cut off."""
    decode_batch_size: int = 256
    """How many answers are decoded at a time, fewer where they would take more than a gigabyte: less takes
    less memory. Answers do not depend on it."""

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "--max-new-tokens", self.max_new_tokens, "1 or more")
        _require(self.decode_batch_size >= 1, "--decode-batch-size", self.decode_batch_size, "1 or more")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(DecodingConfig):
    """The distribution that answers are drawn from, and how they are decoded.

    Raises:
        BadConfig: a value is out of range.
    """

    temperature: float = 1.0
    """Logits are divided by it: 1 samples from the model itself, 0 takes the most probable token."""
    top_k: int = 0
    """Draw from the k most probable tokens only; 0 draws from all."""
    top_p: float = 1.0
    """Then from the fewest that have this much probability together; 1 draws from all."""
    precision: Precision = "fp32"
    """Of matrix products: fp32, or bf16 for processors that have it, which is faster and coarser."""

    def __post_init__(self) -> None:
        DecodingConfig.__post_init__(self)
        _require(
            self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < math.inf,
            "--temperature",
            self.temperature,
            f"0 (the most probable token), or {LEAST_TEMPERATURE} or more",
        )
        _require(self.top_k >= 0, "--top-k", self.top_k, "0 (no limit) or more")
        _require(0 < self.top_p <= 1, "--top-p", self.top_p, "above 0 and at most 1 (no limit)")


def _require(holds: bool, flag: str, value: float, allowed: str) -> None:
    if not holds:
        raise BadConfig(
            f"{flag.lstrip('-').replace('-', ' ')} is {value}", where=flag, action=f"give {allowed}"
        )
