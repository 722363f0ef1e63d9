"""Training files of AxBench."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from concept_das.data.frames import read_frame
from concept_das.errors import InputError

AXBENCH_COLUMNS = ("input", "output", "output_concept", "concept_genre", "concept_id")


@dataclass(frozen=True)
class AxBenchConcept:
    """One concept's positive rows of an AxBench training file."""

    concept: str
    genre: str
    instructions: list[str]
    outputs: list[str]


def read_axbench(path: Path, concept_id: int) -> AxBenchConcept:
    """One concept of an AxBench training file (`input, output, output_concept, ...`).

    Raises:
        InputError: if the file, a column or the concept is missing, or a cell is not text.
    """
    return axbench_concept(read_frame(path), concept_id, str(path))


def axbench_concept(frame: pd.DataFrame, concept_id: int, name: str) -> AxBenchConcept:
    """One concept of the rows of an AxBench training file.

    Args:
        name: of the file, for messages.

    Raises:
        InputError: if a column or the concept is missing, or a cell is not text.
    """
    for column in AXBENCH_COLUMNS:
        if column not in frame.columns:
            raise InputError(f"{name} has no column {column!r}; give an AxBench training file")
    rows = frame[frame["concept_id"] == concept_id].drop_duplicates("input")
    if rows.empty or concept_id < 0:
        known = sorted(set(frame["concept_id"]) - {-1})
        raise InputError(f"{name} has no concept {concept_id}; it has {known}")
    for column in ("input", "output"):
        for row, value in rows[column].items():
            if not isinstance(value, str):
                raise InputError(f"{name}, row {row}, column {column!r}: {value!r} is not text")
    return AxBenchConcept(
        concept=rows["output_concept"].iloc[0],
        genre=rows["concept_genre"].iloc[0],
        instructions=rows["input"].tolist(),
        outputs=rows["output"].tolist(),
    )
