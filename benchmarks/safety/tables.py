"""The tables of the report: every measurement, the means over seeds, and both in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.capabilities.scores import capability_change
from benchmarks.safety.case import Case
from benchmarks.safety.settings import Settings
from benchmarks.safety.stages import read_measures, read_scores
from benchmarks.steps import UNSTEERED
from concept_das.runs.stages import Job

FIRST = ["method", "seed", "multiplier", "layers", "rank", "parameters"]

# Columns that stand beside a number and are none of their own.
_BESIDE = ("_count", "_total", "_low", "_high", "_stderr", "_unsteered", "_sd")


def table_of(job: Job, settings: Settings) -> pd.DataFrame:
    """One row per method, seed and multiplier; the untouched model first.

    The columns are those of `benchmarks.safety.measures` and, for each task and metric,
    `TASK_METRIC_unsteered`, `TASK_METRIC_change` and `TASK_METRIC_change_stderr`, where measured.
    A method that draws nothing has no seed.
    """
    tables = []
    for method in (UNSTEERED, *settings.configs):
        measured = job.sources[f"measure.{method}"]
        scored = job.sources.get(f"capabilities.{method}", ())
        for number, folder in enumerate(measured):
            table = read_measures(folder)
            if scored:
                (untouched,) = job.sources[f"capabilities.{UNSTEERED}"]
                before = read_scores(untouched)[1.0]
                after = {} if method == UNSTEERED else read_scores(scored[number])
                table = table.merge(_changes(before, after), on="multiplier", how="outer")
                known = [name for name in FIRST if name in table and name != "multiplier"]
                table[known] = table[known].ffill().bfill()
            tables.append(table.dropna(axis=1, how="all"))
    whole = pd.concat(tables, ignore_index=True)
    whole = whole.reindex(columns=[*FIRST, *(name for name in whole if name not in FIRST)])
    counted = [name for name in whole if str(name).endswith(("_count", "_total"))]
    return whole.astype(dict.fromkeys(["seed", "rank", "parameters", *counted], "Int64"))


def _changes(before: pd.DataFrame, after: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    records = []
    for multiplier, scores in after.items():
        record: dict[str, Any] = {"multiplier": multiplier}
        for row in capability_change(before, scores).to_dict("records"):
            name = f"{row['task']}_{row['metric']}"
            record |= {
                f"{name}_change": row["change"],
                f"{name}_change_stderr": row["stderr"],
                f"{name}_unsteered": row["unsteered"],
            }
        records.append(record)
    return pd.DataFrame(records, columns=None if records else ["multiplier"], dtype=float)


def headline_columns(case: Case, table: pd.DataFrame) -> list[str]:
    """Columns of the summary: those of the case that were measured, and capability changes."""
    own = [name for name in case.explained if name in table]
    return own + [str(name) for name in table if str(name).endswith("_change")]


def summary_of(case: Case, table: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds.

    Returns:
        One row per method, multiplier and layers: the number of `seeds`, and for every headline
        column its mean, its standard deviation over seeds (`..._sd`; n - 1 in the denominator, NaN
        for one), and, of a single seed, its interval or standard error (`..._low`, `..._high`,
        `..._stderr`; NaN for several, whose mean they are not about).
    """
    keys = ["method", "multiplier", "layers"]
    groups = table.groupby(keys, sort=False, dropna=False)
    seeds = groups.size().rename("seeds")
    columns: list[pd.Series] = [seeds]
    for name in headline_columns(case, table):
        columns += [groups[name].mean(), groups[name].std(ddof=1).rename(f"{name}_sd")]
        columns += [
            groups[other].mean().where(seeds == 1)
            for other in (f"{name}_low", f"{name}_high", f"{name}_stderr")
            if other in table
        ]
    # A copy is in one piece, as pandas warns of more than a hundred.
    return pd.concat(columns, axis=1).copy().reset_index()


