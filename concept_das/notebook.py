"""Small HTML tables, by which a notebook shows vectors, evaluations and rows (`_repr_html_`)."""

import math
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = "text-align: left; vertical-align: top"


def html_table(caption: str, rows: Iterable[Sequence[object]], columns: Sequence[str] = ()) -> str:
    """A plain table.

    Args:
        caption: a line above it.
        rows: the cells of each; the first one is the row's heading.
        columns: headings of all columns; none are shown if empty.
    """
    lines = [f"<div>{escape(caption)}<table>"]
    if columns:
        lines.append(_row(("th", name) for name in columns))
    lines += [_row([("th", first), *(("td", cell) for cell in cells)]) for first, *cells in rows]
    return "\n".join([*lines, "</table></div>"])


def _row(cells: Iterable[tuple[str, object]]) -> str:
    shown = [(tag, escape(str(cell)).replace("\n", "<br>")) for tag, cell in cells]
    inner = "".join(f"<{tag} style='{_STYLE}'>{text}</{tag}>" for tag, text in shown)
    return f"<tr>{inner}</tr>"


def rounded(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number with two digits, three below 0.1, and its interval if there is one."""
    if math.isnan(value):
        return "\N{EN DASH}"
    digits = 3 if abs(value) < 0.1 else 2
    text = f"{value:.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
