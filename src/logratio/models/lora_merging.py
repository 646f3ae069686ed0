"""An adapter in peft's format, folded into the model that it lies on: afterwards the model is plain again.

peft folds in place. Where input and output embeddings are one weight and an adapter lies on one of the two,
that would change both, which is not what the adapter computes: here every module has its own weight before
anything is folded, and the model is saved with two weights where they then differ. What comes out is held
against what peft computed before, so that an adapter that cannot be folded is refused and never wrong.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from logratio.errors import BadConfig, ModelNotFound
from logratio.models.lora import POLICY
from logratio.models.lora_files import CONFIG, PREFIX, WEIGHTS, AdapterSource, base_weight_name

PROBED = 16
"""Tokens on which the folded model is compared with the model under its adapter."""
LIMIT, HALF_LIMIT = 1e-3, 0.5
"""Nats by which log-probabilities may differ in the mean, of weights in float32 or wider and in fewer."""


def merge_adapter_source(model: Any, source: AdapterSource) -> tuple[Any, tuple[str, ...]]:
    """Fold an adapter that was read into its base, in place.

    Embeddings that the adapter brings along may have more rows than the base's, which then has as many.

    Returns:
        The model, plain again, and what is to be said of what the adapter names and the base does not have.

    Raises:
        ModelNotFound: its weights do not fit the base, are not whole or not finite.
        BadConfig: peft cannot fold it, or what is folded does not compute what the adapter did.
    """
    # peft warns of tied weights, which are seen to here, and draws numbers, which are written over.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tied = embeddings_are_tied(model)
        rows = _rows(model)
        tuner = _attach(model, source)
        # Dropout that came with the adapter computes nothing here.
        model.eval()
        notes = (*_unknown_settings(source), *_unmatched_targets(tuner))
        before = _logprobs(model)
        if _wraps_embeddings(model) or tuner.peft_config[POLICY].layer_replication:
            untie_weights(model)
        merged = _merge(tuner, source)
    if tied:
        restore_tie(merged)
    _check_rows(merged, rows, source)
    limit = HALF_LIMIT if merged.dtype.itemsize < 4 else LIMIT
    _check_numbers(before, _logprobs(merged), limit, source)
    return merged.requires_grad_(True).eval(), notes


def embeddings_are_tied(model: Any) -> bool:
    """Whether input and output embeddings are one weight."""
    head = model.get_output_embeddings()
    return head is not None and model.get_input_embeddings().weight is head.weight


def untie_weights(model: nn.Module) -> None:
    """Give every module that shares a weight with one before it a copy of its own, in place."""
    seen: set[int] = set()
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            if id(weight) in seen:
                copied = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
                module._parameters[name] = copied
            seen.add(id(weight))


def restore_tie(model: Any) -> None:
    """Tie embeddings that were tied, where they are equal; else have the model say that they are two."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    equal = torch.equal(embeddings.weight, head.weight)
    if equal:
        head.weight = embeddings.weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = equal
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _attach(model: Any, source: AdapterSource) -> Any:
    """The model as peft computes it, with the adapter's weights in it."""
    import peft

    try:
        settings = peft.PeftConfig.from_pretrained(str(source.directory))
        settings.inference_mode = True
        held = load_file(source.directory / WEIGHTS)
        tensors = _without_repeats({name.removeprefix(PREFIX): value for name, value in held.items()})
        _ensure_finite(tensors)
        _widen(model, tensors)
        tied = embeddings_are_tied(model)
        tuner = peft.LoraModel(model, settings, POLICY)
        if tied and not _wraps_embeddings(model):
            _ensure_equal(_embedding_weights(model, tensors))
        found = peft.set_peft_model_state_dict(model, tensors, adapter_name=POLICY)
        # Of the base's own weights none are in the file.
        missing = [key for key in found.missing_keys if f".{POLICY}" in key]
        placeless = [name for name in found.unexpected_keys if not _is_followed(model, name)]
        strange = [*placeless, *_without_others(model, missing)]
        if strange:
            raise ValueError(f"{len(strange)} weights are missing or have no place, {strange[0]} among them")
    except Exception as error:  # peft raises whatever a file makes it raise
        raise ModelNotFound(
            f"the adapter cannot be laid on its base: {_first_line(error)}",
            where=str(source.directory),
            action=f"its files must be whole, and {source.base} the model that it was trained on",
        ) from error
    return tuner


def _without_repeats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without what peft writes again under its own names where a vocabulary was extended."""
    kept = {}
    for name, value in tensors.items():
        short = name.replace(".modules_to_save.", ".").replace(".original_module.", ".")
        if short == name or short not in tensors:
            kept[name] = value
    return kept


def _ensure_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} is not finite")


def _without_others(model: nn.Module, missing: Collection[str]) -> list[str]:
    """Names of weights that no other name stands for: what tied adapters share is in a file once."""
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    known = {name for group in names.values() if not set(group) <= set(missing) for name in group}
    return [name for name in missing if name not in known]


def _is_followed(model: Any, name: str) -> bool:
    """Whether a weight is of a head's new tokens, which are those of the embeddings that it is tied to."""
    place, _, kind = name.rpartition(".")
    return kind == "trainable_tokens_delta" and bool(model.get_submodule(place).tied_adapter)


