"""What axe-core says of a page."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def axe_script() -> str:
    """axe-core itself, as it comes in a package."""
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def assert_accessible(page: Any) -> set[str]:
    """No serious fault on a page in which `axe_script` was run; returns the rules that were passed."""
    found = page.evaluate("axe.run(document, {resultTypes: ['violations', 'passes']})")
    serious = [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary']}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert serious == []
    return {rule["id"] for rule in found["passes"]}
