"""The tables of an AxBench report.

The scored table of answers is as in `benchmarks.axbench.report`. Methods without a strength are
those that were run at multiplier 1 alone, the baseline `unsteered` among them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from benchmarks.axbench.comparable import APART, PROXY, reasons_in_words
from benchmarks.axbench.published import Cell, published
from benchmarks.axbench.scores import (
    HALVES,
    RATINGS,
    fixed,
    mean_auroc,
    reported,
    summarise,
    winners,
    with_scores,
)
from benchmarks.judges.ratings import Kind
from benchmarks.steps import UNSTEERED
from concept_das.errors import InputError
from concept_das.evaluation.intervals import p_text
from concept_das.reports.figures import SUBJECT
from concept_das.reports.tables import with_interval
from concept_das.words import DIRECTIONS

JUDGED = ("judge", "judge_kind")

COLUMNS = (
    "method", "direction", "factor", "score", "score_low", "score_high", "concepts", "missing",
    "score_missing_as_0", *(f"{name}_rating" for name in RATINGS),
    "auroc", "auroc_low", "auroc_high",
    "published", "published_source", "difference", "judge", "judge_kind", "caution",
)  # fmt: skip

_CASE = ["method", "direction"]


def method_table(
    scored: pd.DataFrame,
    by_factor: Mapping[str, pd.DataFrame],
    detection: pd.DataFrame | None = None,
    cell: Cell | None = None,
    differences: Sequence[str] = (),
    apart: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per method, direction and factor.

    Args:
        scored: the answers, from `with_scores`.
        by_factor: those that are reported, from `answers_by_factor`.
        detection: from `detection_auroc`.
        cell: whose published scores stand beside those that elicit.
        differences: what was measured otherwise than they were, in words.
        apart: methods with other settings than the published ones.

    Returns:
        The columns method, direction, `factor` (fixed, fair, oracle or NA); `score`, `score_low`,
        `score_high`, `concepts`, `missing`, as `summarise` has them; `score_missing_as_0`, with
        missing ratings taken for 0 at the same multipliers, as AxBench does; `concept_rating`,
        `instruction_rating`, `fluency_rating`, means over concepts of the mean of each; `auroc`,
        `auroc_low`, `auroc_high`, the method's; `published`, `published_source`, `difference`
        (score_missing_as_0 - published; empty where these are not the same measurement); `judge`,
        `judge_kind`, and `caution`, what to mind about the row.
        Elicitation is first; within a direction fair and NA, best first, then fixed, oracle, and
        the baseline.

    Raises:
        InputError: if the answers are empty or lack a column, or the cell is unknown.
    """
    check_answers(scored)
    kind: Kind = scored["judge_kind"].iloc[0]
    # A method without any multiplier that could be chosen has a row all the same.
    every = scored[_CASE].drop_duplicates()
    every["factor"] = np.where(every["method"].isin(fixed_methods(scored)), "NA", "fair")
    means = [_means(rows).assign(factor=name) for name, rows in by_factor.items()]
    known = pd.concat([part for part in means if len(part)], ignore_index=True)
    table = every.merge(known, on=[*_CASE, "factor"], how="outer", sort=False)
    table["concepts"] = table["concepts"].fillna(0).astype(int)
    if detection is not None:
        table = table.merge(mean_auroc(detection), on="method", how="left")
    others = table["method"].isin(list(apart))
    reasons = reasons_in_words(kind, differences)
    if cell is not None:
        known = published(cell).assign(direction=DIRECTIONS[0])
        known = known.rename(columns={"score": "published", "source": "published_source"})
        table = table.merge(known, on=["method", "factor", "direction"], how="left")
        difference = table["score_missing_as_0"] - table["published"]
        table["difference"] = difference.where(~others & (reasons == ""))
    table = table.reindex(columns=[*COLUMNS])
    table = table.assign(judge=scored["judge"].iloc[0], judge_kind=kind)
    beside = reasons or np.where(others, APART, "")
    plain = PROXY if kind == "proxy" else ""
    table["caution"] = np.where(table["published"].notna(), beside, plain)
    order = table.assign(
        place=table["direction"].map(DIRECTIONS.index),
        group=table["factor"].map({"fixed": 1, "oracle": 2}).fillna(0)
        + 3 * (table["method"] == UNSTEERED),
        lost=-table["score"],
    ).sort_values(["place", "group", "lost", "method"])
    return table.loc[order.index].reset_index(drop=True)


def check_answers(scored: pd.DataFrame, texts: Sequence[str] = ()) -> None:
    """Refuse a table that is no scored table of answers with these texts.

    Raises:
        InputError: if it is empty or lacks a column.
    """
    needed = [*_CASE, "concept_id", "multiplier", "input_id", *RATINGS, "score", *JUDGED, *texts]
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


