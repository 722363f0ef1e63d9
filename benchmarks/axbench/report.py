"""An AxBench run as tables, figures and one page.

The answers are the scored table of `benchmarks.axbench.scores.with_scores`, in which `concept`,
`instruction` and `fluency` are ratings, with the texts beside them:

- `concept_text`: the concept in words;
- `instruction_text`: what the model was asked, without any steering prompt;
- `text`: what it answered.

Methods without a strength, and the baseline, are as in `benchmarks.axbench.tables`. Equal input
gives equal files, in whatever order the rows are.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.axbench.plots import concepts_figure, multiplier_figure
from benchmarks.axbench.published import Cell
from benchmarks.axbench.scores import REPORTED_ON, Detection, winners
from benchmarks.axbench.tables import (
    BASELINE,
    CAUTIONS,
    PROXY,
    check_answers,
    fixed_methods,
    method_table,
    reported_answers,
    shown_tables,
)
from benchmarks.judges.ratings import Kind
from concept_das.reports.figures import SUBJECT, figure_png
from concept_das.reports.page import write_page
from concept_das.reports.tables import to_markdown
from concept_das.runs.files import write_atomically

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
    judge: str,
    judge_kind: Kind,
    *,
    title: str = "AxBench",
    notes: Sequence[str] = (),
    detection: Detection | None = None,
    cell: Cell | None = None,
    reported_on: Iterable[int] = REPORTED_ON,
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
    table = method_table(scored, selected, judge, judge_kind, detection, cell, on)
    best = reported_answers(scored, selected, on)
    competing = best[best["method"] != BASELINE]
    rated = set(competing.loc[competing["score"].notna(), "method"])
    against = winners(competing, SUBJECT) if SUBJECT in rated else None
    tables = shown_tables(table, selected, against, cell, judge_kind)
    score = "score (proxy)" if judge_kind == "proxy" else "score"
    held_out = scored[scored["input_id"].isin(on)]
    figures = {
        "Score by multiplier": multiplier_figure(held_out, fixed_methods(scored), BASELINE, score),
        "Spread over concepts, tuned": concepts_figure(best, BASELINE, score),
    }
    warnings = [PROXY] if judge_kind == "proxy" else []
    if cell is not None:
        warnings.append(CAUTIONS[judge_kind])
    notes = [f"Judge: {judge} ({judge_kind}).", *notes]
    parts = [f"# {title}", *(f"**{warning}**" for warning in warnings), *notes]
    for heading, frame in tables.items():
        parts += [f"## {heading}", to_markdown(frame)]
    summary = "\n\n".join(part.strip() for part in [*parts, "## How to read them", *READING])
    csvs = {
        "table.csv": table,
        "selected.csv": selected,
        "winners.csv": against,
        "detection.csv": None if detection is None else detection.per_concept,
    }
    for name, rows in csvs.items():
        if rows is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomically(folder / name, rows.to_csv(index=False).encode())
    for name, figure in zip(("score_by_multiplier", "concepts"), figures.values(), strict=True):
        write_atomically(folder / f"{name}.png", figure_png(figure))
    write_atomically(folder / "summary.md", f"{summary}\n".encode())
    kept, left_out = _first_concepts(scored)
    return write_page(
        folder / "report.html",
        title,
        [*notes, *left_out],
        tables,
        figures,
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
