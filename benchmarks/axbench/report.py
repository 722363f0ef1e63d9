"""An AxBench run as tables, figures and one page.

The answers are the scored table of `benchmarks.axbench.scores.with_scores`, in which `concept`,
`instruction` and `fluency` are ratings, with these beside them:

- `judge`, `judge_kind`: who rated, the same in every row;
- `concept_text`: the concept in words;
- `instruction_text`: what the model was asked, without any steering prompt;
- `text`: what it answered.

Methods without a strength, and the baseline, are as in `benchmarks.axbench.report`. Equal input
gives equal files, in whatever order the rows are.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.axbench.figures import concepts_figure, multiplier_figure
from benchmarks.axbench.published import Cell, published
from benchmarks.axbench.scores import (
    RATINGS,
    mean_auroc,
    reported,
    summarise,
    unit,
    winners,
)
from benchmarks.judges.ratings import Kind
from benchmarks.steps import UNSTEERED
from concept_das.data.files import write_table
from concept_das.errors import InputError
from concept_das.reports.figures import SUBJECT, figure_png
from concept_das.reports.page import Picture, write_page
from concept_das.reports.tables import with_interval, write_markdown
from concept_das.runs.files import write_atomically
from concept_das.words import DIRECTIONS

JUDGED = ("judge", "judge_kind")
TEXTS = ("concept_text", "instruction_text", "text")

# What a browser filters without delay, and a page of some 50 MB.
MOST_ANSWERS = 50_000

READING = (
    "A score is the harmonic mean of three ratings from 0 to 2: concept, instruction, fluency. For "
    "suppression 2 - concept takes the concept's place; the column has the rating itself, so low "
    "is good there. Scores and ratings are means over concepts of the mean of each.",
    "Tuned: the multiplier was chosen for each concept on a part of its instructions, and the "
    "others are reported. Unit: multiplier 1, on the same instructions. NA: the method has no "
    "multiplier.",
    "In brackets: 95% bootstrap interval over concepts. Missing: share of answers without a "
    "complete rating.",
    f"Against {SUBJECT}: the method's score less {SUBJECT}'s, on the concepts that both have. The "
    f"winrate is over {SUBJECT}; a tie is half a win. p is not corrected for several comparisons.",
    "Detection AUROC: how well the direction tells texts with the concept from texts without. It "
    "depends neither on the direction of steering nor on the multiplier.",
    "Figures show the reported instructions. Bands and black lines are 95% bootstrap intervals "
    "over concepts.",
)


def write_report(
    folder: Path,
    scored: pd.DataFrame,
    selected: pd.DataFrame,
    reported_on: Iterable[int],
    *,
    title: str = "AxBench",
    notes: Sequence[str] = (),
    detection: pd.DataFrame | None = None,
    cell: Cell | None = None,
) -> Path:
    """Write the report of a run.

    These are table.csv (`method_table`), selected.csv, summary.md, score_by_multiplier.png,
    concepts.png and report.html; and where there is something to write, winners.csv (the other
    methods against cdas) and detection.csv (AUROC per concept).

    Args:
        folder: made if it is not there. Files of these names in it are replaced, and winners.csv
            and detection.csv removed where there is nothing to write.
        scored: the answers with their texts; see the top of this module.
        title: heading of the page and of the summary.
        notes: plain sentences about the run: model, layer, data, settings.

    The other arguments are those of `method_table`.

    Returns:
        The path of the page, which holds everything that it shows: tables, figures, and answers
        with their ratings, all up to 50,000, and beyond that those of the first concepts.

    Raises:
        InputError: as in `method_table`, or if a column of texts is missing.
    """
    check_answers(scored, TEXTS)
    keys = ["method", "concept_id", "direction", "multiplier", "input_id"]
    scored, on = scored.sort_values(keys, ignore_index=True), list(reported_on)
    selected = selected.sort_values(keys[:3], ignore_index=True)
    table = method_table(scored, selected, on, detection, cell)
    kind: Kind = scored["judge_kind"].iloc[0]
    best = reported_answers(scored, selected, on)
    competing = best[best["method"] != UNSTEERED]
    rated = set(competing.loc[competing["score"].notna(), "method"])
    against = winners(competing, SUBJECT) if SUBJECT in rated else None
    score = "score (proxy)" if kind == "proxy" else "score"
    held_out = scored[scored["input_id"].isin(on)]
    pictures = {
        heading: Picture(figure_png(figure))
        for heading, figure in (
            ("Score by multiplier", multiplier_figure(held_out, fixed_methods(scored), score)),
            ("Spread over concepts, tuned", concepts_figure(best, score)),
        )
    }
    for name, picture in zip(("score_by_multiplier", "concepts"), pictures.values(), strict=True):
        write_atomically(folder / f"{name}.png", picture.png)
    csvs = {"table": table, "selected": selected, "winners": against, "detection": detection}
    for name, rows in csvs.items():
        if rows is None:
            (folder / f"{name}.csv").unlink(missing_ok=True)
        else:
            write_table(folder / f"{name}.csv", rows)
    tables = shown_tables(table, selected, against, cell)
    warnings = [PROXY] if kind == "proxy" else []
    if cell is not None:
        warnings.append(CAUTIONS[kind])
    notes = [f"Judge: {scored['judge'].iloc[0]} ({kind}).", *notes]
    write_markdown(
        folder / "summary.md",
        title,
        [*(f"**{warning}**" for warning in warnings), *notes],
        tables,
        ["## How to read them", *READING],
    )
    kept, left_out = _first_concepts(scored)
    return write_page(
        folder / "report.html",
        title,
        [*notes, *left_out],
        tables,
        pictures,
        _for_page(kept, selected, on, score),
        filters=["method", "concept", "direction", "multiplier", "input", "reported as"],
        texts=["instruction", "answer"],
        warnings=warnings,
        reading=READING,
    )


def _first_concepts(scored: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """As many concepts as a page can hold, and a sentence about the others if there are any."""
    counts = scored["concept_id"].value_counts().sort_index()
    fits = max(int((counts.cumsum() <= MOST_ANSWERS).sum()), 1)
    if fits == len(counts):
        return scored, []
    kept = scored[scored["concept_id"].isin(counts.index[:fits])]
    return kept, [f"This page has the answers of the first {fits} of {len(counts)} concepts."]


def _for_page(
    scored: pd.DataFrame, selected: pd.DataFrame, on: Sequence[int], score: str
) -> pd.DataFrame:
    """The answers in a reader's words, with the rows of the table that each counts in."""
    case = ["method", "concept_id", "direction", "multiplier"]
    chosen = pd.MultiIndex.from_frame(scored[case]).isin(pd.MultiIndex.from_frame(selected[case]))
    held_out, at_one = scored["input_id"].isin(on), scored["multiplier"] == 1
    counts_in = np.select(
        [
            ~held_out,
            scored["method"].isin(fixed_methods(scored)),
            chosen & at_one,
            chosen,
            at_one,
        ],
        ["not reported", "NA", "tuned and unit", "tuned", "unit"],
        "not reported",
    )
    return pd.DataFrame(
        {
            "method": scored["method"],
            "concept": scored["concept_id"].astype(str) + " " + scored["concept_text"].fillna(""),
            "direction": scored["direction"],
            "multiplier": scored["multiplier"],
            "input": scored["input_id"],
            "reported as": counts_in,
            score: scored["score"],
            "concept rating": scored["concept"],
            "instruction rating": scored["instruction"],
            "fluency rating": scored["fluency"],
            "instruction": scored["instruction_text"],
            "answer": scored["text"],
        }
    )


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
    reported_on: Iterable[int],
    detection: pd.DataFrame | None = None,
    cell: Cell | None = None,
) -> pd.DataFrame:
    """One row per method, direction and factor.

    Args:
        scored: the answers, from `with_scores`.
        selected: from `select_multipliers` on the other inputs.
        reported_on: input ids that were not used to choose multipliers.
        detection: from `detection_auroc`.
        cell: whose published scores stand beside those that elicit.

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
    at_unit = unit(scored[~scored["method"].isin(fixed)], on)
    # A method without any multiplier that could be chosen has a row all the same.
    tuned = scored[_CASE].drop_duplicates()
    tuned = tuned.merge(_means(reported_answers(scored, selected, on)), on=_CASE, how="left")
    tuned["factor"] = np.where(tuned["method"].isin(fixed), "NA", "tuned")
    tuned["concepts"] = tuned["concepts"].fillna(0).astype(int)
    parts = [tuned, _means(at_unit).assign(factor="unit")]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    if detection is not None:
        table = table.merge(mean_auroc(detection), on="method", how="left")
    if cell is not None:
        known = published(cell).assign(direction=DIRECTIONS[0])
        known = known.rename(columns={"score": "published", "source": "published_source"})
        table = table.merge(known, on=["method", "factor", "direction"], how="left")
        table["difference"] = table["score"] - table["published"]
    kind: Kind = scored["judge_kind"].iloc[0]
    table = table.reindex(columns=[*COLUMNS])
    table = table.assign(judge=scored["judge"].iloc[0], judge_kind=kind)
    other = PROXY if kind == "proxy" else ""
    table["caution"] = np.where(table["published"].notna(), CAUTIONS[kind], other)
    order = table.assign(
        place=table["direction"].map(DIRECTIONS.index),
        group=(table["factor"] == "unit") + 2 * (table["method"] == UNSTEERED),
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
) -> dict[str, pd.DataFrame]:
    """The tables that a reader sees, by heading: narrow, and marked where a proxy rated.

    Args:
        table: from `method_table`.
        selected: from `select_multipliers`.
        against: from `winners`.
        cell: whose published scores are listed that have no row in the table.
    """
    mark = " (proxy ratings)" if (table["judge_kind"] == "proxy").all() else ""
    shown = {
        f"{direction.capitalize()}{mark}": _shown(rows)
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
        comparable = "" if judge_kind == "api" else " (not comparable)"
        columns[f"published{comparable}"] = rows["published"]
        columns[f"difference{comparable}"] = rows["difference"]
        columns["published in"] = rows["published_source"]
    columns |= {"concepts": rows["concepts"], "missing": rows["missing"]}
    shown = pd.DataFrame(columns)
    return shown if rows["auroc"].notna().any() else shown.drop(columns="detection AUROC")


def _intervals(frame: pd.DataFrame, name: str) -> list[str | None]:
    return [with_interval(*row) for row in frame[[name, f"{name}_low", f"{name}_high"]].to_numpy()]
