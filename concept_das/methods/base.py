"""What a method is: the runs it makes of a row, how they are edited, and what their loss is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from concept_das.chats import Turn
from concept_das.data import Direction, EditName, EncodedQuadruple, Run
from concept_das.factors import Latents
from concept_das.vectors import Operation
from interventions.partition import PartitionedSubspace
from objectives import token_cross_entropy, token_weights
from objectives.projected import TokenLoss, cross_entropy_with_gradient
from objectives.reduction import Reduction

# (student logits `[tokens, vocab]`, teacher logits, labels `[tokens]`) -> one loss per token
PlainTokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

# The token losses of a term's runs, and the log-probabilities of its references (summed over the
# response, untouched model) -> the term's share of the batch's loss.
TermLoss = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


@dataclass(frozen=True)
class TokenObjective:
    """The loss of a response token.

    Attributes:
        plain: from logits.
        with_gradient: the same from log-probabilities, with its gradient in closed form.
        has_teacher: whether it looks at the teacher's distribution.
    """

    plain: PlainTokenLoss
    with_gradient: TokenLoss
    has_teacher: bool = True


@dataclass(frozen=True)
class Term:
    """One summand of a batch's loss, made of one row.

    Attributes:
        runs: the edited forward passes it needs.
        loss: what it makes of them; includes the row's share in the mean over the batch.
        direction: under which name it is reported.
        row: the row's number, for messages.
        references: turns whose likelihood under the untouched model it needs.
    """

    runs: tuple[Run, ...]
    loss: TermLoss
    direction: Direction
    row: int
    references: tuple[Turn, ...] = ()


class Method(ABC):
    """A way to get directions from quadruples, and to steer by them.

    Attributes:
        name, summary: for the command line; the summary is one line.
        operation: how the directions are applied, see `SteeringVector`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    operation: ClassVar[Operation] = "clamp"

    @abstractmethod
    def factors(self, latents: Latents) -> tuple[Float[Tensor, "rank"], Float[Tensor, "rank"]]:
        """The factors at multiplier 1: of suppression, and of elicitation."""


class TrainedMethod(Method):
    """A method that learns its directions by gradient.

    Attributes:
        objective: the loss of a response token.
        unit_norm: whether directions are brought back to orthonormal rows after each step.
    """

    objective: ClassVar[TokenObjective]
    unit_norm: ClassVar[bool] = True

    @abstractmethod
    def interventions(self, width: int, rank: int) -> Mapping[EditName, PartitionedSubspace]:
        """New interventions for one site, by the edit they make; they may share a weight."""

    @abstractmethod
    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """The loss of a batch, as a sum.

        Args:
            rng: for methods that draw factors; what is drawn changes no text.
        """


def weighted_terms(runs: Sequence[Run], direction: Direction, reduction: Reduction) -> list[Term]:
    """The mean of the runs' token losses, as `objectives.reduce_tokens` takes it."""
    weights = token_weights([len(run.base.response) for run in runs], reduction)
    return [
        Term((run,), partial(_weighted_sum, weight=weight), direction, row)
        for row, (run, weight) in enumerate(zip(runs, weights, strict=True))
    ]


def _weighted_sum(values: Sequence[Tensor], _references: Sequence[float], weight: float) -> Tensor:
    return values[0].sum() * weight


def matching(
    divergence: Callable[[Tensor, Tensor], Tensor], with_gradient: TokenLoss
) -> TokenObjective:
    """The objective of matching the teacher's distribution in a divergence."""

    def plain(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return divergence(student, teacher)

    return TokenObjective(plain, with_gradient)


def _likelihood(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return token_cross_entropy(student, labels)


LIKELIHOOD = TokenObjective(_likelihood, cross_entropy_with_gradient, has_teacher=False)


# (log p of each run's response, log p of each reference, tokens of each run's response), each
# `[1]` -> the row's loss, `[1]`
RowLoss = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Tensor]


def preference_term(
    runs: tuple[Run, Run],
    references: tuple[Turn, ...],
    loss: RowLoss,
    direction: Direction,
    row: int,
    rows: int,
) -> Term:
    """A preference between two responses; losses of `rows` rows are averaged."""
    lengths = [torch.tensor([len(run.base.response)]) for run in runs]

    def share(values: Sequence[Tensor], untouched: Sequence[float]) -> Tensor:
        likelihoods = [-value.sum().unsqueeze(0) for value in values]
        device = likelihoods[0].device
        known = [torch.tensor([value], device=device) for value in untouched]
        return loss(likelihoods, known, [n.to(device) for n in lengths]).sum() / rows

    return Term(runs, share, direction, row, references)
