"""The limits of a model from its transformers configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from logratio.models.input_limits import ModelLimits

KNOWN_ROWS = "logratio_embedding_rows"
"""Key of a saved configuration: rows of embeddings that stand for tokens; those behind were added to pad."""


def limits_of_config(config: Any, *, embedding_rows: int | None = None) -> ModelLimits:
    """What a configuration says that its model can read.

    Learned positions end, and so do tables of angles that a model makes once; rotary positions go on behind
    what the configuration says. Rotary embeddings of the types `dynamic` and `longrope` have other numbers
    from the length on at which they stretch: a token's would depend on the row that it stands in, on what
    stands beside it, and on what was read before. For them the positions end there.

    Args:
        config: a transformers configuration.
        embedding_rows: of the model itself, where it is at hand.
    """
    text = config.get_text_config()
    rows = [getattr(config, KNOWN_ROWS, None), embedding_rows or getattr(text, "vocab_size", None)]
    ropes = list(_ropes(getattr(text, "rope_parameters", None)))
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    positions = positions if isinstance(positions, int) and positions > 0 else None
    stretched = [(end, kind) for rope in ropes for end, kind in _stretch(rope, positions)]
    known = [row for row in rows if isinstance(row, int)]
    if stretched and (positions is None or min(stretched)[0] <= positions):
        end, kind = min(stretched)
        return ModelLimits(
            embedding_rows=min(known, default=None),
            positions=end,
            positions_hard_limit=True,
            positions_reason=f"longer rows have other numbers by their length: rope type {kind}",
        )
    return ModelLimits(
        embedding_rows=min(known, default=None),
        positions=positions,
        positions_hard_limit=positions is not None and not ropes,
    )


def limits_of_model(model: Any) -> ModelLimits:
    """The same of a model that is loaded."""
    embeddings = model.get_input_embeddings()
    return limits_of_config(model.config, embedding_rows=int(embeddings.weight.shape[0]))


def _ropes(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of the model's rotary embeddings: one, or one for each kind of layer."""
    if not isinstance(parameters, Mapping) or not parameters:
        return
    if "rope_type" in parameters:
        yield parameters
        return
    for inner in parameters.values():
        yield from _ropes(inner)


def _stretch(rope: Mapping[str, Any], positions: int | None) -> Iterator[tuple[int, str]]:
    """Where a rotary embedding's numbers begin to depend on a row's length, and its type."""
    kind = str(rope.get("rope_type"))
    if kind == "longrope":
        if rope.get("short_factor") == rope.get("long_factor"):
            # One table for every length, as a GGUF file's may be carried.
            return
        end = rope.get("original_max_position_embeddings") or positions
    elif "dynamic" in kind:
        end = positions
    else:
        return
    if end is not None:
        yield int(end), kind
