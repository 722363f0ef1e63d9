"""One self-contained HTML page: tables, figures, and answers that are filtered in the browser."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from concept_das.errors import InputError
from concept_das.reports.figures import SUBJECT, figure_address, figure_png
from concept_das.reports.tables import page_table
from concept_das.runs.files import write_atomically


def write_page(
    path: Path,
    title: str,
    notes: Sequence[str] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
    figures: Mapping[str, Figure] | None = None,
    answers: pd.DataFrame | None = None,
    filters: Sequence[str] = (),
    texts: Sequence[str] = (),
    *,
    warnings: Sequence[str] = (),
    reading: Sequence[str] = (),
) -> Path:
    """Write a page that holds everything it shows and loads nothing.

    Args:
        path: the file; its folder is made.
        title: heading of the page.
        notes: plain sentences above the results.
        tables: by heading. A click on a column's name sorts; a row whose first cell is the
            project's own method stands out.
        figures: by heading, which is also what is read out in place of the picture.
        answers: one row per answer, shown in this order, a few at a time. Columns that are
            neither filters nor texts are shown as short values, such as ratings; numbers among
            them can be sorted by. Missing values are shown as a dash.
        filters: columns of the answers to choose by.
        texts: columns of the answers that hold long text, in the order in which they are shown.
        warnings: sentences that nobody may overlook, above everything else.
        reading: how to read the results; small, below the tables.

    Returns:
        The path.

    Raises:
        InputError: if a filter or a text is not a column of the answers, or is named twice.
    """
    data = None if answers is None or answers.empty else _columns(answers, filters, texts)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("concept_das", "resources"), autoescape=True
    )
    page = environment.get_template("page.html").render(
        title=title,
        subject=SUBJECT,
        warnings=warnings,
        notes=notes,
        tables={heading: page_table(table) for heading, table in (tables or {}).items()},
        reading=reading,
        figures={
            heading: figure_address(figure_png(figure))
            for heading, figure in (figures or {}).items()
        },
        count=0 if answers is None else len(answers),
        columns=data,
        data=None if data is None else json_for_script(data),
    )
    write_atomically(path, page.encode())
    return path


def json_for_script(value: Any) -> str:
    """JSON that may stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _columns(
    answers: pd.DataFrame, filters: Sequence[str], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Columns as their different values and, per row, the place among these; -1 where missing.

    An instruction is repeated for each method and multiplier, so this is far shorter than rows.
    """
    named = [*filters, *texts]
    absent = [name for name in named if name not in answers.columns]
    if absent:
        raise InputError(f"the answers have no column {absent[0]!r} to filter by or show; add it")
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise InputError(f"the column {twice[0]!r} of the answers is named twice; name it once")
    columns = []
    for name in [*filters, *(c for c in answers.columns if c not in named), *texts]:
        role = "filter" if name in filters else "text" if name in texts else "value"
        codes, found = pd.factorize(answers[name])
        values = [_plain(value) for value in found]
        if role == "filter":
            order = sorted(
                range(len(values)), key=lambda i: (isinstance(values[i], str), values[i])
            )
            place = np.empty(len(values) + 1, dtype=int)
            place[order] = range(len(values))
            place[-1] = -1  # where a code of -1, for missing, looks
            codes, values = place[codes], [values[i] for i in order]
        columns.append(
            {
                "name": str(name),
                "role": role,
                "number": is_numeric_dtype(answers[name]) and not is_bool_dtype(answers[name]),
                "values": values,
                "codes": codes.tolist(),
            }
        )
    return columns


def _plain(value: Any) -> str | int | float:
    """A value as JSON has it; what JSON does not know, as text."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or (isinstance(value, float) and not np.isfinite(value)):
        return str(value)
    return value if isinstance(value, (int, float, str)) else str(value)
