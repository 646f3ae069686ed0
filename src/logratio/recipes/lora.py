"""What of a model is trained: the weights themselves, or a LoRA adapter on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from logratio.progress import say
from logratio.training.config import bad_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA:
    """Low-rank adapters, `W + (alpha / rank) B A` (arXiv 2106.09685, equation 3), trained instead of W.

    Raises:
        BadConfig: the rank is negative, or alpha below 1.
        MissingExtra: the rank is above 0 and peft is not installed.
    """

    rank: Annotated[int, tyro.conf.arg(name="lora-rank")] = 0
    """Train a LoRA adapter of this rank and leave the weights as they are: little memory, and a reference
    that costs none. It wants about ten times the learning rate. 0 trains the weights."""
    alpha: Annotated[int, tyro.conf.arg(name="lora-alpha")] = 32
    """Scale of the adapter: what it adds counts alpha/rank."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise bad_setting("lora_rank", self.rank, "0 or more")
        if self.alpha < 1:
            raise bad_setting("lora_alpha", self.alpha, "1 or more")
        if self.rank:
            from logratio.models.lora import require_peft

            require_peft(where="--lora-rank")

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run it goes on with."""
        return {"lora_rank": self.rank, "lora_alpha": self.alpha if self.rank else None}

    def attach(self, model: Any, *, source: str, seed: int, name: str = "policy") -> None:
        """Add the adapter to a loaded model, in place; nothing where the rank is 0.

        Args:
            model: a transformers model as `models.loading.load` or `models.reward_model.load_for_training`
                opened it.
            source: what the model was opened from; the saved adapter names it as its base.
            seed: of the adapter's first weights, which a resumed run must draw again.
            name: `policy`, or `critic` for a second adapter on the same model.

        Raises:
            BadConfig: peft cannot adapt this architecture.
        """
        if not self.rank:
            return
        from logratio.models.lora import adapter_parameters, add_adapter, unadapted_weights

        add_adapter(model, name, rank=self.rank, alpha=self.alpha, seed=seed, base=base_name(source))
        trained = sum(weight.numel() for weight in adapter_parameters(model, name))
        every = sum(weight.numel() for weight in model.parameters())
        say(f"adapter {name}: {trained:,} weights of {every:,} are trained")
        if without := unadapted_weights(model):
            what = f"{sum(without.values()):,} weights are no linear layers and have no adapter"
            say(f"adapter {name}: {what}: {', '.join(without)}")


def base_name(source: str) -> str:
    """How an adapter names its base so that other tools find it: a hub id, or the directory in full."""
    from logratio.models.sources import local_directory

    return str(local_directory(source).resolve()) if Path(source).expanduser().exists() else source
