"""Write a self-contained HTML page of tables, figures, samples and answers to filter."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from concept_das.errors import InputError
from concept_das.reports.figures import SUBJECT
from concept_das.reports.tables import text_cells
from concept_das.runs.files import write_atomically
from concept_das.words import Direction


@dataclass(frozen=True)
class Card:
    """A number in large type, with its name and a note below it."""

    value: str
    name: str
    note: str


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn already.

    Attributes:
        png: the content of a PNG file.
        wide: it takes the page's whole width instead of a place beside others.
    """

    png: bytes
    caption: str = ""
    wide: bool = True

    @property
    def address(self) -> str:
        """A data address, as the page holds its own figures."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Sample:
    """Answers to one instruction, shown one below the other.

    Attributes:
        answers: label and text of each, e.g. the method and its answer.
        direction: of the steering; empty if the answers have several.
    """

    instruction: str
    answers: Sequence[tuple[str, str]]
    direction: Direction | Literal[""] = ""


def write_page(
    path: Path,
    title: str,
    notes: Sequence[str] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
    figures: Mapping[str, Picture] | None = None,
    answers: pd.DataFrame | None = None,
    filters: Sequence[str] = (),
    texts: Sequence[str] = (),
    *,
    subtitle: str = "",
    warnings: Sequence[str] = (),
    cards: Sequence[Card] = (),
    reading: Sequence[str] = (),
    folded: Mapping[str, pd.DataFrame] | None = None,
    samples: Mapping[str, Sequence[Sample]] | None = None,
    samples_note: str = "",
    preformatted: Mapping[str, str] | None = None,
) -> Path:
    """Write a page that holds everything it shows and loads nothing.

    A section that is not given, or is empty, is left out.

    Args:
        path: the file; its folder is made.
        title: heading of the page.
        notes: plain sentences above the results.
        tables: by heading. A click on a column's name sorts; a row whose first cell is the
            project's own method stands out.
        figures: by heading, which is also the text that replaces the picture.
        answers: one row per answer, shown in this order, a few at a time. Columns that are
            neither filters nor texts are shown as short values, such as ratings; the order can
            follow the numbers among them. Missing values are shown as a dash.
        filters: columns of the answers to choose by.
        texts: columns of the answers that hold long text, in the order in which they are shown.
        subtitle: a line below the title.
        warnings: sentences that nobody may overlook, above everything else.
        cards: the most important numbers, above the tables.
        reading: how to read the results; small, below the tables.
        folded: tables that a click opens, by heading.
        samples: by group, e.g. the concept. A click opens them; a single group is open.
        samples_note: explains the samples.
        preformatted: text to show as it is, by heading.

    Returns:
        The path.

    Raises:
        InputError: if a filter or a text is not a column of the answers, or is named twice.
    """
    columns = None if answers is None or answers.empty else _columns(answers, filters, texts)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("concept_das", "resources"), autoescape=True
    )
    # The filter tojson escapes what could end a script element.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    page = environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        subject=SUBJECT,
        warnings=warnings,
        notes=notes,
        cards=cards,
        tables=_page_tables(tables),
        reading=reading,
        figures=figures or {},
        folded=_page_tables(folded),
        samples=samples or {},
        samples_note=samples_note,
        preformatted=preformatted or {},
        count=0 if answers is None else len(answers),
        columns=columns,
    )
    write_atomically(path, page.encode())
    return path


def _page_tables(tables: Mapping[str, pd.DataFrame] | None) -> dict[str, dict[str, Any]]:
    """Tables for the template's macro `sortable`: `columns` and `rows` of text."""
    return {
        heading: {
            "columns": [str(name).replace("_", " ") for name in table.columns],
            "rows": text_cells(table),
        }
        for heading, table in (tables or {}).items()
    }


def _columns(
    answers: pd.DataFrame, filters: Sequence[str], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Each column as its distinct values and, per row, the index of the value; -1 if missing.

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
        codes, found = pd.factorize(answers[name], sort=role == "filter")
        columns.append(
            {
                "name": str(name),
                "role": role,
                "number": is_numeric_dtype(answers[name]) and not is_bool_dtype(answers[name]),
                "values": [_plain(value) for value in found.tolist()],
                "codes": codes.tolist(),
            }
        )
    return columns


def _plain(value: Any) -> str | int | float:
    """A value that JSON can hold; any other value becomes text."""
    known = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    return value if known and value not in (float("inf"), float("-inf")) else str(value)
