"""What the run stands on: data counts, warnings, laws, provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from logratio.progress import format_seconds
from logratio.report.counts import Total, groups, single_counts, totals
from logratio.report.digits import fixed, is_number, number, size
from logratio.report.markup import Html, element, join, prose
from logratio.report.sections.section import Section, definitions, details, table

LAWS = {
    "step_zero_loss": "Before the first update policy and reference are one model, so the loss is the one at "
    "log-ratio 0 (ln 2 for DPO).",
    "step_zero_rewards": "Before the first update every implicit reward is 0.",
    "packed_equals_apart": "A packed batch has the log-probabilities of its rows one by one, nats a token.",
    "sampled_equals_recomputed": "Log-probabilities recorded while sampling equal those that "
    "training computes.",
    "end_token_carries_loss": "Every finished answer ends in one end token, and it is trained on.",
    "accumulation_equals_batch": "The parts that were accumulated add up to the batch's loss.",
    "exact_kl_not_negative": "An exact KL divergence is never negative.",
    "reference_unchanged": "The reference is the same after training as before.",
}
NAMES = {
    "num_rows": "rows read",
    "num_usable": "usable pairs",
    "num_pairs": "pairs",
    "pairs_considered": "pairs considered",
    "held_out": "held out",
    "num_prompts": "prompts",
    "num_answers": "answers",
    "identical": "of identical answers",
    "empty": "with an empty answer",
}


def data_section(report: Mapping[str, Any]) -> Section | None:
    """Data counts as sums, then the single counts."""
    data = report.get("data") or {}
    sums = totals(data)
    lines = [element("p", *_sum(group, total), class_="sum") for group, total in sums]
    in_sums = {
        (group, name) for group, total in sums for name in (total.name, *(part for part, _ in total.parts))
    }
    rest = [
        (f"{group}: {_name(name)}" if group else _name(name), _count(value))
        for group, counts in groups(data)
        for name, value in single_counts(counts)
        if (group, name) not in in_sums
    ]
    if not lines and not rest:
        return None
    return Section(
        anchor="data",
        title="Data",
        lede="Nothing is dropped silently: what was read is what was used and what was set aside, by reason.",
        body=join([*lines, definitions(rest, class_="facts") if rest else None]),
    )


def _sum(group: str, total: Total) -> Iterator[object]:
    if group:
        yield element("span", f"{_name(group)}: ", class_="group")
    yield element("b", number(total.value))
    yield f" {_name(total.name)} = "
    for place, (name, count) in enumerate(total.parts):
        yield " + " if place else ""
        yield element("b", number(count))
        yield f" {_name(name)}"
    if not total.adds_up:
        parts = sum(count for _, count in total.parts)
        yield element("strong", f" does not add up: the parts give {number(parts)}", class_="wrong")


def _name(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _count(value: float) -> str:
    return number(int(value)) if value == int(value) else number(value)


def warnings_section(report: Mapping[str, Any]) -> Section:
    """Warnings with what they mean and what to do, then every check with its threshold."""
    raised = [_warning(warning) for warning in report.get("warnings") or []]
    none = element("p", "None of the checks below raised a warning.", class_="calm")
    checks = report.get("checks") or []
    rows = [
        [check["name"], number(check["value"]), check["threshold"], "raised" if check["raised"] else "quiet"]
        for check in checks
    ]
    listing = (
        details(
            f"All {len(rows)} checks and their thresholds",
            table(["Check", "Measured", "Raised when", ""], rows, caption="Checks", class_="small"),
        )
        if rows
        else None
    )
    title = f"Warnings ({len(raised)})" if raised else "Warnings"
    return Section(anchor="warnings", title=title, body=join([*(raised or [none]), listing]))


def _warning(warning: Mapping[str, Any]) -> Html:
    severity = str(warning.get("severity", "warning"))
    lines = [
        element("p", element("b", label), " ", prose(str(warning[key])))
        for key, label in (("meaning", "What it means."), ("action", "What to do."))
        if warning.get(key)
    ]
    return element(
        "div",
        element("h3", warning.get("name", "Warning"), " ", element("small", severity)),
        element("p", prose(str(warning.get("what", ""))), class_="what"),
        *lines,
        class_=f"warning {severity}",
    )


def laws_section(report: Mapping[str, Any]) -> Section | None:
    """The laws that were checked and held."""
    rows = [
        [
            stage,
            join(
                [element("code", law.get("name", "")), element("small", LAWS.get(str(law.get("name")), ""))]
            ),
            number(law.get("value"), digits=4),
            number(law.get("limit"), digits=4),
            number(law.get("step")),
        ]
        for stage, law in _laws(report)
    ]
    if not rows:
        return None
    return Section(
        anchor="laws",
        title="Laws checked",
        lede="What must hold whatever the data. A run stops where one does not, so these held; "
        "the last check of "
        "each is shown.",
        body=table(
            ["Stage", "Law", "Measured", "Held against", "Update"], rows, caption="Laws", class_="laws"
        ),
    )


def _laws(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for stage, training in (report.get("training") or {}).items():
        for law in (training.get("laws") or []) if isinstance(training, Mapping) else ():
            yield stage, law
    for law in report.get("laws") or []:
        if isinstance(law, Mapping):
            yield "run", law


def provenance_section(report: Mapping[str, Any]) -> Section:
    """Versions, settings, seeds, hashes, machine, time and memory."""
    provenance = report.get("provenance") or {}
    facts = [
        (_name(name).replace(".", " "), _plain(value))
        for name, value in flatten(without(provenance, "settings"))
    ]
    training = {k: v for k, v in (report.get("training") or {}).items() if isinstance(v, Mapping)}
    stages = [
        [
            name,
            number(one.get("updates")),
            number(one.get("examples")),
            _time(one),
            size(one.get("peak_memory_bytes")),
        ]
        for name, one in training.items()
    ]
    settings = [
        ("run", provenance.get("settings") or {}),
        *((n, t.get("settings") or {}) for n, t in training.items()),
    ]
    parts = [
        definitions(facts, class_="facts wide"),
        table(
            ["Stage", "Updates", "Examples", "Wall time", "Peak memory"], stages, caption="Cost of each stage"
        )
        if stages
        else None,
        *(_settings(name, value) for name, value in settings if value),
    ]
    return Section(anchor="provenance", title="Provenance", body=join(parts))


def _time(training: Mapping[str, Any]) -> str:
    seconds = training.get("seconds")
    return format_seconds(seconds) if seconds is not None and is_number(seconds) else "–"


def _settings(name: str, value: Mapping[str, Any]) -> Html:
    rows = [[path, _plain(one)] for path, one in flatten(value)]
    return details(
        join(["Settings, seeds and hashes: ", element("code", name)]),
        table(["Setting", "Value"], rows, caption=f"Settings of {name}", class_="small"),
    )


def without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The mapping without some names."""
    return {name: item for name, item in value.items() if name not in names}


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings with the names that lead to it: `model.hash`."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _measure(name: str, value: Any) -> str:
    """A value with its unit, where its name says one."""
    if is_number(value) and "seconds" in name:
        return format_seconds(value)
    return size(value) if is_number(value) and name.endswith("bytes") else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return fixed(value, 0) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value)
