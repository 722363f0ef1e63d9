"""Sum a batch's loss up from terms: means of token losses, and preferences between responses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from concept_das.data.chat_format import Turn
from concept_das.data.encoding import EditedPass
from concept_das.words import Direction
from objectives import Response, token_weights
from objectives.names import Reduction

# (token losses of each edited pass, log p of each reference's response under the untouched model)
# -> the term's share of the batch's loss
TermLoss = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


@dataclass(frozen=True)
class Term:
    """One summand of a batch's loss, made of one row.

    Attributes:
        runs: the edited forward passes it needs.
        loss: computes the term from them; includes the row's share in the mean over the batch.
        direction: the name it is reported under.
        row: the row's number, for messages.
        references: turns for which it needs the likelihood under the untouched model.
    """

    runs: tuple[EditedPass, ...]
    loss: TermLoss
    direction: Direction
    row: int
    references: tuple[Turn, ...] = ()


def weighted_terms(
    runs: Sequence[EditedPass], direction: Direction, reduction: Reduction
) -> list[Term]:
    """The mean of the runs' token losses, as `objectives.reduce_tokens` takes it."""
    weights = token_weights([len(run.base.response) for run in runs], reduction)
    return [
        Term((run,), partial(_weighted_sum, weight=weight), direction, row)
        for row, (run, weight) in enumerate(zip(runs, weights, strict=True))
    ]


def _weighted_sum(values: Sequence[Tensor], _references: Sequence[float], weight: float) -> Tensor:
    return values[0].sum() * weight


def preference_terms(
    pairs: Sequence[tuple[EditedPass, EditedPass]],
    loss: Callable[[Response, Response], Tensor],
    direction: Direction,
) -> list[Term]:
    """The mean over rows of a preference between the responses of two edited passes.

    Args:
        pairs: of each row, given to the loss in this order.
        loss: one of `objectives`' preference losses.
    """
    return [
        Term(
            pair,
            partial(_preference, pair=pair, loss=loss, rows=len(pairs)),
            direction,
            row,
            tuple(edited.base for edited in pair),
        )
        for row, pair in enumerate(pairs)
    ]


def _preference(
    values: Sequence[Tensor],
    untouched: Sequence[float],
    pair: Sequence[EditedPass],
    loss: Callable[[Response, Response], Tensor],
    rows: int,
) -> Tensor:
    device = values[0].device
    responses = [
        Response(
            -value.sum().unsqueeze(0),
            torch.tensor([reference], device=device),
            torch.tensor([len(edited.base.response)], device=device),
        )
        for edited, value, reference in zip(pair, values, untouched, strict=True)
    ]
    return loss(*responses).sum() / rows
