"""On which device and in which precision a language model is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logratio.kernels.precision import Precision

if TYPE_CHECKING:
    from logratio.policies.language import LanguagePolicy
    from logratio.policies.reward_scorer import RewardModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """Device, precision, and time against memory."""

    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    precision: Precision = "fp32"
    """Of matrix products. bf16 computes them from bfloat16 copies, for processors that have such products;
    the weights, their updates and all log-probabilities stay float32."""
    recompute_activations: bool = False
    """Activation checkpointing: compute a layer's activations a second time in the backward pass rather than
    keep them. A quarter more time, and memory that hardly grows with --row-tokens. Not for every
    architecture."""
    threads: int | None = None
    """CPU threads; a resumed run is bit-identical only with the same number."""

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run it goes on with; null for fp32, as in runs of old."""
        return {"precision": None if self.precision == "fp32" else self.precision}

    def set_threads(self) -> None:
        """Give PyTorch so many CPU threads; without a number it keeps its own."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def apply(self, model: LanguagePolicy | RewardModel) -> None:
        """Have a policy or a reward model compute so.

        Raises:
            BadConfig: activations are to be computed again, and this architecture's cannot be.
        """
        model.set_compute(precision=self.precision, recompute_activations=self.recompute_activations)
