"""Tables of a comparison and of a sweep, and tables as text."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from concept_das.errors import InputError
from concept_das.evaluation.intervals import mean_with_interval
from concept_das.runs.files import write_atomically
from concept_das.words import DIRECTIONS, RECOVERY

# The multiplier that is reported: the one with the best mean recovery on the very rows that it is
# reported on, those that other held-out rows chose (`Evaluation.fair`), or 1.
Strength = Literal["oracle", "fair", "unit"]

STRENGTHS: tuple[Strength, ...] = get_args(Strength)

DASH = "\N{EN DASH}"

CELL = ["method", "concept_id", "seed", "multiplier"]

# The columns of `shown_averages` that are there without any measure.
UNMEASURED = {"method", "concepts", "seeds", "parameters", "seconds"}

DESCRIPTION = {*CELL, "concept", "rank", "layers", "parameters"}


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
    concepts = table["concept"].astype(object).fillna("")  # without any, a column of numbers
    groups = table.assign(concept=concepts).groupby(keys, sort=False)
    columns: list[pd.Series] = [groups["seed"].nunique().rename("seeds")]
    for measure in _measures(table):
        columns += [groups[measure].mean(), groups[measure].std(ddof=1).rename(f"{measure}_sd")]
    return pd.concat(columns, axis=1).reset_index()


def average(table: pd.DataFrame) -> pd.DataFrame:
    """Averages of each method over concepts and seeds, at its oracle multiplier, fair ones and 1.

    The oracle multiplier has the highest mean recovery in a direction, among those at which every
    concept and seed was measured. It is chosen on the rows that are reported. Where the gap is not
    clear there is no recovery (see `evaluate`), and means are over the rest.

    Args:
        table: as in `summarise`.

    Returns:
        One row per method: the numbers of `concepts` and `seeds`, mean `parameters` and `seconds`,
        and for each direction's measures, with the suffixes `_oracle`, `_unit` and, if the table
        has such columns, `_fair`, the mean, beside the multiplier (`multiplier_elicit_oracle`).
        Means are over the `units` of the table, and recoveries have Student's 95% interval over
        them (`..._oracle_low`).

    Raises:
        InputError: as in `summarise`.
    """
    _check(table)
    over = units(table)
    records = []
    for method, rows in table.groupby("method", sort=False):
        record: dict[str, Any] = {
            "method": method,
            "concepts": rows["concept_id"].nunique(),
            "seeds": rows["seed"].nunique(),
            "parameters": rows["parameters"].mean(),
            "seconds": rows["seconds"].mean(),
        }
        counts = rows.groupby("multiplier").size()
        everywhere = counts.index[counts == rows.groupby(["concept_id", "seed"]).ngroups]
        for direction, recovery in RECOVERY.items():
            cells = rows.pivot(index="multiplier", columns=["concept_id", "seed"], values=recovery)
            # Pairs without any recovery have no clear gap, or the method cannot steer this way.
            known = cells.loc[everywhere].dropna(axis=1, how="all")
            means = known.mean(axis=1, skipna=False).dropna().sort_index()
            chosen: dict[Strength, float] = {
                "oracle": float(means.index[int(means.argmax())]) if len(means) else np.nan,
                "unit": 1.0 if 1.0 in everywhere else np.nan,
            }
            if f"{recovery}_fair" in rows:
                each = rows.drop_duplicates(["concept_id", "seed"])
                fair = each.select_dtypes("number").groupby(each[over]).mean()
                record |= mean_with_interval(f"{recovery}_fair", fair[f"{recovery}_fair"])
                of_cells = [n for n in fair if str(n).endswith(f"_{direction}_fair")]
                record |= {str(name): fair[name].mean() for name in of_cells}
                if f"gap_{direction}" in fair:
                    record[f"gap_{direction}_fair"] = fair[f"gap_{direction}"].mean()
            measures = [name for name in _measures(table) if name.endswith(f"_{direction}")]
            for strength, multiplier in chosen.items():
                at = rows[rows["multiplier"] == multiplier].groupby(over)[[recovery, *measures]]
                by_unit = at.mean()
                record |= mean_with_interval(f"{recovery}_{strength}", by_unit[recovery])
                record[f"multiplier_{direction}_{strength}"] = multiplier
                record |= {f"{name}_{strength}": by_unit[name].mean() for name in measures}
        records.append(record)
    return pd.DataFrame(records)


def units(table: pd.DataFrame) -> Literal["concept_id", "seed"]:
    """The column whose values count as independent: concepts, or the seeds of a single concept.

    Seeds of a concept share its rows, so several concepts are averaged over seeds first.
    """
    return "concept_id" if table["concept_id"].nunique() > 1 else "seed"


def average_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Averages of each layer and rank over its seeds, at the best multiplier per direction.

    Args:
        table: one row per layer, rank, seed and multiplier, as `sweep` returns it.

    Returns:
        One row per layer and rank: the number of `seeds`, mean `parameters` and `seconds`, and for
        each direction the recovery, gap, held-out divergence and side effect at the oracle
        multiplier (`multiplier_elicit`), where the mean recovery is highest; beside it the recovery
        at 1 (`..._unit`) and, if the table has it, at fair multipliers (`..._fair`).

    Raises:
        InputError: if the table is empty, lacks a column, or has a row twice.
    """
    # A pair of layer and rank takes the place of a comparison's method.
    cells = pd.Series(zip(table["layer"], table["rank"], strict=True), table.index, dtype=object)
    averages = average(table.assign(method=cells))
    found = pd.DataFrame(averages["method"].tolist(), columns=["layer", "rank"])
    found[["seeds", "parameters", "seconds"]] = averages[["seeds", "parameters", "seconds"]]
    for column in averages.columns:
        if column.endswith("_oracle"):
            found[column.removesuffix("_oracle")] = averages[column]
    for name in (f"{name}_{strength}" for name in RECOVERY.values() for strength in STRENGTHS[1:]):
        if name in averages:
            found[name] = averages[name]
    return found.sort_values(["layer", "rank"], ignore_index=True)


