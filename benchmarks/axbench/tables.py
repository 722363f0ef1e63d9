"""The tables of an AxBench report: one row per method, direction and factor, and how it is shown.

A method that was run at multiplier 1 alone has no strength to choose; its factor is `NA`, as in the
paper's tables. The method `unsteered` is the baseline: it has its rows, but competes with nobody.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from benchmarks.axbench.published import Cell, published
from benchmarks.axbench.scores import (
    RATINGS,
    REPORTED_ON,
    Detection,
    reported,
    summarise,
    unit,
)
from benchmarks.judges.ratings import Kind
from concept_das.data.quadruples import DIRECTIONS
from concept_das.errors import InputError
from concept_das.reports.figures import SUBJECT
from concept_das.reports.tables import with_interval

BASELINE = "unsteered"

PROXY = (
    "These are proxy ratings: a probe and the unsteered model's likelihoods gave them, no language "
    "model was asked about the answers. They are not AxBench scores."
)
# By the kind of judge; the published ones are the endpoint's.
CAUTIONS: dict[Kind, str] = {
    "api": "The published scores were rated by gpt-4o-mini; those of another judge are not the "
    "same measurement.",
    "local": "The published scores were rated by gpt-4o-mini, those measured here by a local "
    "model: they are not comparable, and a difference between them may be the judge's.",
    "proxy": "The published scores were rated by gpt-4o-mini, those measured here are proxy "
    "ratings: they are not comparable, and a difference between them says nothing about a method.",
}

COLUMNS = (
    "method", "direction", "factor", "score", "score_low", "score_high", "concepts", "missing",
    *(f"{name}_rating" for name in RATINGS), "auroc", "auroc_low", "auroc_high",
    "published", "published_source", "difference", "judge", "judge_kind", "caution",
)  # fmt: skip

_CASE = ["method", "direction"]


def method_table(
    scored: pd.DataFrame,
    selected: pd.DataFrame,
    judge: str,
    judge_kind: Kind,
    detection: Detection | None = None,
    cell: Cell | None = None,
    reported_on: Iterable[int] = REPORTED_ON,
) -> pd.DataFrame:
    """One row per method, direction and factor.

    Args:
        scored: the answers, from `with_scores`.
        selected: from `select_multipliers` on the other inputs.
        judge: its name.
        judge_kind: what kind of judge it is.
        detection: from `detection_auroc`.
        cell: whose published scores stand beside those that elicit.
        reported_on: input ids that were not used to choose multipliers.

    Returns:
        The columns method, direction, `factor` (tuned, unit or NA); `score`, `score_low`,
        `score_high`, `concepts`, `missing`, as `summarise` has them; `concept_rating`,
        `instruction_rating`, `fluency_rating`, means over concepts of the mean of each; `auroc`,
        `auroc_low`, `auroc_high`, the method's; `published`, `published_source`, `difference`
        (score - published); `judge`, `judge_kind`, and `caution`, what to mind about the row.
        Elicitation is first; within a direction tuned and NA, best first, then unit, then the
        baseline.

    Raises:
        InputError: if the answers are empty or lack a column, or the cell is unknown.
    """
    check_answers(scored)
    fixed, on = fixed_methods(scored), list(reported_on)
    best = reported_answers(scored, selected, on)
    at_unit = unit(scored[~scored["method"].isin(fixed)], on)
    # A method without any multiplier that could be chosen has a row all the same.
    cases = scored[_CASE].drop_duplicates()
    tuned = cases.merge(_means(best), on=_CASE, how="left")
    tuned["factor"] = np.where(tuned["method"].isin(fixed), "NA", "tuned")
    tuned["concepts"] = tuned["concepts"].fillna(0).astype(int)
    parts = [tuned, _means(at_unit).assign(factor="unit")]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    if detection is not None:
        table = table.merge(detection.summary.drop(columns="concepts"), on="method", how="left")
    if cell is not None:
        known = published(cell).assign(direction=DIRECTIONS[0])
        known = known.rename(columns={"score": "published", "source": "published_source"})
        table = table.merge(known, on=["method", "factor", "direction"], how="left")
        table["difference"] = table["score"] - table["published"]
    table = table.reindex(columns=[*COLUMNS])
    table = table.assign(judge=judge, judge_kind=judge_kind)
    beside = table["published"].notna()
    other = PROXY if judge_kind == "proxy" else ""
    table["caution"] = np.where(beside, CAUTIONS[judge_kind], other)
    order = table.assign(
        place=table["direction"].map(DIRECTIONS.index),
        group=(table["factor"] == "unit") + 2 * (table["method"] == BASELINE),
        lost=-table["score"],
    ).sort_values(["place", "group", "lost", "method"])
    return table.loc[order.index].reset_index(drop=True)


def check_answers(scored: pd.DataFrame, texts: Sequence[str] = ()) -> None:
    """Refuse a table that is no scored table of answers with these texts.

    Raises:
        InputError: if it is empty or lacks a column.
    """
    needed = [*_CASE, "concept_id", "multiplier", "input_id", *RATINGS, "score", *texts]
    absent = [name for name in needed if name not in scored.columns]
    if absent:
        remedy = "make it with with_scores" if absent[0] == "score" else "add it"
        raise InputError(f"the table of answers has no column {absent[0]}; {remedy}")
    if scored.empty:
        raise InputError("the table of answers is empty; generate and judge some")


def fixed_methods(scored: pd.DataFrame) -> list[str]:
    """The methods without a strength: those that were run at multiplier 1 alone, in order."""
    alone = (scored["multiplier"] == 1).groupby(scored["method"]).all()
    return sorted(alone.index[alone])


def reported_answers(
    scored: pd.DataFrame, selected: pd.DataFrame, on: Iterable[int]
) -> pd.DataFrame:
    """The held-out answers at the chosen multipliers; at 1 where there is nothing to choose.

    Raises:
        InputError: as `scores.reported`.
    """
    on, fixed = list(on), fixed_methods(scored)
    tunable = scored[~scored["method"].isin(fixed)]
    parts = [
        reported(tunable, selected[~selected["method"].isin(fixed)], on),
        unit(scored[scored["method"].isin(fixed)], on),
    ]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def shown_tables(
    table: pd.DataFrame,
    selected: pd.DataFrame,
    against: pd.DataFrame | None,
    cell: Cell | None,
    judge_kind: Kind,
) -> dict[str, pd.DataFrame]:
    """What a reader sees, by heading: narrow enough to read, and saying where a proxy rated.

    Args:
        table: from `method_table`.
        selected: from `select_multipliers`.
        against: from `winners`.
        cell: whose published scores are listed that have no row in the table.
        judge_kind: as in `method_table`.
    """
    mark = " (proxy ratings)" if judge_kind == "proxy" else ""
    shown = {
        f"{direction.capitalize()}{mark}": _shown(rows, judge_kind)
        for direction in DIRECTIONS
        if len(rows := table[table["direction"] == direction])
    }
    if against is not None:
        shown[f"Against {SUBJECT}, tuned{mark}"] = pd.DataFrame(
            {
                "method": against["method"],
                "direction": against["direction"],
                "difference": _intervals(against, "difference"),
                "p": against["p"],
                "winrate": _intervals(against, "winrate"),
                "concepts": against["concepts"],
            }
        )
    tuned = set(table.loc[table["factor"] == "tuned", "method"])
    chosen = selected[selected["method"].isin(tuned)].dropna(subset=["multiplier"])
    if len(chosen):
        of = chosen.groupby(_CASE)["multiplier"]
        shown["Chosen multipliers"] = pd.DataFrame(
            {"lowest": of.min(), "median": of.median(), "highest": of.max(), "concepts": of.size()}
        ).reset_index()
    if cell is not None:
        known = published(cell)
        measured = table.loc[table["direction"] == DIRECTIONS[0], ["method", "factor"]]
        both = known.merge(measured, on=["method", "factor"], how="left", indicator=True)
        rest = known[(both["_merge"] == "left_only").to_numpy()]
        if len(rest):
            shown[f"Published for {cell}, not measured here"] = rest
    return shown


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """`summarise`, with the means of the three ratings."""
    ratings = rows.sort_values(["concept_id", "input_id"])
    by_concept = ratings.groupby([*_CASE, "concept_id"], observed=True)[[*RATINGS]].mean()
    means = by_concept.groupby(_CASE, observed=True).mean().add_suffix("_rating")
    return summarise(rows).merge(means.reset_index(), on=_CASE, how="left")


def _shown(rows: pd.DataFrame, judge_kind: Kind) -> pd.DataFrame:
    columns: dict[str, object] = {
        "method": rows["method"].replace(BASELINE, f"{BASELINE} (baseline)"),
        "factor": rows["factor"],
        "score (proxy)" if judge_kind == "proxy" else "score": _intervals(rows, "score"),
        **{f"{name} rating": rows[f"{name}_rating"] for name in RATINGS},
        "detection AUROC": _intervals(rows, "auroc"),
    }
    if rows["published"].notna().any():
        comparable = "" if judge_kind == "api" else " (not comparable)"
        columns[f"published{comparable}"] = rows["published"]
        columns[f"difference{comparable}"] = rows["difference"]
        columns["published in"] = rows["published_source"]
    columns |= {"concepts": rows["concepts"], "missing": rows["missing"]}
    shown = pd.DataFrame(columns)
    return shown if rows["auroc"].notna().any() else shown.drop(columns="detection AUROC")


def _intervals(frame: pd.DataFrame, name: str) -> list[str | None]:
    return [with_interval(*row) for row in frame[[name, f"{name}_low", f"{name}_high"]].to_numpy()]
