"""An AxBench run as tables, figures and one page.

The answers are the scored table of `benchmarks.axbench.scores.with_scores`, in which `concept`,
`instruction` and `fluency` are ratings, with these beside them:

- `judge`, `judge_kind`: who rated, the same in every row;
- `concept_text`: the concept in words;
- `instruction_text`: what the model was asked, without any steering prompt;
- `text`: what it answered.

Equal input gives equal files, in whatever order the rows are.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.axbench.comparable import PROXY, reasons_in_words
from benchmarks.axbench.figures import concepts_figure, multiplier_figure
from benchmarks.axbench.published import Cell
from benchmarks.axbench.scores import concept_means, with_halves
from benchmarks.axbench.tables import (
    answers_by_factor,
    check_answers,
    comparisons,
    fixed_methods,
    method_table,
    shown_tables,
)
from benchmarks.judges.ratings import Kind
from concept_das.data.files import write_table
from concept_das.reports.figures import figure_png
from concept_das.reports.page import Picture, write_page
from concept_das.reports.tables import write_markdown
from concept_das.runs.files import write_atomically

TEXTS = ("concept_text", "instruction_text", "text")

# What a browser filters without delay, and a page of some 50 MB.
MOST_ANSWERS = 50_000

READING = (
    "A score is the harmonic mean of three ratings from 0 to 2: concept, instruction, fluency. For "
    "suppression 2 - concept takes the concept's place; the column has the rating itself, so low "
    "is good there. Scores and ratings are means over concepts of the mean of each.",
    "Fixed: multiplier 1, for which nothing was tuned. Fair: for each concept the multiplier was "
    "chosen on one half of the instructions and is reported on the other, both ways. Oracle: it "
    "was chosen on the reported half itself, which no user can do. NA: the method has no "
    "multiplier. All are of the same instructions.",
    "In brackets: Student's 95% interval over concepts. Missing: share of answers without a "
    "complete rating, which the score leaves out; AxBench takes an unreadable rating for 0.",
    "Against another method: the difference of the scores, on the concepts that both have. The "
    "winrate counts a tie as half a win. p is of the exact sign-flip test over concepts, which "
    "says nothing with fewer than six; Holm: corrected for the number of tests in the table.",
    "Detection AUROC: how well the direction tells texts with the concept from texts without. It "
    "depends neither on the direction of steering nor on the multiplier.",
    "In figures bands and black lines are Student's 95% intervals over concepts.",
)


def write_report(
    folder: Path,
    scored: pd.DataFrame,
    selected: pd.DataFrame,
    instructions: int,
    *,
    title: str = "AxBench",
    notes: Sequence[str] = (),
    detection: pd.DataFrame | None = None,
    cell: Cell | None = None,
    differences: Sequence[str] = (),
    apart: Sequence[str] = (),
) -> Path:
    """Write the report of a run.

    These are table.csv (`method_table`), concepts.csv (the scores of each concept that the table
    has means of), selected.csv, summary.md, score_by_multiplier.png, concepts.png and report.html;
    and where there is something to write, winners.csv (methods against cdas and against the
    untouched model) and detection.csv (AUROC per concept).

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
    scored = scored.sort_values(keys, ignore_index=True)
    selected = selected.sort_values([*keys[:3], "half"], ignore_index=True)
    by_factor = answers_by_factor(scored, selected, instructions)
    table = method_table(scored, by_factor, detection, cell, differences, apart)
    kind: Kind = scored["judge_kind"].iloc[0]
    against = comparisons(by_factor)
    score = "score (proxy)" if kind == "proxy" else "score"
    fair = pd.concat([by_factor["NA"], by_factor["fair"]], ignore_index=True)
    pictures = {
        heading: Picture(figure_png(figure))
        for heading, figure in (
            ("Score by multiplier", multiplier_figure(scored, fixed_methods(scored), score)),
            ("Spread over concepts, fair", concepts_figure(fair, score)),
        )
    }
    for name, picture in zip(("score_by_multiplier", "concepts"), pictures.values(), strict=True):
        write_atomically(folder / f"{name}.png", picture.png)
    means = [concept_means(rows).assign(factor=name) for name, rows in by_factor.items()]
    csvs = {
        "table": table,
        "concepts": pd.concat(means, ignore_index=True),
        "selected": selected,
        "winners": against,
        "detection": detection,
    }
    for name, rows in csvs.items():
        if rows is None:
            (folder / f"{name}.csv").unlink(missing_ok=True)
        else:
            write_table(folder / f"{name}.csv", rows)
    tables = shown_tables(table, selected, against, cell)
    warnings = [PROXY] if kind == "proxy" else []
    if cell is not None and (reasons := reasons_in_words(kind, differences)):
        warnings.append(reasons)
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
        _for_page(kept, selected, instructions, score),
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
    scored: pd.DataFrame, selected: pd.DataFrame, instructions: int, score: str
) -> pd.DataFrame:
    """The answers in a reader's words, with the rows of the table that each counts in."""
    case = ["method", "concept_id", "direction"]
    halved = with_halves(scored, instructions)[[*case, "half", "multiplier"]]
    halved = halved.merge(selected, on=[*case, "half"], how="left")
    without = halved["method"].isin(fixed_methods(scored))
    counts = {
        "fixed": halved["multiplier"] == 1,
        "fair": halved["multiplier"] == halved["fair"],
        "oracle": halved["multiplier"] == halved["oracle"],
    }
    names = [
        ", ".join(name for name, here in zip(counts, row, strict=True) if here) or "not reported"
        for row in zip(*counts.values(), strict=True)
    ]
    counts_in = np.where(without, "NA", names)
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
