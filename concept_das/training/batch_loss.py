"""A batch's loss, computed in parts: the common ground of both engines.

A batch's loss is a sum of terms, each of one or two edited runs of a row. Which of them share a
forward pass changes nothing but rounding, so they are packed by length under a budget of tokens,
whatever their direction and concept.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from concept_das.data.batches import by_token_budget
from concept_das.data.chat_format import Turn
from concept_das.data.encoding import EditedPass
from concept_das.methods.terms import Term
from concept_das.methods.token_objective import StatesLoss
from concept_das.words import DIRECTIONS, Direction
from interventions.backend import pyvene as pv

Key = TypeVar("Key")


@runtime_checkable
class Losses(Protocol):
    """The losses that training asks an engine for."""

    def token_losses(
        self, runs: Sequence[EditedPass], parts: Sequence[int]
    ) -> list[Float[Tensor, "_"]]:
        """One loss per response token of each run, with its graph to the directions.

        Args:
            parts: index of the concept whose interventions each run uses; it is fastest if the runs
                of a concept stand together.
        """

    def log_likelihood(self, turn: Turn) -> float:
        """Log-probability of a turn's response in the untouched model, summed over its tokens."""


def needs_no_source(intervention: nn.Module) -> bool:
    """True if an intervention uses only the base's hidden states, by pyvene's own mark."""
    return isinstance(intervention, pv.SourcelessIntervention)


def states_losses(
    loss: StatesLoss,
    turns: Sequence[Turn],
    edited: Sequence[Float[Tensor, "rows edited dim"]],
    teacher: Sequence[Float[Tensor, "_ dim"]],
) -> list[Float[Tensor, "_"]]:
    """One loss per response token of each turn, from hidden states.

    Args:
        edited: the edited states at each site, from the end of the template prefix on.
        teacher: of each turn, the untouched states at every site, laid end to end.
    """
    losses = []
    for row, (turn, wanted) in enumerate(zip(turns, teacher, strict=True)):
        start = len(turn.prompt.ids) - 1 - turn.prompt.prefix_length
        part = slice(start, start + len(turn.response))
        device = edited[0].device
        student = torch.stack([at_site[row, part].to(device) for at_site in edited])
        losses.append(loss(student, wanted.to(device).reshape(student.shape)))
    return losses


class NotFiniteError(Exception):
    """A term's loss is NaN or Inf."""

    def __init__(self, part: int, term: Term, loss: float) -> None:
        super().__init__(f"the {term.direction} loss of row {term.row} is {loss}")
        self.part, self.term, self.loss = part, term, loss


def spans(keys: Sequence[Key]) -> Iterator[tuple[Key, slice]]:
    """Stretches of equal keys, `[0, 0, 2]` -> `(0, 0:2), (2, 2:3)`."""
    start = 0
    for key, same in groupby(keys):
        stop = start + len(list(same))
        yield key, slice(start, stop)
        start = stop


def sum_losses(
    losses: Losses,
    terms: Mapping[int, Sequence[Term]],
    batch_tokens: int,
    *,
    backward: bool,
) -> dict[int, dict[Direction, float]]:
    """The loss of each concept in each direction.

    Args:
        terms: of each concept.
        batch_tokens: see `EngineOptions`; a term's runs are never parted.
        backward: add the gradients of all of them to the directions.

    Raises:
        NotFiniteError: naming the first term whose loss is NaN or Inf.
    """
    work = [(part, term) for part, of_concept in terms.items() for term in of_concept]
    sums = {part: dict.fromkeys(DIRECTIONS, 0.0) for part in terms}
    # A term of two runs takes the room of two rows.
    sizes = [max(len(run.base.ids) for run in term.runs) * len(term.runs) for _, term in work]
    with nullcontext() if backward else torch.no_grad():
        for group in by_token_budget(sizes, batch_tokens):
            chosen = [work[i] for i in sorted(group)]  # a concept's terms stand together
            values = iter(
                losses.token_losses(
                    [run for _, term in chosen for run in term.runs],
                    [part for part, term in chosen for _ in term.runs],
                )
            )
            shares = []
            for _, term in chosen:
                references = [losses.log_likelihood(turn) for turn in term.references]
                shares.append(term.loss([next(values) for _ in term.runs], references))
            for (part, term), share in zip(chosen, torch.stack(shares).tolist(), strict=True):
                if not math.isfinite(share):
                    raise NotFiniteError(part, term, share)
                sums[part][term.direction] += share
            if backward:
                torch.stack(shares).sum().backward()
    return sums
