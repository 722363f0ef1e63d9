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
from concept_das.notebook import html_table

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

    def _repr_html_(self) -> str:
        """Both sides beneath each other, for notebooks."""
        rows = [
            ("neutral", self.negative_input, self.negative_output),
            ("concept", self.positive_input, self.positive_output),
        ]
        return html_table(
            self.concept or f"concept {self.concept_id}", rows, ("", "input", "output")
        )


def data_hash(rows: Sequence[Quadruple]) -> str:
    """SHA-256 of the rows in their order; stands in a vector's description."""
    text = json.dumps([asdict(row) for row in rows], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def split_quadruples(
    rows: Sequence[Quadruple], heldout: int, seed: int
) -> tuple[list[Quadruple], list[Quadruple]]:
    """Split at random into training and held-out rows.

    Rows that share an input stay together, so that nothing is measured on what was trained on; a
    warning says how many. Where all do, only those stay together that share both inputs.

    Args:
        heldout: number of held-out rows; 0 keeps all rows for training. Fewer are held out where
            rows that stay together would exceed it.
        seed: the same seed gives the same split.

    Raises:
        InputError: if no training row would be left, or all rows are repeats of one.
    """
    if not 0 <= heldout < len(rows):
        of = f" of concept {rows[0].concept_id}" if rows else ""
        raise InputError(f"cannot hold out {heldout} of {len(rows)} rows{of}; some must train")
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    groups = _groups_of_equal_inputs(rows)
    held = _held_groups(groups, order, heldout)
    if heldout and not held:
        log.warning("all rows share an input with others; held-out rows have inputs of training")
        pairs = [(row.negative_input, row.positive_input) for row in rows]
        numbers: dict[tuple[str, str], int] = {}
        groups = [numbers.setdefault(pair, len(numbers)) for pair in pairs]
        held = _held_groups(groups, order, heldout)
    sizes = Counter(groups)
    if heldout and not held:
        raise InputError(
            f"cannot hold out {heldout} of {len(rows)} rows: there are {len(sizes)} with different "
            "inputs; give more, or hold out 0"
        )
    if heldout and (shared := sum(size for size in sizes.values() if size > 1)):
        log.warning(
            "%d of %d rows share an input with another and stay on its side: %d are held out",
            *(shared, len(rows), sum(group in held for group in groups)),
        )
    return (
        [row for group, row in zip(groups, rows, strict=True) if group not in held],
        [row for group, row in zip(groups, rows, strict=True) if group in held],
    )


def _held_groups(groups: Sequence[int], order: Sequence[int], heldout: int) -> set[int]:
    """The groups of the first rows in an order, up to a number of rows."""
    sizes, held = Counter(groups), set[int]()
    for i in order:
        if groups[i] not in held and sizes[groups[i]] <= heldout:
            held.add(groups[i])
            heldout -= sizes[groups[i]]
    return held


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
