"""The report's files: tables, figures, and one page with the answers to browse."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.models import is_model
from benchmarks.safety.case import Case
from benchmarks.safety.data import read_counts
from benchmarks.safety.figures import layer_figure, strength_figure, trade_figure
from benchmarks.safety.settings import Settings
from benchmarks.safety.stages import read_answers, read_verdicts
from benchmarks.safety.tables import (
    at_reported,
    beside,
    layer_table,
    shown_tables,
    summary_of,
    table_of,
)
from benchmarks.steps import UNSTEERED
from concept_das.data.files import write_table
from concept_das.reports.figures import figure_png
from concept_das.reports.page import Picture, write_page
from concept_das.reports.tables import write_markdown
from concept_das.runs.files import sources_of, write_atomically
from concept_das.runs.stages import Job, Stage

LAYERS_FILE = "layers.csv"

READING = (
    "A column has one kind of uncertainty, which its heading names: ± sd of seeds, where several "
    "were run; of one seed [95%], an interval over prompts, Wilson's of a share and Student's of a "
    "divergence, or ± standard error, that of a mean difference question by question. A number "
    "without it has none of that kind: the untouched model and DiffMean draw nothing.",
    "Answers are greedy where the settings below do not say otherwise. All multipliers are shown "
    "and none is chosen by what it achieves.",
)

SAME_MODEL = (
    "The published numbers are of this model by the authors' own code and judge of answers, which "
    "are not known in full."
)

OTHER_MODELS = (
    "The published numbers are of other, larger models than {}: they say in which order the "
    "methods came there, and are no target for the numbers here."
)


def report_stage(case: Case, settings: Settings, stages: Sequence[Stage]) -> Stage:
    """The stage that gathers; of a sweep over layers if the pieces are layers."""
    run = _write_report if settings.layer is not None else _write_layers
    return Stage(
        "report",
        partial(run, case=case, settings=settings),
        tuple(stage.name for stage in stages if not stage.name.startswith("train.")),
        {
            "title": case.title,
            "notes": _notes(case, settings),
            "explained": case.explained,
            "sections": case.sections,
            "unjudged": case.unjudged if case.judge is None else "",
            "agreements": case.agreements().to_dict("records"),
            "trades": [asdict(trade) for trade in case.trades],
            "reading": READING,
            "model": _model_name(settings),
            "sources": settings.sources(),
            "published": settings.preset.published_numbers().to_csv(),
            "same_model": _same_model(settings),
            "reported": settings.reported,
        },
        {"the report's rules": sources_of("benchmarks.safety", "concept_das.reports")},
        gathers=True,
    )


def _notes(case: Case, settings: Settings) -> list[str]:
    return [*case.notes, *settings.answering.notes(settings.configs)]


def _write_report(job: Job, case: Case, settings: Settings) -> None:
    table = table_of(job, settings)
    summary = summary_of(case, table)
    published = settings.preset.published_numbers()
    write_table(job.folder / "table.csv", table)
    write_table(job.folder / "summary.csv", summary)
    _write_pages(
        job,
        case,
        settings,
        title=f"{case.title}: {_model_name(settings)}",
        notes=_notes(case, settings),
        markdown="summary.md",
        tables={
            **shown_tables(case, summary),
            "Published": beside(case, summary, published, settings.reported),
            "Rules and judge against labelled answers": case.agreements(
                read_verdicts(job.source("agreement")) if "agreement" in job.sources else ()
            ),
        },
        figures={
            "rates.png": ("Rates by multiplier", strength_figure(case, summary)),
            "tradeoff.png": ("Rates against divergence", trade_figure(case, summary)),
        },
        answers=_answers(job, settings),
    )


def _write_layers(job: Job, case: Case, settings: Settings) -> None:
    table = table_of(job, settings)
    layers = layer_table(case, table, settings.choices.layers)
    figure = layer_figure(case, at_reported(layers, settings.reported))
    write_table(job.folder / LAYERS_FILE, layers)
    _write_pages(
        job,
        case,
        settings,
        title=f"{case.title} by layer: {_model_name(settings)}",
        notes=[
            *_notes(case, settings),
            "The figure shows each method at the multiplier of published results, or the nearest.",
        ],
        markdown="layers.md",
        tables=shown_tables(case, summary_of(case, table)),
        figures={"layers.png": ("By layer", figure)},
    )


def _write_pages(
    job: Job,
    case: Case,
    settings: Settings,
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
    counts = read_counts(job.source("data"))
    explained = {name.replace("_", " "): meaning for name, meaning in case.explained.items()}
    tables = {
        **tables,
        "What the columns are": pd.DataFrame(explained.items(), columns=["column", "meaning"]),
        "Data": pd.DataFrame(counts.items(), columns=["what", "number"]),
        "Settings and their sources": pd.DataFrame(settings.sources()),
    }
    same, model = _same_model(settings), _model_name(settings)
    warnings = [SAME_MODEL if same else OTHER_MODELS.format(model)]
    if case.unjudged and case.judge is None and settings.preset.model is not None:
        warnings.append(case.unjudged)
    write_markdown(job.folder / markdown, title, [*warnings, *notes], tables, READING)
    pictures = {}
    for name, (heading, figure) in figures.items():
        pictures[heading] = Picture(figure_png(figure))
        write_atomically(job.folder / name, pictures[heading].png)
    write_page(
        job.folder / "report.html",
        title,
        notes,
        tables,
        pictures,
        answers,
        filters=("method", "direction", "prompts", "multiplier"),
        texts=("prompt", "text"),
        warnings=warnings,
        reading=READING,
    )


def _model_name(settings: Settings) -> str:
    """The model's name; of a local one, the folder's."""
    path = Path(settings.subject.name)
    return path.name if path.is_dir() else settings.subject.name


def _same_model(settings: Settings) -> bool:
    """True if the published numbers are of the model that is measured."""
    preset = settings.preset
    return preset.published is not None and is_model(settings.subject.name, preset.model)


def _answers(job: Job, settings: Settings) -> pd.DataFrame:
    """The answers of the first piece; the untouched model's once, whatever they are compared to."""
    frames = []
    for method in (UNSTEERED, *settings.configs):
        answers = read_answers(job.sources[f"generate.{method}"][0])
        frames.append(answers.assign(method=method))
    whole = pd.concat(frames, ignore_index=True)
    whole["direction"] = whole["direction"].fillna("none") if "direction" in whole else "none"
    return whole.sort_values(["prompts", "number"], kind="stable").drop(columns="number")
