"""The heat map of a sweep over layers and ranks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from concept_das.reports.figures import LEAST_KL
from concept_das.words import DIRECTIONS, RECOVERY, Direction

# The colour of a cell without a value, and the weights of red, green and blue in brightness.
MISSING = np.array([0.91, 0.91, 0.93])
BRIGHTNESS = (0.299, 0.587, 0.114)


def heatmap(averages: pd.DataFrame) -> Figure:
    """Oracle recovery and its side effect over layer and rank: a column of panels per direction.

    The cell with the highest recovery of a direction has a frame.

    Args:
        averages: what `average_cells` returns.
    """
    layers, ranks = averages["layer"].nunique(), averages["rank"].nunique()
    size = (2 * max(0.72 * layers, 3.0) + 2.2, 2 * (0.55 * ranks + 1.0) + 0.3)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    grid = figure.subplots(2, len(DIRECTIONS), squeeze=False)
    recoveries = [_by_cell(averages, RECOVERY[direction]) for direction in DIRECTIONS]
    effects = [_by_cell(averages, f"kl_side_effect_{direction}") for direction in DIRECTIONS]
    blues = ScalarMappable(Normalize(0, 1, clip=True), colormaps["YlGnBu"])
    reds = ScalarMappable(_log_range(effects), colormaps["OrRd"])
    for column, direction in enumerate(DIRECTIONS):
        above, below = grid[:, column]
        multipliers = _by_cell(averages, f"multiplier_{direction}").to_numpy().ravel()
        notes = [f"\nat {multiplier:g}" for multiplier in multipliers]
        _draw(above, recoveries[column], blues, notes, ".2f")
        _draw(below, effects[column], reds, [""] * len(notes), ".2g")
        above.set_title(f"{direction}: oracle recovery, at its multiplier")
        below.set_title(f"{direction}: KL side effect there")
        for axes in (above, below):
            axes.set(xlabel="layer", ylabel="rank")
            _frame_best(axes, averages, direction)
    figure.colorbar(blues, ax=grid[0].tolist(), label="recovery", extend="both")
    figure.colorbar(reds, ax=grid[1].tolist(), label="nats per token")
    return figure


def best_cell(values: "pd.Series[Any]") -> int | None:
    """The index of the highest value, the first of equals; None if nothing was measured."""
    numbers = values.to_numpy(dtype=float)
    return int(np.nanargmax(numbers)) if np.isfinite(numbers).any() else None


def _by_cell(averages: pd.DataFrame, name: str) -> pd.DataFrame:
    """A measure, ranks as rows and layers as columns; NaN where it was not measured."""
    known = averages if name in averages else averages.assign(**{name: np.nan})
    return known.pivot(index="rank", columns="layer", values=name)


def _log_range(effects: list[pd.DataFrame]) -> LogNorm:
    """A colour scale from the smallest to the largest value, at least a factor of ten wide.

    On a narrower scale small random differences would look large.
    """
    values = np.concatenate([effect.to_numpy().ravel() for effect in effects])
    values = np.maximum(values[np.isfinite(values)], LEAST_KL)
    if not len(values):
        return LogNorm(LEAST_KL, 1.0)
    return LogNorm(values.min(), max(values.max(), 10 * values.min()), clip=True)


def _draw(
    axes: Axes, values: pd.DataFrame, shades: ScalarMappable, notes: Sequence[str], form: str
) -> None:
    """Draw coloured cells with their values, and a note below each value.

    Args:
        values: ranks as rows and layers as columns.
        notes: row by row.
        form: of the values.
    """
    numbers = values.to_numpy(dtype=float)
    colours = np.where(np.isfinite(numbers)[..., None], shades.to_rgba(numbers)[..., :3], MISSING)
    axes.imshow(colours, origin="lower", aspect="auto")
    axes.set_xticks(range(values.shape[1]), [str(layer) for layer in values.columns])
    axes.set_yticks(range(values.shape[0]), [str(rank) for rank in values.index])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for ((row, column), value), note in zip(np.ndenumerate(numbers), notes, strict=True):
        axes.text(
            column,
            row,
            f"{value:{form}}{note}" if np.isfinite(value) else "\N{EN DASH}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if np.dot(colours[row, column], BRIGHTNESS) < 0.5 else "black",
        )


def _frame_best(axes: Axes, averages: pd.DataFrame, direction: Direction) -> None:
    best = best_cell(averages[RECOVERY[direction]])
    if best is not None:
        column, row = (
            sorted(averages[name].unique()).index(averages[name].iloc[best])
            for name in ("layer", "rank")
        )
        corner = (column - 0.47, row - 0.47)
        axes.add_patch(
            Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="black", linewidth=2, zorder=3)
        )
