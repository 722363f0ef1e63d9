"""The report's files: tables, figures, and one page with the answers to browse."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.safety.case import Case
from benchmarks.safety.data import read_counts
from benchmarks.safety.figures import layer_figure, strength_figure, trade_figure
from benchmarks.safety.settings import Plan
from benchmarks.safety.stages import UNSTEERED, read_answers
from benchmarks.safety.tables import (
    at_reported,
    beside,
    layer_table,
    shown_tables,
    summary_of,
    table_of,
)
from concept_das.reports.figures import figure_png
from concept_das.reports.page import write_page
from concept_das.reports.tables import to_markdown
from concept_das.runs.files import write_atomically
from concept_das.runs.stages import Job, Stage

PAGE_FILE = "report.html"
TABLE_FILE = "table.csv"
LAYERS_FILE = "layers.csv"

READING = (
    "Brackets: a 95% interval, Wilson's of a share and bootstrapped over prompts of a divergence. "
    "± after several seeds: their standard deviation; after a capability change: one standard "
    "error of the mean difference, question by question.",
    "All answers are greedy. All multipliers are shown and none is chosen by what it achieves.",
)


@dataclass(frozen=True)
class Background:
    """The facts that a report adds to the measurements.

    Attributes:
        model: name of the measured model.
        sources: where the settings are from, see `benchmarks.safety.settings.sources_of`.
        published: rows with a column method.
        same_model: whether the published numbers are of this model.
        reported: multiplier of published results by method.
    """

    model: str
    sources: Sequence[Mapping[str, str]]
    published: pd.DataFrame
    same_model: bool
    reported: Mapping[str, float]


def report_stage(case: Case, plan: Plan, stages: Sequence[Stage], background: Background) -> Stage:
    """The stage that gathers; of a sweep over layers if the pieces are layers."""
    run = _write_report if plan.layer is not None else _write_layers
    return Stage(
        "report",
        partial(run, case=case, plan=plan, background=background),
        tuple(stage.name for stage in stages if not stage.name.startswith("train.")),
        {
            "title": case.title,
            "notes": case.notes,
            "explained": dict(case.explained),
            "sections": dict(case.sections),
            "trades": [asdict(trade) for trade in case.trades],
            "reading": READING,
            "model": background.model,
            "sources": [dict(row) for row in background.sources],
            "published": background.published.to_csv(),
            "same_model": background.same_model,
            "reported": dict(background.reported),
        },
        gathers=True,
    )


def _write_report(job: Job, case: Case, plan: Plan, background: Background) -> None:
    table = table_of(job, plan)
    summary = summary_of(case, table)
    published = beside(case, summary, background.published, background.reported)
    _write_csv(job, TABLE_FILE, table)
    _write_csv(job, "summary.csv", summary)
    _write_pages(
        job,
        case,
        background,
        title=f"{case.title}: {background.model}",
        notes=case.notes,
        markdown="summary.md",
        tables={**shown_tables(case, summary), "Published": published},
        figures={
            "rates.png": ("Rates by multiplier", strength_figure(case, summary)),
            "tradeoff.png": ("Rates against divergence", trade_figure(case, summary)),
        },
        answers=_answers(job, plan),
    )


def _write_layers(job: Job, case: Case, plan: Plan, background: Background) -> None:
    table = table_of(job, plan)
    layers = layer_table(case, table, [piece.inputs["layer"] for piece in plan.pieces])
    figure = layer_figure(case, at_reported(layers, background.reported))
    _write_csv(job, LAYERS_FILE, layers)
    _write_pages(
        job,
        case,
        background,
        title=f"{case.title} by layer: {background.model}",
        notes=[
            *case.notes,
            "The figure shows each method at the multiplier of published results, or the nearest.",
        ],
        markdown="layers.md",
        tables=shown_tables(case, summary_of(case, table)),
        figures={"layers.png": ("By layer", figure)},
    )


def _write_csv(job: Job, name: str, table: pd.DataFrame) -> None:
    write_atomically(job.folder / name, table.to_csv(index=False).encode())


def _write_pages(
    job: Job,
    case: Case,
    background: Background,
    *,
    title: str,
    notes: Sequence[str],
    markdown: str,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, tuple[str, Figure]],
    answers: pd.DataFrame | None = None,
) -> None:
    """Write the page, the same in markdown without answers, and its figures.

    Args:
        markdown: name of that file.
        figures: by the name of their file, with their heading.
    """
    tables = {**tables, **_about(job, case, background)}
    warnings = _warnings(background)
    text = _markdown(title, [*warnings, *notes], tables)
    write_atomically(job.folder / markdown, text.encode())
    for name, (_heading, figure) in figures.items():
        write_atomically(job.folder / name, figure_png(figure))
    write_page(
        job.folder / PAGE_FILE,
        title,
        notes,
        tables,
        dict(figures.values()),
        answers,
        filters=("method", "direction", "prompts", "multiplier"),
        texts=("prompt", "text"),
        warnings=warnings,
        reading=READING,
    )


def _about(job: Job, case: Case, background: Background) -> dict[str, pd.DataFrame]:
    (data,) = job.sources["data"]
    counts = read_counts(data)
    return {
        "What the columns are": pd.DataFrame(
            [
                {"column": name.replace("_", " "), "meaning": meaning}
                for name, meaning in case.explained.items()
            ]
        ),
        "Data": pd.DataFrame({"what": list(counts), "number": list(counts.values())}),
        "Settings and their sources": pd.DataFrame([dict(row) for row in background.sources]),
    }


def _warnings(background: Background) -> list[str]:
    if background.same_model:
        return [
            "The published numbers are of this model by the authors' own code and judge of "
            "answers, which are not known in full."
        ]
    return [
        f"The published numbers are of other, larger models than {background.model}: they say in "
        "which order the methods came there, and are no target for the numbers here."
    ]


def _answers(job: Job, plan: Plan) -> pd.DataFrame:
    """The answers of the first piece; the untouched model's once, whatever they are compared to."""
    frames = []
    for method in (UNSTEERED, *plan.configs):
        answers = read_answers(job.sources[f"generate.{method}"][0])
        frames.append(answers.assign(method=method))
    whole = pd.concat(frames, ignore_index=True)
    whole["direction"] = whole["direction"].fillna("none") if "direction" in whole else "none"
    return whole.sort_values(["prompts", "number"], kind="stable").drop(columns="number")


def _markdown(title: str, notes: Sequence[str], tables: Mapping[str, pd.DataFrame]) -> str:
    parts = [f"# {title}", *notes]
    for heading, table in tables.items():
        parts += [f"## {heading}", to_markdown(table)]
    return "\n\n".join(part.strip() for part in [*parts, *READING]) + "\n"
