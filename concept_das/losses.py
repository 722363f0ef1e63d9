"""A batch's loss, computed in parts: the common ground of both engines.

Every run of a batch (a row in one direction, of one concept) has a loss per response token. Which
runs share a forward pass changes nothing but rounding, so they are packed by length under a budget
of tokens, and their weighted losses added up.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from concept_das.data import DIRECTIONS, Direction, EncodedQuadruple, Interchange
from concept_das.errors import InputError
from concept_das.packing import by_token_budget
from objectives import token_weights
from objectives.reduction import Reduction

Engine = Literal["auto", "pyvene"]


@dataclass(frozen=True)
class EngineOptions:
    """How training is computed; changes its speed and memory, not its result.

    Args:
        engine: auto (replay cached hidden states where the model allows it) or pyvene (run the
            whole model every step).
        batch_tokens: tokens of one forward and backward pass, padding included.
        together: concepts trained at once; a step then holds a batch of rows of each.
        cache_gb: memory for cached hidden states, in gigabytes; half of what is free if not given.
            What does not fit goes to a file.
        cache_folder: folder for that file; the system's temporary folder if not given.
    """

    engine: Engine = "auto"
    batch_tokens: int = 2048
    together: int = 8
    cache_gb: float | None = None
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise InputError(f"unknown engine {self.engine!r}; choose auto or pyvene")
        for name in ("batch_tokens", "together"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


DEFAULT_ENGINE = EngineOptions()


@runtime_checkable
class Losses(Protocol):
    """What training needs from an engine."""

    def token_losses(
        self, pairs: Sequence[Interchange], parts: Sequence[int]
    ) -> list[Float[Tensor, "_"]]:
        """One loss per response token of each pair, with its graph to the directions.

        Args:
            parts: which concept's interventions each pair uses; best those of a concept together.
        """


@dataclass(frozen=True)
class Term:
    """One run of a batch.

    Attributes:
        part: which concept's interventions it uses.
        row: the row's number among the concept's, for messages.
        weight: what each of its tokens counts for.
    """

    pair: Interchange
    direction: Direction
    part: int
    row: int
    weight: float


class NotFiniteError(Exception):
    """A run's loss is NaN or Inf."""

    def __init__(self, term: Term, loss: float) -> None:
        super().__init__(f"the {term.direction} loss of row {term.row} is {loss}")
        self.term, self.loss = term, loss


def spans(parts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Stretches of equal parts, `[0, 0, 2]` -> `(0, 0:2), (2, 2:3)`."""
    start = 0
    for part, same in groupby(parts):
        stop = start + len(list(same))
        yield part, slice(start, stop)
        start = stop


def terms_of(
    rows: Sequence[EncodedQuadruple],
    reduction: Reduction,
    *,
    part: int = 0,
    numbers: Sequence[int] | None = None,
) -> list[Term]:
    """Both directions of a batch of one concept's rows.

    Args:
        numbers: the rows' numbers, for messages.
    """
    terms = []
    for direction in DIRECTIONS:
        pairs: list[Interchange] = [getattr(row, direction) for row in rows]
        weights = token_weights([len(pair.base.response) for pair in pairs], reduction)
        for i, (pair, weight) in enumerate(zip(pairs, weights, strict=True)):
            terms.append(Term(pair, direction, part, i if numbers is None else numbers[i], weight))
    return terms


def sum_losses(
    losses: Losses, terms: Sequence[Term], batch_tokens: int, *, backward: bool
) -> dict[int, dict[Direction, float]]:
    """The reduced loss of each concept in each direction.

    Args:
        batch_tokens: see `EngineOptions`.
        backward: add the gradients of all of them to the directions.

    Raises:
        NotFiniteError: naming the first run whose loss is NaN or Inf.
    """
    sums: dict[int, dict[Direction, float]] = {}
    with nullcontext() if backward else torch.no_grad():
        for group in by_token_budget([len(term.pair.base.ids) for term in terms], batch_tokens):
            part = sorted((terms[i] for i in group), key=lambda term: term.part)
            values = losses.token_losses([t.pair for t in part], [t.part for t in part])
            weighted = torch.stack([v.sum() * t.weight for v, t in zip(values, part, strict=True)])
            for term, value in zip(part, weighted.tolist(), strict=True):
                if not math.isfinite(value):
                    raise NotFiniteError(term, value)
                of_concept = sums.setdefault(term.part, dict.fromkeys(DIRECTIONS, 0.0))
                of_concept[term.direction] += value
            if backward:
                weighted.sum().backward()
    return sums
