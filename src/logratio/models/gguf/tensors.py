"""The tensors of a GGUF file: every one lands in a model, and every weight of the model comes from one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from math import prod
from typing import Any

from logratio.models.gguf.header import GGUFHeader, GGUFTensor
from logratio.models.gguf.rope import DIRECTORY, TABLES

FLOATS = ("F32", "F16", "BF16", "F64")
CONVERTED = "give a file in which this model was converted whole, or its transformers directory"


def check_kinds(header: GGUFHeader) -> tuple[str, ...]:
    """One sentence on how a quantised file is read; none for a file of floating-point numbers.

    Raises:
        ModelNotFound: a tensor is of a type that the package gguf cannot turn into floating point.
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, dequantize

    counts = Counter(tensor.kind for tensor in header.tensors.values())
    for kind in counts:
        number = GGMLQuantizationType[kind]
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[number][1]), dtype=np.uint8), number)
        except NotImplementedError:
            raise header.fault(
                f"{counts[kind]} tensors are of the type {kind}, which the package gguf does not read",
                action="give a file of another quantisation, such as Q8_0, or of F16",
            ) from None
    if set(counts) <= set(FLOATS):
        return ()
    known = {int(one): one.name.removeprefix("MOSTLY_") for one in LlamaFileType}
    name = known.get(header.metadata.get("general.file_type", -1))
    parts = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return (f"quantised ({f'{name}: ' if name else ''}tensors {parts}) and read as float32",)


def check_tensors(header: GGUFHeader, config: Any) -> None:
    """Hold names and sizes of the file's tensors against a model without weights.

    Raises:
        ModelNotFound: a tensor that the model does not take, a weight that no tensor gives, or sizes that
            do not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = _weights_of_tensors(header, config, model)
    if names is None:
        return
    weights = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    used = {name: tensor for name, tensor in header.tensors.items() if name not in TABLES}
    extra = [name for name in used if name not in names]
    if extra:
        raise header.fault(
            f"{len(extra)} tensors have no place in transformers' {type(model).__name__}: {_few(extra)}",
            action=CONVERTED,
        )
    sources = defaultdict(list)
    for name, tensor in used.items():
        sources[names[name]].append(tensor)
    tied = set(model._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    missing = [gguf for gguf, name in names.items() if name not in sources and name not in tied]
    if missing:
        raise header.fault(
            f"{len(missing)} tensors of the model are not in the file: {_few(missing)}", action=CONVERTED
        )
    _check_shapes(header, weights, sources)


def check_loaded(header: GGUFHeader, model: Any, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Hold what transformers loaded against the file; sentences on what was left out.

    Raises:
        ModelNotFound: weights that came from nowhere, or numbers of the file that are in no weight.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or unexpected:
        raise header.fault(
            f"{len(missing)} weights of the model are not in the file, {len(unexpected)} of the file are not "
            f"in the model: {_few([*missing, *unexpected])}",
            action=CONVERTED,
        )
    further = _further_layers(header)
    left_out = {tensor.name for tensor in further} | set(TABLES)
    in_file = sum(tensor.count for tensor in header.tensors.values() if tensor.name not in left_out)
    held = {weight.data_ptr(): weight.numel() for weight in model.state_dict().values()}
    if in_file != sum(held.values()):
        raise header.fault(
            f"its tensors hold {in_file:,} numbers and the model built of it {sum(held.values()):,}",
            action=DIRECTORY,
        )
    if not further:
        return ()
    return (f"{len(further)} tensors of layers that predict further tokens are not used",)


def _weights_of_tensors(header: GGUFHeader, config: Any, model: Any) -> dict[str, str] | None:
    """Which weight takes each tensor that the architecture can have; none where transformers tells later."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers.integrations.gguf import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    known = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    if is_gguf_arch_supported(header.architecture) or header.architecture not in known:
        return None
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())
    table = get_tensor_name_map(known[header.architecture], config.num_hidden_layers)
    names: dict[str, str] = {}
    for whole in model.state_dict():
        weight = processor.preprocess_name(whole)
        stem, dot, ending = weight.rpartition(".")
        stem, suffix = (stem, f".{ending}") if dot and ending in ("weight", "bias") else (weight, "")
        # Some architectures are listed by the names that they have inside their language model.
        inside = (stem, stem.partition(".")[2])
        found = next((name for name in map(table.get_name, inside) if name is not None), None)
        if found is None:
            processor.perform_fallback_tensor_mapping(names, suffix, "", weight)
        else:
            names[f"{found}{suffix}"] = weight
    return names


def _check_shapes(
    header: GGUFHeader, weights: Mapping[str, tuple[int, ...]], sources: Mapping[str, Collection[GGUFTensor]]
) -> None:
    for name, tensors in sources.items():
        wanted = weights.get(name)
        if wanted is None or prod(wanted) == sum(tensor.count for tensor in tensors):
            continue
        found = " and ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in tensors)
        raise header.fault(
            f"the file has {found}, and its metadata ask for {list(wanted)}", action="convert the model again"
        )


def _further_layers(header: GGUFHeader) -> list[GGUFTensor]:
    further = header.architecture_metadata().get("nextn_predict_layers", 0)
    first = header.architecture_metadata().get("block_count", 0) - further
    prefixes = tuple(f"blk.{layer}." for layer in range(first, first + further))
    return [tensor for name, tensor in header.tensors.items() if prefixes and name.startswith(prefixes)]


def _few(names: Iterable[str]) -> str:
    """The first three names of some."""
    every = list(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
