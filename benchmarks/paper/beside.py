"""The table of an entry: the numbers that its runs measured, and beside them the published ones."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.axbench.presets import Preset
from benchmarks.axbench.published import published
from benchmarks.models import is_model
from benchmarks.paper.entries import Entry
from benchmarks.safety.report import LAYERS_FILE
from benchmarks.safety.settings import SafetyPreset
from concept_das.data.files import write_table
from concept_das.reports.tables import with_interval, write_markdown

_BOUNDS = ["measured", "low", "high"]

_COLUMNS = ["run", "method", "what", *_BOUNDS, "published", "source"]

NOTES = (
    "Cells: measured [its 95% interval] / published. A dash where nothing was measured or nothing "
    "is published. Methods that were not run, or that this project does not have, are there with "
    "their published numbers alone.",
    "Each report says by which judge, on which data and on which model was measured: only "
    "where these are the paper's can the two numbers be compared.",
)


def write_beside(entry: Entry, out: Path, model: str | None = None) -> Path | None:
    """Write OUT/table.csv and OUT/table.md from the reports of an entry's runs.

    Args:
        model: that was measured in place of the presets' own.

    Returns:
        The second; None for an entry that measures nothing.
    """
    presets = dict(entry.presets())
    if not presets:
        return None
    parts = [
        _of_axbench(out / run / "report", preset)
        if isinstance(preset, Preset)
        else _of_safety(out / run, preset, entry.columns)
        for run, preset in presets.items()
    ]
    parts = [part.assign(run=run) for run, part in zip(presets, parts, strict=True)]
    whole = pd.concat(parts, ignore_index=True).reindex(columns=_COLUMNS)
    write_table(out / "table.csv", whole)
    # AxBench has one measure and many rows; the others have several measures of few methods.
    scores = any(isinstance(preset, Preset) for preset in presets.values())
    rows, columns = (["method", "what"], "run") if scores else (["run", "method"], "what")
    wide = whole.assign(cell=[_cell(row) for row in whole.to_dict("records")]).pivot_table(
        index=rows, columns=columns, values="cell", aggfunc="first", sort=False
    )
    warnings = []
    if model is not None and not all(is_model(model, one.model) for one in presets.values()):
        warnings = [f"**Measured on {model}, which is not the paper's model.**"]
    notes = [note for note in (*warnings, *NOTES, entry.note) if note]
    write_markdown(out / "table.md", entry.title, notes, {"Table": wide.reset_index()}, [])
    return out / "table.md"


def _cell(row: Mapping[Any, Any]) -> str:
    measured, low, high, known = (float(row[name]) for name in (*_BOUNDS, "published"))
    both = with_interval(measured, low, high), with_interval(known, math.nan, math.nan)
    return " / ".join(one or "-" for one in both)


def _of_axbench(report: Path, preset: Preset) -> pd.DataFrame:
    """Scores towards the concept by method and factor."""
    keys = ["method", "factor"]
    table = pd.read_csv(report / "table.csv", keep_default_na=False, na_values=[""])
    named = {"score": "measured", "score_low": "low", "score_high": "high"}
    found = table.loc[table["direction"] == "elicit", [*keys, *named]].rename(columns=named)
    if preset.cell is not None:
        known = published(preset.cell).rename(columns={"score": "published"})
        found = found.merge(known, on=keys, how="outer", sort=False)
    return found.assign(what=found["factor"].replace("NA", "no factor"))


def published_of(preset: SafetyPreset, by_layer: bool) -> pd.DataFrame:
    """The published numbers of a preset's own model; of a preset without one, all there are."""
    if by_layer:
        return pd.read_csv(preset.folder / "published_layers.csv")
    known = preset.published_numbers()
    of_others = preset.model is not None and preset.published is None
    return known.head(0) if of_others else known


def _of_safety(
    out: Path, preset: SafetyPreset, columns: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """The entry's columns by method, and by layer in a sweep, at the published multiplier."""
    layers = out / "layers" / "report" / LAYERS_FILE
    if layers.exists():
        keys, table = ["method", "layer"], pd.read_csv(layers)
    else:
        keys, table = ["method"], pd.read_csv(out / "report" / "summary.csv")
    known = published_of(preset, "layer" in keys)
    reported = {name: one.reported_multiplier for name, one in preset.strengths.items()}
    table = table[(table["multiplier"] - table["method"].map(reported)).abs() < 1e-9]
    own = {
        name: next((one for one in names if one in table), "") for name, names in columns.items()
    }
    if "harmonic_mean" in columns:
        shares = table[[own["elicitation"], own["suppression"]]]
        own["harmonic_mean"] = "harmonic_mean"
        table = table.assign(harmonic_mean=2 * shares.prod(axis=1) / shares.sum(axis=1))
    parts = []
    for name, found in own.items():
        of = dict(zip(_BOUNDS, (found, f"{found}_low", f"{found}_high"), strict=True))
        known_of = {bound: table.get(one, math.nan) for bound, one in of.items()}
        measured = table[keys].assign(**known_of)
        said = known[[*keys, name, "source"]].rename(columns={name: "published"})
        both = measured.merge(said.dropna(subset="published"), on=keys, how="outer", sort=False)
        at = " at layer " + both["layer"].astype(str) if "layer" in keys else ""
        parts.append(both.assign(what=name.replace("_", " ") + at))
    return pd.concat(parts, ignore_index=True)
