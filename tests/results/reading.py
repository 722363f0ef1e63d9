"""Reads results/: csv files, and the sections, tables and statements of its README."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from concept_das.evaluation.intervals import mean_interval

RESULTS = Path(__file__).parents[2] / "results"

Rows = list[list[str]]
ELICIT, SUPPRESS = "elicitation_recovery", "suppression_recovery"
KL_ELICIT, KL_SUPPRESS = "kl_side_effect_elicit", "kl_side_effect_suppress"
JSD_ELICIT, JSD_SUPPRESS = "heldout_jsd_elicit", "heldout_jsd_suppress"


def read(path: str) -> pd.DataFrame:
    """A csv file of results/."""
    return pd.read_csv(RESULTS / path)


def sections() -> dict[str, str]:
    """The text of each section of results/README.md, by the first word of its heading."""
    parts = re.split(r"^## ", (RESULTS / "README.md").read_text("utf-8"), flags=re.MULTILINE)
    return {re.split(r"[:\s]", part, maxsplit=1)[0]: part for part in parts[1:]}


def tables_of(text: str) -> list[Rows]:
    """The tables of a text, header first, emphasis left out."""
    found: list[Rows] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip().replace("**", "") for cell in line.strip("|").split("|")]
            if not inside:
                found.append([])
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                found[-1].append(cells)
        inside = line.startswith("|")
    return found


def statements_of(text: str) -> list[str]:
    """The list items of a text, each on one line."""
    items = re.findall(r"^- (.*?)(?=\n- |\n\n|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(item.split()) for item in items]


def interval(values: Sequence[float], most: float = np.inf) -> str:
    """A mean with Student's 95% interval, which ends at the largest possible value."""
    known = np.asarray(values, dtype=float)
    low, high = np.minimum(mean_interval(known), most)
    return f"{known.mean():.2f} [{low:.2f}, {high:.2f}]"


def bracketed(row: "pd.Series[float]", name: str) -> str:
    """A number with the interval that its csv file has."""
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def spread(values: "pd.Series[float]", show: Callable[[float], str]) -> str:
    """A mean over seeds, with their standard deviation if there are several; - if none."""
    values = values.dropna()
    if values.empty:
        return "-"
    if len(values) == 1:
        return show(float(values.iloc[0]))
    return f"{show(float(values.mean()))} ± {show(float(values.std())).rstrip('%')}"


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f}%"


def span(values: "pd.Series[float]", digits: int = 2) -> str:
    """The least and the largest of some values."""
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"
