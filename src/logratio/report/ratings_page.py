"""The page of `logratio rate`: strengths, differences, and who beat whom how often.

In the manner of the report of a run, and with its style sheet: one file, no script, nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logratio.progress import format_seconds
from logratio.report.charts.bars import cell_interval
from logratio.report.charts.ratings import MAX_ROWS, STYLE, strengths_chart
from logratio.report.formatting import fixed, interval, percent
from logratio.report.frame import document, footer, header
from logratio.report.html import Html, element, join, prose
from logratio.report.sections.cells import cell
from logratio.report.sections.section import Section, definitions, figure, table

MAX_MATRIX = 40
"""Models that the table of wins has room for."""
SHADES = 4
"""Classes of shading on either side of one half."""
PAGE_STYLE = Html(
    " .noted { margin-top: 16px; } .noted ul { margin: 6px 0; padding-left: 20px; max-width: 78ch; }"
    " .matrix table { width: auto; font-size: 14px; } .matrix th, .matrix td { padding: 7px 10px; }"
    " .matrix td { text-align: center; white-space: nowrap; } .matrix thead th { text-align: center; }"
    " .matrix thead th:first-child { text-align: left; }"
    " .matrix tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 15ch; font-weight: 400; }"
    " .matrix small { font-size: 11.5px; } .matrix .self, .matrix .unmet { color: var(--quiet); }"
    + "".join(
        f" .matrix td:has(> .{side}{shade})"
        f" {{ background: color-mix(in srgb, var(--{colour}) {7 + 11 * (shade - 1)}%, transparent); }}"
        for side, colour in (("over", "accent"), ("under", "second"))
        for shade in range(1, SHADES + 1)
    )
    + " .swatch { display: inline-block; width: 22px; height: 11px; margin-right: 7px; }"
    " .swatch.over { background: color-mix(in srgb, var(--accent) 40%, transparent); }"
    " .swatch.under { background: color-mix(in srgb, var(--second) 40%, transparent); }"
)
TIES = {
    "davidson": "Davidson's model",
    "rao-kupper": "Rao and Kupper's model",
    "half": "half a win for each",
}
STRENGTHS_LEDE = (
    "A difference of d nats means that the stronger wins a share 1/(1 + exp(−d)) of the comparisons that one "
    "of the two wins: 0.5 is 62 %, 1 is 73 %, 2 is 88 %. Intervals are 95 %, about the mean of all models. "
    "Where two overlap, the models may still differ clearly: the differences below say so."
)
CONTRASTS_LEDE = (
    "A difference is clear where neither interval holds 0. Each interval misses the truth one time in "
    "twenty, so of many rows a few are wrong."
)
MATRIX_LEDE = (
    "The share that the row's model won against the column's, ties as half a win, and below it wins, ties "
    "and losses. Columns have the numbers of the rows."
)
RAO_KUPPER_LEDE = (
    "Strengths are in nats, by Rao and Kupper's model: the share of wins that belongs to a difference is in "
    "the table of differences. Intervals are 95 %, about the mean of all models. Where two overlap, the "
    "models may still differ clearly: the differences below say so."
)


def page(report: Mapping[str, Any]) -> Html:
    """The whole page as text.

    Args:
        report: what `ratings.json` holds.
    """
    sections = [
        _verdict_section(report),
        _strengths_section(report),
        _contrasts_section(report),
        _matrix_section(report),
        _provenance_section(report),
    ]
    provenance = report["provenance"]
    return document(
        header("logratio rate", provenance["file"], provenance["finished"]),
        sections,
        footer("ratings.json"),
        title=f"{provenance['file']} – logratio ratings",
        styles=[STYLE, PAGE_STYLE],
    )


def _verdict_section(report: Mapping[str, Any]) -> Section:
    """Who leads, whether clearly, and of how much."""
    leader, counts = report["to_next"][0], report["counts"]
    word, style = ("A clear leader", "good") if leader["clear"] else ("No clear leader", "")
    bounds = interval([*leader["interval"].values()])
    sentence = join(
        [
            element("b", leader["first"]),
            " is ahead of ",
            element("b", leader["second"]),
            f" by {fixed(leader['difference'])} nats ({bounds}): of what one "
            f"of the two wins, it wins {percent(leader['win_chance'], 0)}."
            + ("" if leader["clear"] else " From these comparisons the two are not told apart."),
        ]
    )
    facts = [
        ("Models", len(report["models"])),
        ("Comparisons", f"{counts['comparisons']:,}"),
        ("Decided", f"{counts['decided']:,}"),
        ("Ties", f"{counts['ties']:,}"),
        *([("Ties taken for", _ties(report))] if counts["ties"] else []),
        *([("Resamples", f"{report['resamples']['fitted']:,}")] if report["resamples"]["asked"] else []),
    ]
    notes = [element("li", prose(note)) for note in report["notes"]]
    box = element(
        "div",
        element("p", element("span", word, class_="outcome"), class_="outcome-line"),
        element("p", sentence, class_="sentence"),
        definitions(facts, class_="facts"),
        class_=f"verdict {style}".rstrip(),
    )
    noted = element(
        "div", element("p", element("b", "To be known")), element("ul", *notes), class_="missing noted"
    )
    return Section(anchor="verdict", title="Result", body=join([box, noted if notes else None]))


def _ties(report: Mapping[str, Any]) -> str:
    name, parameter = TIES[report["tie_model"]], report["tie_parameter"]
    if parameter is None:
        return name
    sign = "ν" if report["tie_model"] == "davidson" else "θ"
    bounds = report["tie_parameter_bootstrap"]
    between = f" ({interval([*bounds.values()])})" if bounds else ""
    return f"{name}, {sign} = {fixed(parameter)}{between}"


def _strengths_section(report: Mapping[str, Any]) -> Section:
    models = report["models"]
    resampled = any(model["bootstrap"] for model in models)
    legend = [("strength", "a"), ("interval from the covariance", "a bar")]
    legend += [("by bootstrap", "a thin")] if resampled else []
    cut = f"The first {MAX_ROWS} of {len(models)} models." if len(models) > MAX_ROWS else ""
    chart = figure(strengths_chart(models), title="Each model, strongest first", note=cut, legend=legend)
    headings = ["Model", "Strength", *(["By bootstrap"] if resampled else []), "Elo", "Won", "Tied", "Lost"]
    rows = [
        [
            join([element("span", f"{rank} ", class_="count"), model["model"]]),
            cell(fixed(model["strength"]), _between(model["interval"])),
            *([cell(_between(model["bootstrap"]))] if resampled else []),
            fixed(model["elo"], 0),
            *(f"{model[key]:,}" for key in ("wins", "ties", "losses")),
        ]
        for rank, model in enumerate(models, start=1)
    ]
    listing = table(headings, rows, caption="Strengths of all models", class_="course")
    body = join([element("div", chart, class_="picture forest"), listing])
    lede = RAO_KUPPER_LEDE if report["tie_model"] == "rao-kupper" else STRENGTHS_LEDE
    return Section(anchor="strengths", title="Strengths", lede=lede, body=body)


def _contrasts_section(report: Mapping[str, Any]) -> Section:
    parts: list[Html] = []
    if report["baseline"] is not None:
        parts.append(element("h3", f"Against {report['baseline']}"))
        parts.append(_contrasts(report["to_baseline"], caption="Each model against the baseline"))
        parts.append(element("h3", "Each against the next weaker"))
    parts.append(_contrasts(report["to_next"], caption="Each model against the next weaker"))
    return Section(anchor="differences", title="Differences", lede=CONTRASTS_LEDE, body=join(parts))


def _contrasts(contrasts: Sequence[Mapping[str, Any]], *, caption: str) -> Html:
    resampled = any(contrast["bootstrap"] for contrast in contrasts)
    ends = [contrast["interval"][end] for contrast in contrasts for end in ("low", "high")]
    span = min(0.0, *ends), max(0.0, *ends)
    headings = ["Who", "Difference", *(["By bootstrap"] if resampled else []), "Elo", "Wins, ties aside", ""]
    rows = [
        [
            f"{contrast['first']} against {contrast['second']}",
            cell(fixed(contrast["difference"]), _between(contrast["interval"]), _bar(contrast, span)),
            *([cell(_between(contrast["bootstrap"]))] if resampled else []),
            fixed(contrast["elo"], 0),
            percent(contrast["win_chance"]),
            element("strong", "clear")
            if contrast["clear"]
            else element("span", "not told apart", class_="count"),
        ]
        for contrast in contrasts
    ]
    return table(headings, rows, caption=caption, class_="course")


def _bar(contrast: Mapping[str, Any], span: tuple[float, float]) -> Html:
    bounds = [contrast["interval"]["low"], contrast["interval"]["high"]]
    return cell_interval(contrast["difference"], bounds, span, style="policy", mark=0.0)


def _between(bounds: Mapping[str, float] | None) -> str:
    return interval([*bounds.values()]) if bounds else ""


# --- who beat whom ----------------------------------------------------------------------------------


def _matrix_section(report: Mapping[str, Any]) -> Section:
    matrix = report["matrix"]
    names = matrix["models"][:MAX_MATRIX]
    rows = [
        [
            join([element("span", f"{i + 1} ", class_="count"), name]),
            *(_match(matrix, i, j) for j in range(len(names))),
        ]
        for i, name in enumerate(names)
    ]
    headings = ["", *map(str, range(1, len(names) + 1))]
    legend = element(
        "p",
        *(
            element("span", element("i", class_=f"swatch {side}"), words)
            for side, words in (("over", "the row won more"), ("under", "the row lost more"))
        ),
        class_="legend",
    )
    lede = MATRIX_LEDE
    if len(names) < len(matrix["models"]):
        lede += f" Of {len(matrix['models'])} models the {MAX_MATRIX} strongest; ratings.json has all."
    listing = table(headings, rows, caption="Who beat whom", class_="matrix")
    return Section(anchor="matrix", title="Who beat whom", lede=lede, body=join([legend, listing]))


def _match(matrix: Mapping[str, Any], i: int, j: int) -> Html:
    """The row's share with its class of shade, or that there is none."""
    if i == j:
        return element("span", "·", class_="self")
    won, lost, tied = matrix["wins"][i][j], matrix["wins"][j][i], matrix["ties"][i][j]
    played = won + lost + tied
    if not played:
        return element("span", "–", class_="unmet", title="never compared")
    share = (won + tied / 2) / played
    record = element("small", f"{won:,}–{tied:,}–{lost:,}")
    return element("span", percent(share, 0), record, class_=shade(share))


def shade(share: float) -> str:
    """The class of a cell: `over1` to `over4` above one half, `under1` to `under4` below it."""
    distance = abs(share - 0.5) * 2
    if distance < 0.02:
        return "equal"
    step = min(SHADES, 1 + int(distance * SHADES))
    return f"{'over' if share > 0.5 else 'under'}{step}"


def _provenance_section(report: Mapping[str, Any]) -> Section:
    provenance, counts, resamples = report["provenance"], report["counts"], report["resamples"]
    facts = [
        ("logratio", provenance["logratio"]),
        ("torch", provenance["torch"]),
        *provenance["machine"].items(),
        ("seed", resamples["seed"]),
        ("drawn again", resamples["unit"]),
        ("left out", f"{sum(counts['left_out'].values()):,}"),
        ("log-likelihood", fixed(report["log_likelihood"])),
        ("took", format_seconds(provenance["seconds"])),
        *([("sha256", provenance["sha256"])] if provenance["sha256"] else []),
    ]
    return Section(anchor="provenance", title="Provenance", body=join([definitions(facts, class_="facts")]))
