"""The invariants that were checked while training, and held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from logratio.report.control_runs import is_control, runs_of, stage_of
from logratio.report.formatting import is_number, number
from logratio.report.html import element, join
from logratio.report.sections.section import Section, table

INVARIANTS = {
    "step_zero_loss": "Before the first update policy and reference are one model, so the loss is the one at "
    "log-ratio 0 (ln 2 for DPO).",
    "step_zero_rewards": "Before the first update every implicit reward is 0.",
    "packed_equals_unpacked": "A packed batch has the log-probabilities of single rows, nats per token.",
    "sampled_equals_recomputed": "Log-probabilities recorded while sampling equal those that "
    "training computes.",
    "end_token_carries_loss": "Every finished answer ends in one end token, and it is trained on.",
    "accumulation_equals_batch": "The parts that were accumulated add up to the batch's loss.",
    "precision_suffices": "Rounding moves a token's log-probability by less than an update may.",
    "ratio_is_one": "On the first minibatch of an update every ratio to the policy that sampled is 1.",
    "update_kl_is_zero": "On the first minibatch of an update the KL divergence to that policy is 0.",
    "nothing_is_clipped": "On the first minibatch of an update the clip stops nothing.",
    "every_row_is_counted": "The parts of a minibatch hold each of its rows once.",
    "reference_kl_is_zero": "Before the first update the KL divergence to the reference is 0.",
    "exact_kl_not_negative": "An exact KL divergence is never negative.",
    "merged_equals_adapter": "With the adapter folded in, the logits are those with it beside the weights.",
    "reference_unchanged": "The reference is the same after training as before.",
}


def invariants_section(report: Mapping[str, Any]) -> Section | None:
    """The invariants that were checked and held."""
    rows = [
        [
            stage,
            join(
                [
                    element("code", invariant.get("name", "")),
                    element("small", INVARIANTS.get(str(invariant.get("name")), "")),
                ]
            ),
            number(invariant.get("value"), digits=4),
            number(invariant.get("limit"), digits=4),
            number(invariant.get("step")),
        ]
        for stage, invariant in _invariants(report)
    ]
    if not rows:
        return None
    return Section(
        anchor="invariants",
        title="Invariants checked",
        lede="What must hold whatever the data. A run stops where one does not, so these held; "
        "the last check of "
        "each is shown.",
        body=table(
            ["Stage", "Invariant", "Measured", "Held against", "Update"],
            rows,
            caption="Invariants",
            class_="invariants",
        ),
    )


def _invariants(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if is_control(report):
        yield from _invariants_of_runs(report)
        return
    for stage, training in (report.get("training") or {}).items():
        for invariant in (training.get("invariants") or []) if isinstance(training, Mapping) else ():
            yield stage, invariant
    for invariant in report.get("invariants") or []:
        if isinstance(invariant, Mapping):
            yield "run", invariant


def _invariants_of_runs(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each invariant once, with the check of the run that came nearest to breaking it."""
    runs = runs_of(report)
    checks: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs.values():
        for invariant in run.get("invariants") or []:
            # There is no reference that could have changed.
            if invariant.get("name") != "reference_unchanged":
                checks.setdefault(str(invariant.get("name")), []).append(invariant)
    whose = f"all {len(runs)} runs" if len(runs) > 1 else "".join(map(stage_of, runs.values()))
    for invariants in checks.values():
        yield whose, min(invariants, key=_room)


def _room(invariant: Mapping[str, Any]) -> float:
    """How far a measurement lies from what it was held against."""
    value, limit = invariant.get("value"), invariant.get("limit")
    return abs(value - limit) if is_number(value) and is_number(limit) else 0.0
