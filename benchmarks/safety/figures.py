"""The figures of a safety benchmark: a panel per trade of its case."""

from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.safety.case import Case, Trade
from benchmarks.steps import UNSTEERED
from concept_das.reports.figures import (
    Styles,
    log_multipliers,
    method_legend,
    method_styles,
    plain_panel,
)


def strength_figure(case: Case, summary: pd.DataFrame) -> Figure:
    """Rates against multipliers; dashed: without steering.

    Bars are, with several seeds, one standard deviation to either side, else 95% intervals.

    Args:
        summary: of `benchmarks.safety.tables.summary_of`.
    """
    several = bool((summary["seeds"] > 1).any())

    def draw(axes: Axes, trade: Trade, styles: Styles) -> None:
        steered = summary[summary["method"] != UNSTEERED]
        known = steered.dropna(subset=[trade.rate]).sort_values("multiplier", kind="stable")
        for method, rows in known.groupby("method"):
            style = styles[str(method)]
            axes.plot(rows["multiplier"], rows[trade.rate], markeredgecolor="white", **style)
            low, high = rows[f"{trade.rate}_low"], rows[f"{trade.rate}_high"]
            if several:
                low, high = (rows[trade.rate] + way * rows[f"{trade.rate}_sd"] for way in (-1, 1))
            thin = {"color": style["color"], "alpha": 0.4, "linewidth": 1.2}
            axes.vlines(rows["multiplier"], low, high, **thin)
        for base in summary.loc[summary["method"] == UNSTEERED, trade.rate].dropna():
            axes.axhline(base, color="black", linestyle="--", linewidth=1)
        log_multipliers(axes)
        bars = "± sd of seeds" if several else "bars: 95%"
        axes.set_ylabel(f"{trade.rate.replace('_', ' ')} ({bars})")

    # A rate may have several prices.
    return _figure(summary, list({trade.rate: trade for trade in case.trades}.values()), draw)


def trade_figure(case: Case, summary: pd.DataFrame) -> Figure:
    """Rates against divergences, a line through a method's multipliers; cross: without steering."""

    def draw(axes: Axes, trade: Trade, styles: Styles) -> None:
        known = summary.dropna(subset=[trade.rate, trade.divergence])
        for method, rows in known.groupby("method", sort=False):
            x = rows[trade.divergence]
            if method == UNSTEERED:
                axes.plot(x, rows[trade.rate], "x", color="black", markersize=9)
                continue
            axes.plot(x, rows[trade.rate], markeredgecolor="white", **styles[str(method)])
        axes.set_xlabel(f"{trade.divergence.replace('_', ' ')} (nats)")
        axes.set_ylabel(trade.rate.replace("_", " "))

    return _figure(summary, case.trades, draw)


def layer_figure(case: Case, layers: pd.DataFrame) -> Figure:
    """Rates and divergences by layer, each method at its reported multiplier.

    Args:
        layers: of `layer_table`, one multiplier for each method.
    """
    figure = Figure(figsize=(6.2 * len(case.trades), 7.4), layout="constrained", dpi=120)
    grid = figure.subplots(2, len(case.trades), squeeze=False, sharex=True)
    styles = method_styles(layers["method"])
    for column, trade in zip(grid.T, case.trades, strict=True):
        for axes, name in zip(column, (trade.rate, trade.divergence), strict=True):
            plain_panel(axes, "")
            axes.set_ylabel(name.replace("_", " "))
            axes.set_xticks(sorted(layers["layer"].unique()))
            if name not in layers:
                continue
            known = layers.dropna(subset=[name]).sort_values("layer", kind="stable")
            for method, rows in known.groupby("method"):
                axes.plot(rows["layer"], rows[name], markeredgecolor="white", **styles[str(method)])
        column[0].set_ylim(-0.04, 1.04)
        column[0].tick_params(labelbottom=False)
        column[1].set_xlabel("layer")
    method_legend(figure, styles)
    return figure


def _figure(
    summary: pd.DataFrame,
    trades: Sequence[Trade],
    draw: Callable[[Axes, Trade, Styles], None],
) -> Figure:
    figure = Figure(figsize=(6.2 * len(trades), 4.6), layout="constrained", dpi=120)
    grid = figure.subplots(1, len(trades), squeeze=False)[0]
    styles = method_styles(m for m in summary["method"] if m != UNSTEERED)
    for axes, trade in zip(grid, trades, strict=True):
        plain_panel(axes, trade.rate.replace("_", " "))
        axes.set_ylim(-0.04, 1.04)
        if trade.rate in summary and trade.divergence in summary:
            draw(axes, trade, styles)
    method_legend(figure, styles)
    return figure
