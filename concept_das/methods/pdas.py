"""PDAS: a preference on the interchange."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from concept_das.data.encoding import EncodedQuadruple, Interchange
from concept_das.data.quadruples import DIRECTIONS
from concept_das.methods.base import LIKELIHOOD, Term, preference_term
from concept_das.methods.interchange import InterchangeMethod
from objectives import pdas_loss
from objectives.reduction import Reduction


def _loss(
    likelihoods: Sequence[Tensor], references: Sequence[Tensor], lengths: Sequence[Tensor]
) -> Tensor:
    winner, loser = likelihoods
    known_winner, known_loser = references
    return pdas_loss(winner, loser, known_winner, known_loser, lengths[0], lengths[1])


class PDAS(InterchangeMethod):
    """Under the interchange the source's response is to be likelier than the base's own.

    Scaled SimPO with gamma 0 and scaler 1, the release's settings. The scale has the RePS paper's
    sign; see `objectives.pdas_loss` for what the release does otherwise.
    """

    name = "pdas"
    summary = "baseline: preference for the source's response, on the interchange"
    objective = LIKELIHOOD

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """One preference per row and direction; the loss divides by lengths itself."""
        terms = []
        for direction, opposite in zip(DIRECTIONS, reversed(DIRECTIONS), strict=True):
            for number, row in enumerate(rows):
                winner: Interchange = getattr(row, direction)
                own = getattr(row, opposite).base.response
                loser = Interchange(
                    winner.base.prompt.with_response(own),
                    winner.source.prompt.with_response(own),
                )
                references = (winner.base, loser.base)
                terms.append(
                    preference_term(
                        (winner, loser), references, _loss, direction, number, len(rows)
                    )
                )
        return terms
