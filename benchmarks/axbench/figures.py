"""The figures of an AxBench report."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.axbench.scores import summarise
from benchmarks.judges.ratings import HIGHEST
from benchmarks.steps import UNSTEERED
from concept_das.methods.registry import METHODS
from concept_das.reports.figures import (
    Styles,
    log_multipliers,
    method_curve,
    method_legend,
    method_styles,
    plain_panel,
)
from concept_das.words import DIRECTIONS

BASELINE_STYLE: dict[str, Any] = {"color": "#555555", "linewidth": 1.5, "linestyle": "--"}

_GOLDEN = (5**0.5 - 1) / 2


def multiplier_figure(answers: pd.DataFrame, fixed: Iterable[str], score: str) -> Figure:
    """Score against multiplier, a panel per direction; bands are 95% intervals over concepts.

    The baseline is a horizontal line.

    Args:
        answers: scored ones, of every multiplier.
        fixed: methods without a multiplier; they stand at the side, as points with intervals.
        score: what the score is called, which says so where the judge is a proxy.
    """
    fixed = sorted((method for method in fixed if method != UNSTEERED), key=_place)
    points = pd.concat(
        summarise(rows).assign(multiplier=multiplier)
        for multiplier, rows in answers.groupby("multiplier")
    )
    known = points[points["score"].notna()]
    competing = known[known["method"] != UNSTEERED]
    lines = competing[~competing["method"].isin(fixed)]
    directions = _directions(known)
    figure = Figure(figsize=(6.2 * len(directions) + 1.6, 4.8), layout="constrained", dpi=120)
    widths = [4.0, 0.4 + 0.25 * len(fixed)] if fixed else [4.0]
    grid = figure.subplots(
        1, len(directions) * len(widths), squeeze=False, sharey=True,
        width_ratios=widths * len(directions),
    )[0]  # fmt: skip
    panels = grid.reshape(len(directions), len(widths))
    names = sorted(set(competing["method"]), key=_place)
    styles = method_styles(names)
    for (axes, *side), direction in zip(panels, directions, strict=True):
        plain_panel(axes, direction)
        axes.set_xlabel("multiplier")
        here = known[known["direction"] == direction]
        for method, rows in lines[lines["direction"] == direction].groupby("method"):
            values = (rows["score_low"], rows["score"], rows["score_high"])
            method_curve(axes, str(method), rows["multiplier"], values, styles[str(method)])
        for strip in side:
            _strip(strip, here, fixed, styles)
        for level in here.loc[here["method"] == UNSTEERED, "score"]:
            for each in (axes, *side):
                each.axhline(level, **BASELINE_STYLE, zorder=1)
    _multiplier_axes(panels[:, 0], lines["multiplier"])
    highest = float(np.nanmax([0.1, *known["score"], *known["score_high"]]))
    grid[0].set_ylim(-0.02 * highest, 1.05 * highest)  # whole markers at 0
    grid[0].set_ylabel(f"{score}, mean over concepts (0 to 2)")
    shown = dict(styles)
    if UNSTEERED in set(known["method"]):
        shown[f"{UNSTEERED} (baseline)"] = BASELINE_STYLE
    method_legend(figure, shown)
    return figure


def concepts_figure(tuned: pd.DataFrame, score: str) -> Figure:
    """The spread over concepts: a dot per concept and method, a panel per direction.

    Methods stand in the order of their means over both directions, the baseline below all, in grey.

    Args:
        tuned: scored answers that are reported, one for each instruction.
        score: as in `multiplier_figure`.
    """
    means = tuned.groupby(["method", "direction", "concept_id"])["score"].mean().dropna()
    summary = summarise(tuned).set_index(["method", "direction"])
    overall = summary["score"].groupby("method").mean().dropna().rename("mean").reset_index()
    overall["last"] = overall["method"] == UNSTEERED
    order = overall.sort_values(["last", "mean", "method"], ascending=[True, False, True])
    methods = list(order["method"])
    directions = _directions(summary.reset_index())
    size = (6.2 * len(directions) + 1.0, 1.6 + 0.42 * len(methods))
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    grid = figure.subplots(1, len(directions), squeeze=False, sharex=True, sharey=True)[0]
    styles = method_styles(method for method in methods if method != UNSTEERED)
    names = ["score", "score_low", "score_high"]
    for axes, direction in zip(grid, directions, strict=True):
        plain_panel(axes, direction, grid="x")
        for place, method in enumerate(methods):
            if (method, direction) not in summary.index:
                continue
            colour = styles[method]["color"] if method in styles else BASELINE_STYLE["color"]
            dots = means.get((method, direction), pd.Series(dtype=float)).sort_index()
            # Spread evenly, and the same in every report: many concepts have the same score.
            spread = 0.4 * ((np.arange(len(dots)) * _GOLDEN + 0.5) % 1 - 0.5) - 0.12
            opaque = float(np.clip(30 / max(len(dots), 1), 0.25, 0.9))
            axes.plot(dots, place + spread, ".", color=colour, markersize=9, alpha=opaque, mew=0)
            value, low, high = summary.loc[(method, direction), names].to_numpy(dtype=float)
            axes.hlines(place + 0.28, low, high, color="black", linewidth=1.2)
            axes.plot([value], [place + 0.28], "|", color="black", markersize=9, mew=2.2)
        axes.set_xlabel(f"{score} of a concept (0 to 2)")
    grid[0].set_xlim(-0.04, HIGHEST + 0.04)
    grid[0].set_xticks(np.arange(0, HIGHEST + 0.1, 0.5))
    labels = [f"{method} (baseline)" if method == UNSTEERED else method for method in methods]
    grid[0].set_yticks(range(len(methods)), labels)
    grid[0].set_ylim(max(len(methods), 1) - 0.5, -0.5)
    figure.legend(
        [
            Line2D([], [], color="black", marker="|", markersize=9, mew=2.2, linewidth=1.2),
            Line2D([], [], color="grey", marker=".", markersize=8, linestyle="none"),
        ],
        ["mean over concepts, 95% interval", "one concept"],
        loc="outside lower center",
        frameon=False,
        ncols=2,
    )
    return figure


def _place(method: str) -> tuple[int, str]:
    """Known methods stand in the order of `METHODS`, others after them."""
    known = list(METHODS)
    return (known.index(method) if method in known else len(known)), method


def _directions(frame: pd.DataFrame) -> list[str]:
    return [name for name in DIRECTIONS if name in set(frame["direction"])] or [DIRECTIONS[0]]


def _strip(axes: Axes, points: pd.DataFrame, methods: list[str], styles: Styles) -> None:
    """The methods without a multiplier, side by side."""
    plain_panel(axes, "")
    axes.tick_params(labelleft=False)
    axes.set_xticks([])
    axes.set_xlabel("no\nmultiplier")
    axes.set_xlim(-0.7, len(methods) - 0.3)
    for place, method in enumerate(methods):
        here = points.loc[points["method"] == method, ["score", "score_low", "score_high"]]
        for value, low, high in here.to_numpy():
            style = styles[method] | {"markersize": 9.0}
            axes.vlines(place, low, high, color=style["color"], linewidth=1.3)
            axes.plot([place], [value], markeredgecolor="white", markeredgewidth=0.6, **style)


def _multiplier_axes(panels: np.ndarray, multipliers: pd.Series) -> None:
    """A log axis with round ticks, unless a multiplier is 0 or less."""
    if multipliers.empty or multipliers.min() <= 0:
        return
    low, high = multipliers.min() / 1.1, multipliers.max() * 1.1
    for axes in panels:
        log_multipliers(axes)
        axes.set_xlim(low, high)
