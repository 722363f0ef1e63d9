"""A sweep over layers and ranks as a table, a heat map and a summary."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from concept_das.comparison_report import average, to_markdown
from concept_das.data.quadruples import DIRECTIONS, Direction
from concept_das.evaluation.recovery import RECOVERY
from concept_das.report import figure_png
from concept_das.runs.files import write_atomically
from concept_das.sweep_plots import best_cell, heatmap

READING = (
    "Recovery is measured on held-out rows without a judge: 1 is all of the prompt's effect, 0 is "
    "none, less is harm. A dash: the method cannot do it, or it was not measured.",
    "Each figure is the mean over seeds at the multiplier with the highest mean recovery in that "
    "direction. Side effect: KL(unsteered || steered) per token on unrelated text, in nats, at the "
    "same multiplier.",
    "Layer, rank and multiplier are chosen on the same rows that they are reported on, so the best "
    "is optimistic. Measure what you choose on other rows before you report it.",
)


def average_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Each layer and rank over its seeds, at its best multiplier in each direction.

    Args:
        table: one row per layer, rank, seed and multiplier, as `sweep` returns it.

    Returns:
        One row per layer and rank: the number of `seeds`, mean `parameters` and `seconds`, and for
        each direction the recovery, held-out divergence and side effect at the multiplier
        (`multiplier_elicit`) where the mean recovery is highest.

    Raises:
        InputError: if the table is empty, lacks a column, or has a row twice.
    """
    # A layer and a rank stand where a method stands in a comparison.
    cells = pd.Series(zip(table["layer"], table["rank"], strict=True), table.index, dtype=object)
    averages = average(table.assign(method=cells))
    found = pd.DataFrame(averages["method"].tolist(), columns=["layer", "rank"])
    found[["seeds", "parameters", "seconds"]] = averages[["seeds", "parameters", "seconds"]]
    for column in averages.columns:
        if column.endswith("_tuned"):
            found[column.removesuffix("_tuned")] = averages[column]
    return found.sort_values(["layer", "rank"], ignore_index=True)


def write_sweep(folder: Path, table: pd.DataFrame, title: str) -> Path:
    """Write table.csv, heatmap.png and summary.md.

    Args:
        table: as in `average_cells`.

    Returns:
        The path of the summary.

    Raises:
        InputError: as in `average_cells`.
    """
    averages = average_cells(table)
    parts = [
        f"# {title}",
        "\n".join(f"- {line}" for line in _choices(table, averages)),
        "![recovery and side effect by layer and rank](heatmap.png)",
        to_markdown(_shown(averages)),
        *READING,
    ]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    write_atomically(folder / "table.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "heatmap.png", figure_png(heatmap(averages)))
    write_atomically(folder / "summary.md", text.encode())
    return folder / "summary.md"


def _choices(table: pd.DataFrame, averages: pd.DataFrame) -> Iterator[str]:
    """The best cell of each direction, and of both together."""
    for direction in DIRECTIONS:
        yield _best(table, averages, direction)
    best = best_cell(averages[[*RECOVERY.values()]].mean(axis=1, skipna=False))
    if best is not None:
        cell = averages.iloc[best]
        values = " and ".join(f"{cell[name]:.3f}" for name in RECOVERY.values())
        yield f"**both**, by the mean of the two recoveries: {_place(cell)}: {values}."


def _best(table: pd.DataFrame, averages: pd.DataFrame, direction: Direction) -> str:
    """Where a direction's recovery is highest, and how sure that is."""
    name = RECOVERY[direction]
    best = best_cell(averages[name])
    if best is None:
        return f"**{direction}**: the method does not steer this way."
    cell = averages.iloc[best]
    multiplier = cell[f"multiplier_{direction}"]
    text = f"**{direction}**: {_place(cell)}, multiplier {multiplier:g}: recovery {cell[name]:.3f}"
    text += f", held-out JSD {cell[f'heldout_jsd_{direction}']:.3f}"
    effect = f"kl_side_effect_{direction}"
    if effect in cell:
        text += f", side effect {cell[effect]:.2g}"
    own = table[
        (table["layer"] == cell["layer"])
        & (table["rank"] == cell["rank"])
        & (table["multiplier"] == multiplier)
    ]
    low, high = own[f"{name}_low"].min(), own[f"{name}_high"].max()
    if pd.isna(low):
        return f"{text}."
    others = int((averages[name] >= low).sum()) - 1
    of_seeds = ", from the lowest to the highest of the seeds" if len(own) > 1 else ""
    return (
        f"{text}. 95% interval over held-out rows{of_seeds}: {low:.3f} to {high:.3f}; of the other "
        f"{len(averages) - 1} pairs of layer and rank, {others} come within it."
    )


def _place(cell: "pd.Series[Any]") -> str:
    return f"layer {cell['layer']:.0f}, rank {cell['rank']:.0f}"


def _shown(averages: pd.DataFrame) -> pd.DataFrame:
    """The averages, narrow enough to read; what nobody measured is left out."""
    shown = averages[["layer", "rank"]].copy()
    for direction in DIRECTIONS:
        names = [f"{word}_{direction}" for word in ("multiplier", "heldout_jsd", "kl_side_effect")]
        for name in (RECOVERY[direction], *names):
            if name in averages and averages[name].notna().any():
                shown[name] = averages[name]
    for name in ("seeds", "parameters", "seconds"):
        shown[name] = averages[name]
    return shown.rename(columns=lambda name: name.replace("_", " "))
