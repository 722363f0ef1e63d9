"""Contrastive quadruples and their split into training and held-out rows.

A quadruple is a neutral instruction and its response, and a concept-eliciting instruction and its
response, in the columns `negative_input, negative_output, positive_input, positive_output`, with
`concept_id, concept, concept_genre` beside them (the layout of the authors' release).
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from concept_das.errors import InputError

log = logging.getLogger(__name__)


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

    Rows that share an input stay together, so that nothing is measured on what was trained on.

    Args:
        heldout: number of held-out rows; 0 keeps all rows for training. Fewer are held out, with a
            warning, where rows that stay together would exceed it.
        seed: the same seed gives the same split.

    Raises:
        InputError: if no training row would be left, or all rows share inputs.
    """
    if not 0 <= heldout < len(rows):
        of = f" of concept {rows[0].concept_id}" if rows else ""
        raise InputError(f"cannot hold out {heldout} of {len(rows)} rows{of}; some must train")
    groups = _groups_of_equal_inputs(rows)
    sizes = Counter(groups)
    held: set[int] = set()  # groups
    count = 0
    for i in np.random.default_rng(seed).permutation(len(rows)).tolist():
        if groups[i] not in held and count + sizes[groups[i]] <= heldout:
            held.add(groups[i])
            count += sizes[groups[i]]
    if heldout and len(sizes) < len(rows):
        shared = len(rows) - sum(size == 1 for size in sizes.values())
        if not held:
            raise InputError(
                f"cannot hold out {heldout} of {len(rows)} rows: too many share their inputs; "
                "drop repeated rows, or hold out 0"
            )
        log.warning(
            "%d of %d rows share an input with another and stay on its side: %d are held out",
            *(shared, len(rows), count),
        )
    return (
        [row for group, row in zip(groups, rows, strict=True) if group not in held],
        [row for group, row in zip(groups, rows, strict=True) if group in held],
    )


def choose_quadruples(rows: Sequence[Quadruple], count: int, seed: int) -> list[Quadruple]:
    """A number of rows at random, in their order; the same seed gives the same rows."""
    chosen = set(np.random.default_rng(seed).permutation(len(rows))[:count].tolist())
    return [row for i, row in enumerate(rows) if i in chosen]


def _groups_of_equal_inputs(rows: Sequence[Quadruple]) -> list[int]:
    """A number for each row: the same for rows that share an input, with others between or not."""
    texts = {text for row in rows for text in (row.negative_input, row.positive_input)}
    if len(texts) == 2 * len(rows):
        return list(range(len(rows)))
    from scipy.sparse import coo_array  # slow to import, and seldom needed
    from scipy.sparse.csgraph import connected_components

    places = {text: i for i, text in enumerate(texts)}
    ends = [
        [places[row.negative_input] for row in rows],
        [places[row.positive_input] for row in rows],
    ]
    graph = coo_array((np.ones(len(rows)), ends), shape=(len(places), len(places)))
    _, groups = connected_components(graph, directed=False)
    found: list[int] = groups[ends[0]].tolist()
    return found
