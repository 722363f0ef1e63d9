"""Published AxBench scores, to stand beside measured ones.

A cell is a Gemma-2 model and a layer. Scores are AxBench's overall steering score towards the
concept, from 0 to 2, rated by gpt-4o-mini. Those of the CDAS paper (arXiv 2602.05234) were taken
from public summaries of its tables.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

from concept_das.errors import InputError

Cell = Literal["2b-l10", "2b-l20", "9b-l20", "9b-l31"]
CELLS: tuple[Cell, ...] = ("2b-l10", "2b-l20", "9b-l20", "9b-l31")

Factor = Literal["tuned", "unit", "NA"]

PAPER = "CDAS paper"
LEADERBOARD = "AxBench leaderboard"
BOTH = f"{PAPER} and {LEADERBOARD}"
MEMORY = "from memory, unverified"


@dataclass(frozen=True)
class PublishedScore:
    """One number.

    Attributes:
        cell: model size and layer of Gemma-2, such as 2b-l10.
        method: this project's name of the method.
        factor: tuned on half of the instructions, unit (multiplier 1), or NA for what has none.
        score: from 0 to 2.
        source: where the number is from.
    """

    cell: Cell
    method: str
    factor: Factor
    score: float
    source: str


def _row(
    method: str, factor: Factor, source: str, *scores: float | tuple[float, str] | None
) -> list[PublishedScore]:
    """A method's scores in the order of `CELLS`; a pair names a source of its own."""
    found = []
    for cell, entry in zip(CELLS, scores, strict=True):
        if entry is not None:
            score, where = entry if isinstance(entry, tuple) else (entry, source)
            found.append(PublishedScore(cell, method, factor, score, where))
    return found


# HyperSteer and the rows down to probe are methods that this project does not have.
PUBLISHED: tuple[PublishedScore, ...] = (
    *_row("cdas", "tuned", PAPER, 0.631, 0.608, 0.992, 0.518),
    *_row("cdas", "unit", PAPER, 0.121, None, None, None),
    *_row("reps", "tuned", BOTH, 0.756, 0.606, 0.892, 0.624),
    *_row("lang", "tuned", PAPER, 0.663, 0.568, 0.788, 0.580),
    *_row("diffmean", "tuned", BOTH, 0.297, 0.178, 0.322, 0.158),
    *_row("bipo", "tuned", MEMORY, 0.199, 0.173, 0.217, 0.179),
    *_row("prompt", "NA", LEADERBOARD, 0.698, 0.731, (1.075, BOTH), 1.072),
    *_row("loreft", "NA", MEMORY, 0.701, 0.722, (0.777, PAPER), 0.764),
    *_row("lora", "NA", MEMORY, 0.637, 0.641, 0.602, 0.580),
    *_row("sft", "NA", MEMORY, 0.637, 0.714, None, None),
    *_row("hypersteer", "tuned", LEADERBOARD, None, 0.742, 1.091, None),
    *_row("reft_r1", "tuned", LEADERBOARD, 0.633, 0.509, 0.630, 0.401),
    *_row("sae", "tuned", LEADERBOARD, 0.177, 0.151, 0.191, 0.140),
    *_row("sae_a", "tuned", LEADERBOARD, 0.166, 0.132, 0.186, 0.143),
    *_row("lat", "tuned", LEADERBOARD, 0.117, 0.130, 0.127, 0.134),
    *_row("pca", "tuned", LEADERBOARD, 0.107, 0.083, 0.128, 0.104),
    *_row("probe", "tuned", LEADERBOARD, 0.095, 0.091, 0.108, 0.099),
)


def published(cell: str) -> pd.DataFrame:
    """The published scores of a cell: method, factor, score, source.

    Raises:
        InputError: naming the known cells.
    """
    if cell not in CELLS:
        raise InputError(f"nothing is published for {cell!r}; choose one of {', '.join(CELLS)}")
    table = pd.DataFrame([asdict(entry) for entry in PUBLISHED if entry.cell == cell])
    return table.drop(columns="cell").reset_index(drop=True)
