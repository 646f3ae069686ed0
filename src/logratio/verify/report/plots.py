"""The page's pictures, drawn from the numbers of `pictures`, each with what it shows in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from logratio.report.charts.bars import cell_bar
from logratio.report.charts.lines import Level, Series, line_chart
from logratio.report.formatting import NO_BREAK, number
from logratio.report.html import Html, element, join
from logratio.report.sections.cells import cell
from logratio.report.sections.section import Section, figure, table

SIZE_STYLES = ("bad", "b", "a")
ESTIMATORS = {
    "k1": ("k1: the log-ratio", "bad"),
    "k2": ("k2: half its square", "b"),
    "k3": ("k3: a form never negative", "between"),
    "rao_blackwell": ("exact at every token (Rao–Blackwell)", "a"),
}
FORMS = {
    "k1_in_reward": ("k1 in the reward", "each token pays for all that follows it"),
    "k2_sequence": ("k2 of the whole text, as a loss", "half the squared log-ratio of the text"),
    "k2_token": ("k2 of each token, as a loss", "leaves out that a token chooses what comes next"),
    "k3_token": ("k3 of each token, as a loss", "as in GRPO; leaves out the same"),
    "k3_sequence": ("k3 of the whole text, as a loss", "the divergence in the other direction"),
    "k3_in_reward": ("k3 in the reward", "two directions that nearly cancel"),
    "k1_loss": ("k1 as a loss", "on average no gradient at all"),
}

WAYS = {
    "reinforce": (
        "REINFORCE",
        "One step on each batch of sampled texts: what did better than its siblings becomes more likely. "
        "Each line is a run with chance of its own.",
        "update",
        "a",
    ),
    "ppo": (
        "PPO",
        "Four steps on each batch, held near the policy that wrote it. It arrives at the same place in fewer "
        "updates.",
        "update",
        "a",
    ),
    "dpo": (
        "DPO",
        "No texts are sampled: it learns from which of two texts is preferred, all pairs counted. It never "
        "sees a reward, and arrives at the same policy.",
        "iteration",
        "a",
    ),
    "ppo_k3": (
        "PPO with the wrong penalty",
        "The same run with k3 in the reward, which some libraries offer. It settles, calmly, in the wrong "
        "place: without the right answer at hand nobody would see it.",
        "update",
        "bad",
    ),
}
"""Of each way: title, words, what is counted, colour."""
ARRIVED = Level(value=0.0, label="")
"""Where nothing is wrong any more; a name on it would hide the lines that arrive there."""


def plot_sections(pictures: Mapping[str, Any]) -> list[Section]:
    """A section for each picture whose numbers are there."""
    makers = {
        "importance": _importance_section,
        "kl_estimators": _estimators_section,
        "kl_gradients": _gradients_section,
        "ways": _ways_section,
    }
    return [make(pictures[name]) for name, make in makers.items() if name in pictures]


def _importance_section(measured: Mapping[str, Any]) -> Section:
    body = element(
        "div",
        _question(measured["truth"]),
        _estimates(measured),
        _wrong_signs(measured),
        _worth(measured),
        class_="charts two",
    )
    return Section(
        anchor="importance",
        title="Learning from another's samples",
        lede="Training reuses texts that an older policy wrote, and weighs each by how much more likely the "
        "new policy finds it: importance sampling. With endless samples it is right; with few it can be "
        "badly wrong when the two policies are far apart.",
        body=body,
    )


def _question(truth: float) -> Html:
    xs = [truth - 3.5 + 0.1 * step for step in range(101)]
    hills = [("wanted", truth, "a"), ("sampled from", truth + 3, "bad")]
    series = [
        Series(label=label, xs=xs, ys=[_normal(x - centre) for x in xs], style=style)
        for label, centre, style in hills
    ]
    return figure(
        line_chart(series, name="Two normal distributions, three apart", x_label="x"),
        title="The question",
        note=f"Wanted is the mean of the left hill, which is {number(truth)}. The samples come from the "
        "right hill, here three steps away, and are weighed to make up for it.",
        legend=[(label, style) for label, _, style in hills],
    )


def _estimates(measured: Mapping[str, Any]) -> Html:
    series = _by_size(measured, "median")
    levels = [Level(value=measured["truth"], label="the truth"), Level(value=0.0, label="the sign turns")]
    return figure(
        line_chart(
            series,
            name="The estimate, as the hills part",
            x_label="distance of the hills",
            levels=levels,
        ),
        title="The estimate",
        note="Close by, ten samples suffice. Far away even the sign comes out wrong, since the rare samples "
        "that would say otherwise were never drawn; more samples only put it off.",
        legend=[(line.label, line.style) for line in series],
    )


def _wrong_signs(measured: Mapping[str, Any]) -> Html:
    series = _by_size(measured, "wrong_sign", scale=100)
    return figure(
        line_chart(series, name="Share of estimates whose sign is wrong", x_label="distance of the hills"),
        title="Sign wrong, % of attempts",
        note=f"The same estimate made {measured['repeats']} times over with new samples. Nothing in the "
        "number itself tells a wrong one from a right one.",
        legend=[(line.label, line.style) for line in series],
    )


def _worth(measured: Mapping[str, Any]) -> Html:
    exact = [100 * share for share in measured["exact_effective"]]
    series = [
        *_by_size(measured, "effective", scale=100),
        Series(label="exact", xs=measured["shifts"], ys=exact, style="c"),
    ]
    return figure(
        line_chart(series, name="Effective sample size, as a share", x_label="distance of the hills"),
        title="Effective samples, % of those drawn",
        note="The effective sample size says how many samples from the right place would tell as much: this "
        "is the warning to watch. With few samples it flatters itself, since it knows only what was drawn.",
        legend=[(line.label, line.style) for line in series],
    )


def _by_size(measured: Mapping[str, Any], name: str, *, scale: float = 1) -> list[Series]:
    return [
        Series(
            label=f"{entry['size']:,} samples",
            xs=measured["shifts"],
            ys=[scale * value for value in entry[name]],
            style=style,
        )
        for entry, style in zip(measured["sizes"], SIZE_STYLES, strict=True)
    ]


def _normal(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _estimators_section(measured: Mapping[str, Any]) -> Section:
    charts = [
        _estimator_chart(
            measured,
            "bias",
            title="Bias, % of the truth",
            note="How far each is off on average. Only k2 is, the more the further the policies are apart.",
        ),
        _estimator_chart(
            measured,
            "deviation",
            title="Spread of one sample, % of the truth",
            note="How far a single text's estimate strays. Close by, k1 strays by several times what it "
            "measures; looking at all words at every step, not only at the one drawn, is the calmest.",
        ),
    ]
    return Section(
        anchor="estimators",
        title="Measuring how far a policy has moved",
        lede="The KL divergence says how far the trained policy has gone from the one it began as. It is "
        "estimated from the log-ratios of texts that the policy writes: the logarithm of how much likelier "
        "it finds them than the old one did. Of four estimates three are right on average, and they differ "
        "much in how many texts they need.",
        body=element("div", *charts, class_="charts two"),
    )


def _estimator_chart(measured: Mapping[str, Any], name: str, *, title: str, note: str) -> Html:
    series = [
        Series(label=label, xs=measured["kl"], ys=[100 * value for value in measured[name][key]], style=style)
        for key, (label, style) in ESTIMATORS.items()
    ]
    chart = line_chart(series, name=title, x_label="true KL divergence, nats a text")
    return figure(chart, title=title, note=note, legend=[(line.label, line.style) for line in series])


def _gradients_section(measured: Mapping[str, Any]) -> Section:
    distances = [measured[where] for where in ("far", "near")]
    headings = ["Form of the penalty"]
    for distance in distances:
        kl = number(distance["kl"], digits=2)
        headings += [f"Error at KL {kl}", f"Direction at KL {kl}"]
    rows = [
        [_form_name(name), *(part for distance in distances for part in _form_cells(distance["forms"][name]))]
        for name in FORMS
    ]
    return Section(
        anchor="gradients",
        title="Holding a policy back",
        lede="A penalty on the KL divergence keeps a policy near its reference, and there are many ways to "
        "write it. Here each one's average push is compared with the right one: error 0 % and direction 1 "
        "are exact, error 100 % is no better than no push.",
        body=table(headings, rows, caption="Gradients of KL penalties", class_="forms"),
    )


def _form_name(name: str) -> Html:
    title, note = FORMS[name]
    return join([title, element("small", note)])


def _form_cells(form: Mapping[str, Any]) -> list[Html]:
    error, cosine = form["error"], form["cosine"]
    good = error < 1e-6
    style = "good" if good else "bad"
    shown = "0 %" if good else f"{100 * error:.0f} %"
    direction = "none" if cosine is None else number(cosine, digits=3)
    return [
        cell(shown, bar=cell_bar(error, 1.0, style=style)),
        cell(direction, bar=cell_bar(cosine or 0.0, 1.0, style="good" if good else "b")),
    ]


def _ways_section(measured: Mapping[str, Any]) -> Section:
    runs = measured["runs"]
    charts = [_way_chart(runs[name], name) for name in WAYS if name in runs]
    return Section(
        anchor="ways",
        title="The way to the best policy",
        lede="With the reward of every text known, the best policy under a KL penalty (here "
        f"β{NO_BREAK}={NO_BREAK}{number(measured['beta'])}) is a formula, and a training run has a place "
        "where it must arrive. Shown is what percentage of the probability still lies on the wrong texts, "
        "update by update.",
        body=element("div", *charts, class_="charts two"),
    )


def _way_chart(runs: list[list[float]], name: str) -> Html:
    title, note, x_label, style = WAYS[name]
    series = [
        Series(
            label=f"run {run_number}",
            xs=list(range(len(run))),
            ys=[100 * value for value in run],
            style=style,
        )
        for run_number, run in enumerate(runs, 1)
    ]
    end = f"{title}: ends at {number(100 * max(run[-1] for run in runs), digits=2)}{NO_BREAK}%"
    chart = line_chart(series, name=end, x_label=x_label, levels=[ARRIVED])
    return figure(chart, title=end, note=note)
