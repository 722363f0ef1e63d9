"""A comparison of methods as tables, figures and one self-contained HTML page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2
import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from concept_das.data.quadruples import DIRECTIONS, Direction
from concept_das.errors import InputError
from concept_das.evaluation.intervals import mean_with_interval
from concept_das.evaluation.recovery import RECOVERY
from concept_das.reports.figures import (
    SUBJECT,
    figure_address,
    figure_png,
    recovery_figure,
    tradeoff_figure,
)
from concept_das.reports.heatmap import best_cell, heatmap
from concept_das.runs.files import write_atomically

# At which multiplier: the one with the best mean recovery, or 1.
Strength = Literal["tuned", "unit"]


STRENGTHS: tuple[Strength, ...] = get_args(Strength)


CELL = ["method", "concept_id", "seed", "multiplier"]


DESCRIPTION = {*CELL, "concept", "rank", "layers", "parameters"}


READING = (
    "Recovery is measured on held-out rows without a judge: 1 is all of the prompt's effect, 0 is "
    "none, less is harm. A dash: the method cannot do it, or it was not measured.",
    "Tuned: for each method and direction, the one multiplier with the highest mean recovery. It "
    "is chosen on the same rows that it is reported on, so tuned figures are optimistic, and more "
    "so where recovery depends on the multiplier. At multiplier 1 nothing is chosen.",
    "Side effect: KL(unsteered || steered) per token on unrelated text, in nats, at the same "
    "multiplier and in the same direction as the recovery beside it.",
    "Means are over concepts and seeds. In brackets: 95% bootstrap interval over pairs of concept "
    "and seed. Seeds of a concept share its rows, so with few concepts it is too narrow.",
)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds.

    Args:
        table: one row per method, concept, seed and multiplier, as `compare` returns it.

    Returns:
        One row per method, concept and multiplier: the number of `seeds`, and for every measure
        its mean and its standard deviation (`..._sd`; n - 1 in the denominator, NaN for one seed).

    Raises:
        InputError: if the table is empty, lacks a column, or has a row twice.
    """
    _check(table)
    keys = ["method", "concept_id", "concept", "multiplier"]
    groups = table.assign(concept=table["concept"].fillna("")).groupby(keys, sort=False)
    columns: list[pd.Series] = [groups["seed"].nunique().rename("seeds")]
    for measure in _measures(table):
        columns += [groups[measure].mean(), groups[measure].std(ddof=1).rename(f"{measure}_sd")]
    return pd.concat(columns, axis=1).reset_index()


def average(table: pd.DataFrame) -> pd.DataFrame:
    """Each method over all concepts and seeds, at its tuned multiplier and at multiplier 1.

    Tuned is the multiplier with the highest mean recovery in a direction, among those at which
    every concept and seed was measured. It is chosen on the rows that are reported.

    Args:
        table: as in `summarise`.

    Returns:
        One row per method: the numbers of `concepts` and `seeds`, mean `parameters` and `seconds`,
        and for each direction's measures, with the suffixes `_tuned` and `_unit`, the mean over
        pairs of concept and seed, beside the multiplier (`multiplier_elicit_tuned`). Recoveries
        have a 95% percentile bootstrap interval over these pairs (`..._tuned_low`).

    Raises:
        InputError: as in `summarise`.
    """
    _check(table)
    records = []
    for method, rows in table.groupby("method", sort=False):
        record: dict[str, Any] = {
            "method": method,
            "concepts": rows["concept_id"].nunique(),
            "seeds": rows["seed"].nunique(),
            "parameters": rows["parameters"].mean(),
            "seconds": rows["seconds"].mean(),
        }
        for direction, recovery in RECOVERY.items():
            cells = rows.pivot(index="multiplier", columns=["concept_id", "seed"], values=recovery)
            means = cells.mean(axis=1, skipna=False).dropna().sort_index()
            chosen: dict[Strength, float] = {
                "tuned": float(means.index[int(means.argmax())]) if len(means) else np.nan,
                "unit": 1.0 if 1.0 in means.index else np.nan,
            }
            measures = [name for name in _measures(table) if name.endswith(f"_{direction}")]
            for strength, multiplier in chosen.items():
                at = rows[rows["multiplier"] == multiplier]
                record |= mean_with_interval(f"{recovery}_{strength}", at[recovery])
                record[f"multiplier_{direction}_{strength}"] = multiplier
                record |= {f"{name}_{strength}": at[name].mean() for name in measures}
        records.append(record)
    return pd.DataFrame(records)


