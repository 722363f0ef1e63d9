"""Published AxBench scores (`published.csv`), to stand beside measured ones.

A cell is a Gemma-2 model and a layer; the rows of another model (Qwen2.5-32B) are there for whoever
reads the whole table. Scores are AxBench's overall steering score towards the concept, from 0 to 2,
rated by gpt-4o-mini. The factor is tuned on half of the instructions, unit (multiplier 1), oracle
(the best on the reported half itself), or NA for what has none. `published` gives this project's
names: fair for tuned (here both ways, there one), fixed for unit. The CDAS paper (arXiv 2602.05234)
took the rows of its other methods from the AxBench and RePS papers; its table is known from the
first author's slides. `lang_joint` and `reps_joint` learn the factor too and edit the whole
sequence. SFT, HyperSteer, ReFT-r1, SAE, LAT, PCA, Probe and FLAS are methods that this project does
not have.
"""

from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from concept_das.errors import InputError

Cell = Literal["2b-l10", "2b-l20", "9b-l20", "9b-l31"]
CELLS: tuple[Cell, ...] = get_args(Cell)


def read_published() -> pd.DataFrame:
    """Every published score: cell, method, factor, score, source."""
    return pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=False)


def published(cell: str) -> pd.DataFrame:
    """The published scores of a cell: method, factor (fixed, fair, oracle, NA), score, source.

    Raises:
        InputError: naming the known cells.
    """
    if cell not in CELLS:
        raise InputError(f"nothing is published for {cell!r}; choose one of {', '.join(CELLS)}")
    table = read_published().replace({"factor": {"tuned": "fair", "unit": "fixed"}})
    return table[table["cell"] == cell].drop(columns="cell").reset_index(drop=True)
