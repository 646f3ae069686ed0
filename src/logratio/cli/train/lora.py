"""The flags of an adapter that is trained in the place of the weights, and what they do to a loaded model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logratio.training.config import bad_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFlags:
    """What is trained: the weights themselves, or a LoRA adapter on them."""

    lora_rank: int = 0
    """Train a LoRA adapter of this rank and leave the weights as they are: little memory, and a reference
    that costs none. It wants about ten times the learning rate. 0 trains the weights."""
    lora_alpha: int = 32
    """Scale of the adapter: what it adds counts alpha/rank."""

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise bad_setting("lora_rank", self.lora_rank, "0 or more")
        if self.lora_alpha < 1:
            raise bad_setting("lora_alpha", self.lora_alpha, "1 or more")
        if self.lora_rank:
            from logratio.models.lora import require_peft

            require_peft(where="--lora-rank")

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the run it goes on with."""
        return {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha if self.lora_rank else None}


def attach_lora(model: Any, flags: LoraFlags, *, source: str, seed: int, name: str = "policy") -> None:
    """Lay the adapter that the flags ask for on a loaded model, in place; nothing where they ask for none.

    Args:
        model: a transformers model as `loading.load` or `reward_model.load_for_training` opened it.
        flags: its rank and scale.
        source: what the model was opened from; the saved adapter names it as its base.
        seed: of the adapter's first weights, which a resumed run must draw again.
        name: `policy`, or `critic` for a second adapter on the same model.

    Raises:
        MissingExtra: peft is not installed.
        BadConfig: peft cannot adapt this architecture.
    """
    if not flags.lora_rank:
        return
    from logratio.models.lora import adapter_parameters, add_adapter, unadapted_weights

    base = base_name(source)
    add_adapter(model, name, rank=flags.lora_rank, alpha=flags.lora_alpha, seed=seed, base=base)
    trained = sum(weight.numel() for weight in adapter_parameters(model, name))
    every = sum(weight.numel() for weight in model.parameters())
    print(f"adapter {name}: {trained:,} weights of {every:,} are trained", file=sys.stderr)
    if without := unadapted_weights(model):
        what = f"{sum(without.values()):,} weights are no linear layers and have no adapter"
        print(f"adapter {name}: {what}: {', '.join(without)}", file=sys.stderr)


def base_name(source: str) -> str:
    """How an adapter names its base so that other tools find it: a hub id, or the directory in full."""
    from logratio.models.sources import local_directory

    return str(local_directory(source).resolve()) if Path(source).expanduser().exists() else source
