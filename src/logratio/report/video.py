"""The film of a run inside its page: read into it, so that the page stays one file that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST = 8_000_000
"""Bytes of a film that goes into the page; a larger one is only linked."""
TYPE = "video/mp4"


def with_film(report: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The report with its film as a data URI under `film.data`, where there is one and it is not too large.

    Args:
        report: what `collect` gave; not changed, since `report.json` keeps the file's name alone.
        path: the run directory.
    """
    film = report.get("film")
    if not isinstance(film, Mapping) or not isinstance(film.get("file"), str):
        return dict(report)
    # By its name alone: a report cannot make the page read what lies elsewhere.
    file = path / Path(film["file"]).name
    if not file.is_file():
        return {name: value for name, value in report.items() if name != "film"}
    if file.stat().st_size > LARGEST:
        return dict(report)
    data = f"data:{TYPE};base64,{base64.b64encode(file.read_bytes()).decode()}"
    return {**report, "film": {**film, "data": data}}
