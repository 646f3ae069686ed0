"""LoRA adapters in a transformers model: added in place, switched on and off, folded in.

An adapter adds `(α/r)·B·A` to the weights of every linear layer of the model's body, with A `[r, in]` and
B `[out, r]` (Hu et al., 2021, arXiv:2106.09685); A and B are trained and nothing else. The model keeps its
class, so that whatever computes with it goes on as before. Several adapters lie on one base side by side, and
with none of them in use the model is the base, bit for bit: that is the reference, at no cost of memory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from logratio.errors import BadConfig, MissingExtra

BASE, POLICY, CRITIC = "base", "policy", "critic"
"""Names to compute by: none of the adapters, the policy's, the critic's."""
LOW_RANK, WRAPPED = ".lora_", ".base_layer."
"""What peft puts into the names of an adapter's weights, and into those of the weights under it."""


def require_peft(*, where: str) -> None:
    """Raise `MissingExtra` where peft is not installed; it is looked up and not imported."""
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra(
            "adapters need the package peft", where=where, action="pip install 'logratio[peft]'"
        )


def add_adapter(
    model: Any, name: str = POLICY, *, rank: int, alpha: int, seed: int, base: str | None = None
) -> None:
    """Lay a new adapter on every linear layer of the model's body, in place, and freeze the base.

    A is drawn uniformly from ±1/√in and B is 0, so that the model computes what it did before, bit for bit.
    The draw is a function of the seed and the names of adapter and layer, and leaves the global generator
    alone. There is no dropout. The first adapter of a model is in use from here on; a further one changes
    nothing until `use_adapter` makes use of it.

    Args:
        model: a transformers model; its head is left as it is, and is frozen too.
        name: what the adapter is called.
        rank: r.
        alpha: α.
        seed: of the draw.
        base: the base's directory or hub id, as the saved adapter will name it.

    Raises:
        MissingExtra: peft is not installed.
        BadConfig: peft cannot adapt this architecture.
    """
    require_peft(where=f"adapter {name}")
    import peft

    before = active_adapter(model) if adapter_names(model) else name
    config = peft.LoraConfig(
        task_type="CAUSAL_LM" if model.get_output_embeddings() is not None else "SEQ_CLS",
        base_model_name_or_path=base,
        r=rank,
        lora_alpha=alpha,
        target_modules=linear_layers(model),
        fan_in_fan_out=any(is_transposed(module) for module in model.modules()),
    )
    # peft draws numbers of its own and warns of a second adapter, which is what is wanted here.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        try:
            peft.inject_adapter_in_model(config, model, name)
        except ValueError as error:
            raise BadConfig(
                f"peft cannot adapt a {type(model).__name__}: {str(error).splitlines()[0][:200]}",
                where=f"adapter {name}",
                action="train the weights themselves, without an adapter",
            ) from error
    layers = _layers(model)
    for place, layer in layers.items():
        _init_lora(layer, name, seed=f"{seed}:{name}:{place}")
    _switch(layers, before)


def linear_layers(model: Any) -> list[str]:
    """The names of the linear layers of a model's body, without its head."""
    adapted = _layers(model)
    if adapted:
        return list(adapted)
    body = {id(module) for module in model.base_model.modules()} - {id(model.get_output_embeddings())}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in body and (isinstance(module, nn.Linear) or is_transposed(module))
    ]


def unadapted_weights(model: Any) -> dict[str, int]:
    """Weights of the body that multiply and on which no adapter lies: how many, by what they are called.

    Experts that are one parameter of three dimensions and their routers are no linear layers.
    """
    known = {
        id(weight)
        for layer in _layers(model).values()
        for weight in (layer.get_base_layer().weight, *layer.parameters())
    }
    embeddings = [one for one in model.base_model.modules() if isinstance(one, nn.Embedding)]
    known |= {id(weight) for one in embeddings for weight in one.parameters()}
    found: dict[str, int] = {}
    for name, weight in model.base_model.named_parameters():
        if weight.ndim > 1 and id(weight) not in known:
            # `layers.3.mlp.gate.weight` is one of its kind in every layer.
            kind = re.split(r"(?:^|\.)\d+\.", name)[-1]
            found[kind] = found.get(kind, 0) + weight.numel()
    return dict(sorted(found.items()))


