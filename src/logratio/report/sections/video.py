"""An episode of the trained policy, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from logratio.report.formatting import number
from logratio.report.html import Html, element


def film_figure(report: Mapping[str, Any]) -> Html | None:
    """The film with what is seen in it; `None` where there is none."""
    film = report.get("film")
    if not isinstance(film, Mapping) or not isinstance(film.get("file"), str):
        return None
    file = PurePosixPath(film["file"]).name
    caption = element(
        "figcaption",
        element("strong", "An episode"),
        element("small", _note(report, film), " ", element("a", file, href=file)),
    )
    shown = film.get("data")
    player = (
        element("video", src=shown, controls="", loop="", muted="", playsinline="", aria_label="An episode")
        if isinstance(shown, str)
        else element("p", element("a", "Too large for this page: open the file", href=file))
    )
    return element("figure", caption, player, class_="film")


def _note(report: Mapping[str, Any], film: Mapping[str, Any]) -> str:
    several = bool((report.get("evaluation") or {}).get("seeds"))
    who = f"The policy of the best run, seed {number(film.get('seed'))}" if several else "The trained policy"
    cut = "" if film.get("whole", True) else ", cut off there"
    return (
        f"{who}, by its most probable actions, in the first episode that judged it: return "
        f"{number(film.get('return'), digits=4)} in {number(film.get('steps'))} steps{cut}."
    )