def _merge(tuner: Any, source: AdapterSource) -> Any:
    try:
        return tuner.merge_and_unload(safe_merge=True)
    except Exception as error:  # each kind of layer refuses in its own way
        raise BadConfig(
            f"peft cannot fold this adapter into its base: {_first_line(error)}",
            where=str(source.directory),
            action="it computes in peft alone; train one without the setting that is named",
        ) from error


def _wraps_embeddings(model: Any) -> bool:
    """Whether peft has put something around the input or the output embeddings."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return any(type(module).__module__.startswith("peft.") for module in both)


# --- vocabularies that were extended ------------------------------------------------------------------


def _embedding_names(model: Any) -> list[str]:
    """What input and output embeddings are called."""
    both = {id(one) for one in (model.get_input_embeddings(), model.get_output_embeddings())}
    return [name for name, module in model.named_modules() if id(module) in both]


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _embedding_weights(model: Any, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Whole input and output embeddings that an adapter brings."""
    brought = {base_weight_name(name): value for name, value in tensors.items()}
    return [brought[name] for one in _embedding_names(model) if (name := f"{one}.weight") in brought]


def _ensure_equal(brought: Sequence[Tensor]) -> None:
    """Raise where an adapter brings two embeddings for a base that has one weight for both."""
    if len(brought) > 1 and not torch.equal(*brought):
        raise ValueError("it brings embeddings and a head that differ, and its base has one weight for both")


def _widen(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Give the base as many rows as the embeddings that an adapter brings; new rows are to be overwritten."""
    found = _embedding_weights(model, tensors)
    before = _rows(model)
    if not found or found[0].shape[0] == before:
        return
    model.resize_token_embeddings(found[0].shape[0], mean_resizing=False)
    with torch.no_grad():
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            for weight in module._parameters.values():
                if weight is not None:
                    weight[before:] = torch.nan


def _check_rows(model: Any, before: int, source: AdapterSource) -> None:
    """Raise where a row of the embeddings was in no file."""
    for name in _embedding_names(model):
        for weight in model.get_submodule(name)._parameters.values():
            if weight is not None and not weight[before:].isfinite().all():
                raise ModelNotFound(
                    f"the adapter was trained on a base of {_rows(model)} tokens, and its files hold nothing "
                    f"for the rows of {name} from {before} on",
                    where=str(source.directory),
                    action="save it again with save_embedding_layers=True, or widen the base as it was",
                )


# --- what is held against what ------------------------------------------------------------------------


@torch.no_grad()
def _logprobs(model: Any) -> Tensor:
    """`[T, V]` of a few tokens from all over the vocabulary, at the model's first positions."""
    last = _rows(model) - 1
    tokens = torch.linspace(0, last, min(PROBED, last + 1)).long()
    return model(input_ids=tokens[None]).logits[0].float().log_softmax(-1)


def _check_numbers(before: Tensor, after: Tensor, limit: float, source: AdapterSource) -> None:
    """Raise where the folded model does not compute what peft did."""
    difference = float((after - before).abs().mean())
    if not difference <= limit:
        raise BadConfig(
            f"folded into its base the adapter computes something else than in peft: log-probabilities are "
            f"off by {difference:.3g} nats in the mean",
            where=str(source.directory),
            action="merge it with the tool that made it, and give the merged model",
        )


# --- what was asked for and is not there --------------------------------------------------------------


def _unknown_settings(source: AdapterSource) -> list[str]:
    """Settings of the adapter that this version of peft does not read."""
    import peft

    given = json.loads((source.directory / CONFIG).read_text(encoding="utf-8"))
    known = {field.name for field in fields(peft.LoraConfig)}
    strange = sorted(name for name, value in given.items() if value and name not in {*known, "peft_version"})
    return [f"peft does not know these settings of the adapter: {', '.join(strange)}"] if strange else []


def _unmatched_targets(tuner: Any) -> list[str]:
    """Modules and parameters that the adapter was asked to lie on, and that its base does not have."""
    settings = tuner.peft_config[POLICY]
    parameters = [name for name, _ in tuner.model.named_parameters()]
    modules = [name.replace(".base_layer", "") for name, _ in tuner.model.named_modules()]
    wanted = {
        "target_modules": (settings.target_modules, modules),
        "modules_to_save": (settings.modules_to_save, modules),
        "target_parameters": (settings.target_parameters, [base_weight_name(name) for name in parameters]),
    }
    notes = []
    for setting, (names, there) in wanted.items():
        lacking = (
            [] if isinstance(names, str) else [name for name in names or () if not _is_named(name, there)]
        )
        if lacking:
            notes.append(
                f"the adapter's {setting} name what its base does not have: {', '.join(sorted(lacking))}"
            )
    return notes


def _is_named(name: str, places: Collection[str]) -> bool:
    return any(place == name or place.endswith(f".{name}") for place in places)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