def shown_averages(averages: pd.DataFrame, strength: Strength) -> pd.DataFrame:
    """The averages of methods at one strength, as shown; measures without a value are left out."""
    shown = averages[["method"]].copy()
    for direction in DIRECTIONS:
        name = f"{RECOVERY[direction]}_{strength}"
        if name not in averages:
            continue
        recovery = averages[[name, f"{name}_low", f"{name}_high"]]
        shown[RECOVERY[direction]] = [with_interval(*row) for row in recovery.to_numpy()]
        if strength != "unit":
            shown[f"multiplier_{direction}"] = averages[f"multiplier_{direction}_{strength}"]
        ending = f"_{direction}_{strength}"
        for column in averages.columns:
            if column.endswith(ending) and not column.startswith(("multiplier", "gain")):
                shown[column.removesuffix(f"_{strength}")] = averages[column]
    shown = shown.dropna(axis=1, how="all")
    for column in ("concepts", "seeds", "parameters", "seconds"):
        shown[column] = averages[column]
    return _with_spaces(shown)


def shown_cells(averages: pd.DataFrame) -> pd.DataFrame:
    """The averages of cells, as shown; measures without a value are left out."""
    shown = averages[["layer", "rank"]].copy()
    for direction in DIRECTIONS:
        words = ("multiplier", "gap", "heldout_jsd", "kl_side_effect")
        recoveries = (f"{RECOVERY[direction]}{end}" for end in ("_unit", "_fair", ""))
        for name in (*recoveries, *(f"{word}_{direction}" for word in words)):
            if name in averages and averages[name].notna().any():
                shown[name] = averages[name]
    endings = {"": "_oracle", "_unit": "_at_1"}
    shown = shown.rename(
        columns={
            f"{n}{end}": f"{n}{new}" for n in RECOVERY.values() for end, new in endings.items()
        }
    )
    for name in ("seeds", "parameters", "seconds"):
        shown[name] = averages[name]
    return _with_spaces(shown)


def to_markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown: numbers with three significant digits or decimals; NaN is a dash."""
    lines = [
        [str(column) for column in frame.columns],
        ["---:" if is_numeric_dtype(kind) else "---" for kind in frame.dtypes],
        *text_cells(frame),
    ]
    escaped = [[" ".join(cell.replace("|", r"\|").split()) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def write_markdown(
    path: Path,
    title: str,
    notes: Iterable[str],
    tables: Mapping[str, pd.DataFrame],
    reading: Iterable[str],
) -> None:
    """Write a page in Markdown: paragraphs, tables by heading, and how to read them."""
    parts = [f"# {title}", *notes]
    for heading, table in tables.items():
        parts += [f"## {heading}", to_markdown(table)]
    text = "\n\n".join(part.strip() for part in [*parts, *reading])
    write_atomically(path, f"{text}\n".encode())


def with_interval(value: float, low: float, high: float) -> str | None:
    """A number with its interval in brackets, if it has one; None for NaN."""
    if np.isnan(value):
        return None
    return _cell(value) if np.isnan(low) else f"{_cell(value)} [{_cell(low)}, {_cell(high)}]"


def text_cells(frame: pd.DataFrame) -> list[list[str]]:
    """The values of a table as text, row by row, see `to_markdown`."""
    columns = [[_cell(value) for value in frame[name]] for name in frame.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    """A value as short text: about three digits of a number; text is unchanged."""
    if pd.isna(value):
        return DASH
    if isinstance(value, str):
        return value
    size = abs(value)
    if (size < 100 and value == round(value, 2)) or (size < 1e12 and value == round(value)):
        return f"{value:.12g}"  # a multiplier or a count
    if size >= 1e6 or size < 0.001:
        return f"{value:.1e}"
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:.{decimals}f}"


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
        if name not in DESCRIPTION and not str(name).endswith(("_low", "_high", "_fair"))
    ]


def _with_spaces(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns=lambda name: name.replace("_", " "))