def to_markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown: numbers with three significant digits or decimals, NaN as a dash."""
    lines = [
        [str(column) for column in frame.columns],
        ["---:" if is_numeric_dtype(kind) else "---" for kind in frame.dtypes],
        *_cells(frame),
    ]
    escaped = [[" ".join(cell.replace("|", r"\|").split()) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def with_interval(value: float, low: float, high: float) -> str | None:
    """A number with its interval in brackets, if it has one; None for NaN."""
    if np.isnan(value):
        return None
    return _cell(value) if np.isnan(low) else f"{_cell(value)} [{_cell(low)}, {_cell(high)}]"


def page_table(frame: pd.DataFrame) -> dict[str, Any]:
    """A table for the macro `sortable` in resources/parts.html: `columns` and `rows` of text."""
    return {"columns": [str(c).replace("_", " ") for c in frame.columns], "rows": _cells(frame)}


def write_comparison(
    folder: Path,
    table: pd.DataFrame,
    title: str,
    notes: Sequence[str] = (),
    samples: pd.DataFrame | None = None,
) -> Path:
    """Write table.csv, summary.csv, summary.md, recovery.png, tradeoff.png and comparison.html.

    Args:
        table: as in `summarise`.
        notes: plain sentences that stand above the results.
        samples: answers to show: method, concept, direction, instruction, text.

    Returns:
        The path of the page, which holds everything that it shows.

    Raises:
        InputError: as in `summarise`, or if the samples lack a column.
    """
    summary, averages = summarise(table), average(table)
    groups = _group_samples(samples, list(averages["method"]))
    shown = {strength: _shown(averages, strength) for strength in STRENGTHS}
    recovery = figure_png(recovery_figure(summary))
    tradeoff = figure_png(tradeoff_figure(averages))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("concept_das", "resources"), autoescape=True
    )
    page = environment.get_template("comparison.html").render(
        title=title,
        subject=SUBJECT,
        notes=notes,
        reading=READING,
        methods=len(averages),
        concepts=summary["concept_id"].nunique(),
        seeds=table["seed"].nunique(),
        recovery=figure_address(recovery),
        tradeoff=figure_address(tradeoff),
        tables={strength: page_table(frame) for strength, frame in shown.items()},
        summary=page_table(summary),
        samples=groups,
    )
    parts = [f"# {title}", *notes, "## At the tuned multiplier", to_markdown(shown["tuned"])]
    parts += ["## At multiplier 1", to_markdown(shown["unit"]), *READING]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    write_atomically(folder / "table.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "summary.csv", summary.to_csv(index=False).encode())
    write_atomically(folder / "summary.md", text.encode())
    write_atomically(folder / "recovery.png", recovery)
    write_atomically(folder / "tradeoff.png", tradeoff)
    write_atomically(folder / "comparison.html", page.encode())
    return folder / "comparison.html"


def _check(table: pd.DataFrame) -> None:
    needed = [*CELL, "concept", "parameters", "seconds", *RECOVERY.values()]
    missing = [name for name in needed if name not in table]
    if missing:
        raise InputError(f"the table has no column {missing[0]!r}; give what compare returned")
    if table.empty:
        raise InputError("the table has no rows; compare at least one method")
    twice = table[table.duplicated(CELL)]
    if len(twice):
        where = ", ".join(f"{name} {twice.iloc[0][name]}" for name in CELL)
        raise InputError(f"the table has two rows of {where}; keep one")


def _measures(table: pd.DataFrame) -> list[str]:
    """The columns that are measured, without their intervals over rows."""
    return [
        str(name)
        for name in table.select_dtypes("number").columns
        if name not in DESCRIPTION and not str(name).endswith(("_low", "_high"))
    ]


def _shown(averages: pd.DataFrame, strength: Strength) -> pd.DataFrame:
    """The averages at one strength, narrow enough to read; what nobody measured is left out."""
    shown = averages[["method"]].copy()
    for direction in DIRECTIONS:
        name = f"{RECOVERY[direction]}_{strength}"
        recovery = averages[[name, f"{name}_low", f"{name}_high"]]
        shown[RECOVERY[direction]] = [with_interval(*row) for row in recovery.to_numpy()]
        if strength == "tuned":
            shown[f"multiplier_{direction}"] = averages[f"multiplier_{direction}_tuned"]
        ending = f"_{direction}_{strength}"
        for column in averages.columns:
            if column.endswith(ending) and not column.startswith("multiplier"):
                shown[column.removesuffix(f"_{strength}")] = averages[column]
    shown = shown.dropna(axis=1, how="all")
    for column in ("concepts", "seeds", "parameters", "seconds"):
        shown[column] = averages[column]
    return shown.rename(columns=lambda name: name.replace("_", " "))


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    columns = [[_cell(value) for value in frame[name]] for name in frame.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    """Text as it is; numbers short enough to read, long enough to compare."""
    if pd.isna(value):
        return "–"  # noqa: RUF001
    if isinstance(value, str):
        return value
    size = abs(value)
    if (size < 100 and value == round(value, 2)) or (size < 1e12 and value == round(value)):
        return f"{value:.12g}"  # a multiplier or a count
    if size >= 1e6 or size < 0.001:
        return f"{value:.1e}"
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:.{decimals}f}"


def _group_samples(
    samples: pd.DataFrame | None, methods: list[str]
) -> dict[str, dict[str, dict[str, list[tuple[str, str]]]]]:
    """Methods with their answers, by concept, direction and instruction."""
    if samples is None or samples.empty:
        return {}
    missing = {"method", "concept", "direction", "instruction", "text"} - set(samples)
    if missing:
        raise InputError(f"the samples have no column {min(missing)!r}; give what compare answered")
    place = {method: number for number, method in enumerate(methods)}
    ordered = samples.fillna("").sort_values(
        "method", key=lambda names: names.map(place), kind="stable"
    )
    grouped: dict[str, dict[str, dict[str, list[tuple[str, str]]]]] = {}
    for concept in samples["concept"].fillna("").unique():
        own = ordered[ordered["concept"] == concept]
        for direction in DIRECTIONS:
            there = own[own["direction"] == direction]
            for row in there.itertuples():
                answers = grouped.setdefault(concept, {}).setdefault(direction, {})
                answers.setdefault(str(row.instruction), []).append((row.method, row.text))
    return grouped


SWEEP_READING = (
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
        to_markdown(_shown_cells(averages)),
        *SWEEP_READING,
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


def _shown_cells(averages: pd.DataFrame) -> pd.DataFrame:
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