def is_transposed(module: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2, whose weight is `[inputs, outputs]`."""
    # Here, since transformers takes over a second to import and control has no need of it.
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def adapter_names(model: Any) -> tuple[str, ...]:
    """The adapters that lie on a model; none where it is plain."""
    return tuple(getattr(model, "peft_config", {}))


def adapter_parameters(model: Any, name: str) -> list[nn.Parameter]:
    """The weights of one adapter, those that training moves."""
    return [parameter for place, parameter in model.named_parameters() if _belongs(place, name)]


def active_adapter(model: Any) -> str:
    """The adapter in use, or `base`."""
    return _active_name(_layers(model))


@contextmanager
def use_adapter(model: Any, name: str) -> Iterator[None]:
    """Compute with the adapter `name`, or with `base` alone; on leaving, with what was in use before.

    Gradients are not touched by this: what was computed before, in here or afterwards may be differentiated
    at any time, in one sum, and every adapter's weights have their part.

    Raises:
        ValueError: the model has no such adapter.
    """
    if name not in (BASE, *adapter_names(model)):
        raise ValueError(f"the model has no adapter {name!r}, only {adapter_names(model)}")
    layers = _layers(model)
    before = _active_name(layers)
    if name == before:
        yield
        return
    _switch(layers, name)
    try:
        yield
    finally:
        _switch(layers, before)


def merge_adapter(model: Any, name: str = POLICY) -> Any:
    """Fold an adapter into the weights, in place, and drop the others; returns the model, plain again.

    `W ← W + (α/r)·B·A`. Afterwards every weight can be trained, and the base is no more.

    Raises:
        ValueError: the model has no such adapter, or a folded weight is not finite.
    """
    if name not in adapter_names(model):
        raise ValueError(f"the model has no adapter {name!r}, only {adapter_names(model)}")
    for place, layer in _layers(model).items():
        layer.merge(safe_merge=True, adapter_names=[name])
        model.set_submodule(place, layer.get_base_layer())
    del model.peft_config
    return model.requires_grad_(True)


def _layers(model: Any) -> dict[str, Any]:
    """The layers that have adapters, by name, in the model's order."""
    if not adapter_names(model):
        return {}
    from peft.tuners.lora import LoraLayer

    found: dict[str, Any] = {}
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if isinstance(module, LoraLayer):
            # What is inside is many modules and no further layer.
            found[name] = module
        else:
            waiting += [(f"{name}.{child}", one) for child, one in reversed([*module.named_children()])]
    return {name.removeprefix("."): layer for name, layer in found.items()}


def _active_name(layers: Mapping[str, Any]) -> str:
    """What all layers compute with: they are switched together."""
    for layer in layers.values():
        return BASE if layer.disable_adapters else layer.active_adapters[0]
    return BASE


def _switch(layers: Mapping[str, Any], name: str) -> None:
    """Put one adapter to use in every layer, or none.

    peft's own functions freeze what is not in use, and autograd drops the gradient of a weight that is frozen
    at the time of the backward pass, whatever it was in the forward pass. They also take longer than a small
    model's forward pass. So the two attributes that they set are set here, and read back as peft reads them.
    """
    for layer in layers.values():
        layer._disable_adapters = name == BASE
        if name != BASE:
            layer._active_adapter = [name]
        if layer.disable_adapters != (name == BASE) or (name != BASE and layer.active_adapters != [name]):
            raise MissingExtra(
                "this version of peft switches adapters in a way that is not known here",
                where=f"adapter {name}",
                action="pip install 'logratio[peft]' with a version of peft from constraints.txt",
            )


def _belongs(place: str, name: str) -> bool:
    return LOW_RANK in place and f".{name}." in place.rpartition(LOW_RANK)[2]


@torch.no_grad()
def _init_lora(layer: Any, name: str, *, seed: str) -> None:
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    bound = down.shape[1] ** -0.5
    down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
    up.zero_()
