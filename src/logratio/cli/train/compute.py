"""The flags of how a language model's numbers are computed, whatever is computed with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logratio.kernels.precision import Precision

if TYPE_CHECKING:
    from logratio.policies.language import LanguagePolicy
    from logratio.policies.reward_scorer import RewardModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputingFlags:
    """Time and memory against each other, and against the last digits."""

    precision: Precision = "fp32"
    """Of matrix products. bf16 computes them from bfloat16 copies, for processors that have such products;
    the weights, their updates and all log-probabilities stay float32."""
    recompute_activations: bool = False
    """Compute a layer's activations a second time in the backward pass rather than keep them: a quarter more
    time, and memory that hardly grows with --row-tokens. Not for every architecture."""

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run it goes on with; null for fp32, as in runs of old."""
        return {"precision": None if self.precision == "fp32" else self.precision}


def compute_as(reader: LanguagePolicy | RewardModel, flags: ComputingFlags) -> None:
    """Have a policy or a scorer compute as the flags say.

    Raises:
        BadConfig: activations are to be computed again, and this architecture's cannot be.
    """
    reader.set_compute(precision=flags.precision, recompute_activations=flags.recompute_activations)
