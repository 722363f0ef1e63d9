"""Contrastive quadruples and their split into training and held-out rows.

A quadruple is a neutral instruction and its response, and a concept-eliciting instruction and its
response, in the columns `negative_input, negative_output, positive_input, positive_output`, with
`concept_id, concept, concept_genre` beside them (the layout of the authors' release).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from concept_das.errors import InputError


@dataclass(frozen=True)
class Quadruple:
    """One contrastive row, raw text without any template."""

    negative_input: str
    negative_output: str
    positive_input: str
    positive_output: str
    concept_id: int = 0
    concept: str = ""
    concept_genre: str = "text"


def data_hash(rows: Sequence[Quadruple]) -> str:
    """SHA-256 of the rows in their order; stands in a vector's description."""
    text = json.dumps([asdict(row) for row in rows], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def split_quadruples(
    rows: Sequence[Quadruple], heldout: int, seed: int
) -> tuple[list[Quadruple], list[Quadruple]]:
    """Split at random into training and held-out rows.

    Args:
        heldout: number of held-out rows; 0 keeps all rows for training.
        seed: the same seed gives the same split.

    Raises:
        InputError: if no training row would be left.
    """
    if not 0 <= heldout < len(rows):
        of = f" of concept {rows[0].concept_id}" if rows else ""
        raise InputError(f"cannot hold out {heldout} of {len(rows)} rows{of}; some must train")
    order = np.random.default_rng(seed).permutation(len(rows))
    held = set(order[:heldout].tolist())
    return (
        [row for i, row in enumerate(rows) if i not in held],
        [row for i, row in enumerate(rows) if i in held],
    )
