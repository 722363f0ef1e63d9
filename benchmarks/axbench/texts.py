"""The texts of one concept, as the data stage leaves them to the others."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from concept_das.data.quadruples import Quadruple, read_quadruples, to_frame
from concept_das.runs.files import write_atomically

_ROWS, _DETECTION, _TEXTS = "quadruples.parquet", "detection.parquet", "texts.json"


@dataclass(frozen=True)
class ConceptTexts:
    """What is asked about a concept, and what is known of it.

    Attributes:
        concept: in words.
        instructions: what the models are asked; the place in the list is the input_id.
        pool: instructions that the proxy compares these with.
        with_concept, without_concept: texts that the proxy's probe is trained on, by the same
            authors.
    """

    concept: str
    instructions: Sequence[str]
    pool: Sequence[str]
    with_concept: Sequence[str]
    without_concept: Sequence[str]


def write_texts(
    folder: Path, texts: ConceptTexts, rows: Sequence[Quadruple], detection: pd.DataFrame | None
) -> None:
    """Write everything, each file atomically.

    Args:
        rows: to train on.
        detection: texts to be told apart (`label`, `instruction`, `response`), if there are any.
    """
    write_atomically(folder / _ROWS, to_frame(rows).to_parquet(index=False))
    if detection is not None:
        write_atomically(folder / _DETECTION, detection.to_parquet(index=False))
    write_atomically(folder / _TEXTS, json.dumps(asdict(texts), ensure_ascii=False).encode())


def read_texts(folder: Path) -> ConceptTexts:
    """The texts of a concept."""
    return ConceptTexts(**json.loads((folder / _TEXTS).read_text(encoding="utf-8")))


def read_rows(folder: Path) -> list[Quadruple]:
    """The concept's training rows."""
    return read_quadruples(folder / _ROWS)


def read_detection(folder: Path) -> pd.DataFrame | None:
    """The texts to be told apart; None if the data have none."""
    path = folder / _DETECTION
    return pd.read_parquet(path) if path.exists() else None