def shown_tables(case: Case, summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The summary in words: the case's sections and the capabilities, by heading."""
    capabilities = [name for name in headline_columns(case, summary) if name.endswith("_change")]
    sections = {**case.sections, "Capabilities": capabilities}
    return {
        heading: shown(case, summary, columns)
        for heading, columns in sections.items()
        if any(name in summary for name in columns)
    }


def shown(case: Case, summary: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns in words: one cell per number, with its uncertainty.

    A column has one kind of uncertainty, which its heading names: with several seeds their standard
    deviation, else a 95% interval or a standard error. A number that has none of that kind, such as
    that of a method that draws nothing, stands alone. Rates are in percent, changes in percentage
    points.
    """
    rates = {one.name for one in case.rates}
    known = [name for name in columns if name in summary]
    several = bool((summary["seeds"] > 1).any())
    summary = summary.dropna(how="all", subset=known)
    found = summary[["method", "multiplier", "layers", "seeds"]].copy()
    for name in known:
        kind = "_sd"
        if not several:
            kind = "_low" if f"{name}_low" in summary else "_stderr"
        heading = f"{name.replace('_', ' ')} {_KINDS[kind]}"
        scale = 100 if name in rates or name.endswith("_change") else 1
        found[heading if f"{name}{kind}" in summary else name.replace("_", " ")] = [
            _cell(row, name, kind, scale) for row in summary.to_dict("records")
        ]
    return found


_KINDS = {"_sd": "± sd of seeds", "_low": "[95%]", "_stderr": "± standard error"}


def _cell(row: Mapping[Any, Any], name: str, kind: str, scale: int) -> str | None:
    """One number of the summary with its uncertainty of a kind, if it has one."""
    if pd.isna(row[name]):
        return None
    percent, digits = ("%", 1) if scale == 100 else ("", 3)
    if name.endswith("_change"):
        percent = " points"

    def number(key: str) -> str:
        return f"{row[key] * scale:.{digits}f}"

    if pd.isna(row.get(f"{name}{kind}")):
        return number(name) + percent
    if kind == "_low":
        return f"{number(name)}{percent} [{number(f'{name}_low')}, {number(f'{name}_high')}]"
    return f"{number(name)}{percent} ± {number(f'{name}{kind}')}"


def beside(
    case: Case,
    summary: pd.DataFrame,
    published: pd.DataFrame,
    reported: Mapping[str, float],
) -> pd.DataFrame:
    """Published rows with what was measured of the same method at the reported multiplier.

    Args:
        published: with a column method.
        reported: the multiplier of each method's published results.

    Returns:
        The published columns, prefixed `published`, but for method, model and source; then
        `multiplier` and the case's own `beside` columns, prefixed `measured`. NaN where nothing was
        measured.
    """
    plain = {"method", "model", "source"}
    table = published.rename(columns={c: f"published {c}" for c in published if c not in plain})
    table["multiplier"] = table["method"].map(reported)
    keys = ["method", "multiplier"]
    measured = summary.reindex(columns=[*keys, *case.beside]).dropna(subset="multiplier")
    named = {name: f"measured {name}" for name in case.beside}
    table = table.merge(measured.rename(columns=named), on=keys, how="left")
    return table[[*(c for c in table if c != "source"), "source"]]


def at_reported(table: pd.DataFrame, reported: Mapping[str, float]) -> pd.DataFrame:
    """The rows of every method at its reported multiplier, or at the nearest that was measured."""
    known = table[table["method"].isin(list(reported))]
    distance = (known["multiplier"] - known["method"].map(reported)).abs()
    nearest = distance.groupby(known["method"]).transform("min")
    return known[distance == nearest].reset_index(drop=True)


def layer_table(case: Case, table: pd.DataFrame, order: Sequence[int]) -> pd.DataFrame:
    """The rows of a sweep over layers, by method, layer and multiplier: the headline columns."""
    steered = table[table["method"] != UNSTEERED]
    steered = steered.assign(layer=steered["layers"].astype(int))
    steered["place"] = steered["layer"].map(list(order).index)
    steered = steered.sort_values(["method", "place"])
    extra = [
        f"{name}{end}"
        for name in headline_columns(case, table)
        for end in ("", *_BESIDE)
        if f"{name}{end}" in steered
    ]
    return steered[["method", "layer", "multiplier", "seed", *extra]].reset_index(drop=True)
