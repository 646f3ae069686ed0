"""What is done after the last update: the model is put where any tool finds it."""

from __future__ import annotations

import json
from typing import Any

import torch

from logratio.legacy_names import INVARIANTS
from logratio.models.loading import save, weights_fingerprint
from logratio.models.lora import adapter_names, merge_adapter
from logratio.models.lora_files import save_adapter
from logratio.run_directory import RunDirectory, write_json
from logratio.training import invariants

PROBE_TOKENS = 64
"""Tokens on which a folded model is compared with what it was before."""


def save_trained(model: Any, tokenizer: Any, run: RunDirectory) -> None:
    """Write a run's `model/`, a plain directory; where an adapter was trained, its `adapter/` as well.

    The adapter is folded into the model in place, so that no second copy of the weights is needed: what was
    its base, and with it a reference that was the model with the adapter off, is gone afterwards.

    Raises:
        InvariantViolated: the folded model does not compute what the model with its adapter did.
        DiskFull, NotWritable: what stood there before is intact.
    """
    if adapter_names(model):
        save_adapter(model, run.adapter_path, base_fingerprint=weights_fingerprint(model, trainable=False))
        record_invariant(run, merge_and_check(model))
    save(model, tokenizer, run.model_path)


@torch.no_grad()
def merge_and_check(model: Any) -> invariants.InvariantResult:
    """Fold the policy's adapter into the weights, and hold the result against what it was before."""
    tokens = torch.arange(min(PROBE_TOKENS, model.get_input_embeddings().num_embeddings), device=model.device)
    before = model(input_ids=tokens[None]).logits
    merge_adapter(model)
    return invariants.check_merged_equals_adapter(before, model(input_ids=tokens[None]).logits)


def record_invariant(run: RunDirectory, invariant: invariants.InvariantResult) -> None:
    """Put an invariant that held beside those that held while training."""
    path = run.path / INVARIANTS
    known = json.loads(path.read_text()) if path.exists() else []
    write_json(
        path, [*(entry for entry in known if entry["name"] != invariant.invariant), invariant.to_json()]
    )