def answers_by_factor(
    scored: pd.DataFrame, selected: pd.DataFrame, instructions: int
) -> dict[str, pd.DataFrame]:
    """The answers that each factor reports, one for each instruction: NA, fair, fixed, oracle.

    Raises:
        InputError: as `scores.reported`.
    """
    without = scored["method"].isin(fixed_methods(scored))
    tunable = scored[~without]
    selected = selected[selected["method"].isin(tunable["method"])]
    return {
        "NA": fixed(scored[without]),
        "fair": reported(tunable, selected, instructions, "fair"),
        "fixed": fixed(tunable),
        "oracle": reported(tunable, selected, instructions, "oracle"),
    }


def comparisons(by_factor: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    """`winners` against the untouched model and against cdas, fair and fixed; None without any.

    Returns:
        Their columns after `factor`, that of the methods that have multipliers.
    """
    parts = []
    for factor in ("fair", "fixed"):
        rows = pd.concat([by_factor["NA"], by_factor[factor]], ignore_index=True)
        steered = rows[rows["method"] != UNSTEERED]
        for reference, competing in ((UNSTEERED, rows), (SUBJECT, steered)):
            if reference in set(competing.loc[competing["score"].notna(), "method"]):
                found = winners(competing, reference)
                found.insert(0, "factor", factor)
                parts.append(found)
    return pd.concat(parts, ignore_index=True) if any(map(len, parts)) else None


def shown_tables(
    table: pd.DataFrame,
    selected: pd.DataFrame,
    against: pd.DataFrame | None,
    cell: Cell | None,
) -> dict[str, pd.DataFrame]:
    """The tables that a reader sees, by heading: narrow, and marked where a proxy rated.

    Args:
        table: from `method_table`.
        selected: from `select_multipliers`.
        against: from `comparisons`.
        cell: whose published scores are listed that have no row in the table.
    """
    mark = " (proxy ratings)" if (table["judge_kind"] == "proxy").all() else ""
    shown = {
        f"{direction.capitalize()}{mark}": _shown(rows)
        for direction in DIRECTIONS
        if len(rows := table[table["direction"] == direction])
    }
    groups = () if against is None else against.groupby(["reference", "factor"], sort=False)
    for (reference, factor), rows in groups:
        shown[f"Against {reference}, {factor}{mark}"] = pd.DataFrame(
            {
                "method": rows["method"],
                "direction": rows["direction"],
                "difference": _intervals(rows, "difference"),
                "p": rows["p"].map(p_text),
                "p, Holm": rows["p_holm"].map(p_text),
                "winrate": _intervals(rows, "winrate"),
                "concepts": rows["concepts"],
            }
        )
    tuned = set(table.loc[table["factor"] == "fair", "method"])
    chosen = selected[selected["method"].isin(tuned)].dropna(subset=["fair"])
    if len(chosen):
        of = chosen.groupby(_CASE)["fair"]
        wide = chosen.pivot(index=[*_CASE, "concept_id"], columns="half", values="fair")
        same = (wide[HALVES[0]] == wide[HALVES[1]]).groupby(_CASE).mean()
        shown["Chosen multipliers"] = pd.DataFrame(
            {
                "lowest": of.min(),
                "median": of.median(),
                "highest": of.max(),
                "concepts": wide.groupby(_CASE).size(),
                "same by both halves": same,
            }
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
    zeros = summarise(with_scores(rows.fillna(dict.fromkeys(RATINGS, 0))))
    zeros = zeros[[*_CASE, "score"]].rename(columns={"score": "score_missing_as_0"})
    found = summarise(rows).merge(zeros, on=_CASE, how="left")
    return found.merge(means.reset_index(), on=_CASE, how="left")


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    judge_kind = rows["judge_kind"].iloc[0]
    columns: dict[str, object] = {
        "method": rows["method"].replace(UNSTEERED, f"{UNSTEERED} (baseline)"),
        "factor": rows["factor"],
        "score (proxy)" if judge_kind == "proxy" else "score": _intervals(rows, "score"),
        **{f"{name} rating": rows[f"{name}_rating"] for name in RATINGS},
        "detection AUROC": _intervals(rows, "auroc"),
    }
    if rows["published"].notna().any():
        comparable = rows["difference"].notna().any()
        columns["published" if comparable else "published (not comparable)"] = rows["published"]
        if comparable:
            columns["difference"] = rows["difference"]
        columns["published in"] = rows["published_source"]
    columns |= {"concepts": rows["concepts"], "missing": rows["missing"]}
    if (rows["missing"] > 0).any():
        columns["score, missing as 0"] = rows["score_missing_as_0"]
    shown = pd.DataFrame(columns)
    return shown if rows["auroc"].notna().any() else shown.drop(columns="detection AUROC")


def _intervals(frame: pd.DataFrame, name: str) -> list[str | None]:
    return [with_interval(*row) for row in frame[[name, f"{name}_low", f"{name}_high"]].to_numpy()]
