"""Methods that train an interchange, in both directions, and clamp at inference.

CDAS and its KL ablations, DAS and PDAS: they differ in the loss alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

import objectives
from concept_das.data.encoding import EditName, EncodedQuadruple, Interchange
from concept_das.methods.base import (
    LIKELIHOOD,
    DirectionMethod,
    Term,
    matching,
    preference_term,
    weighted_terms,
)
from concept_das.steering.factors import Latents
from concept_das.words import DIRECTIONS
from interventions import DistributedInterchangeIntervention
from interventions.partition import PartitionedSubspace
from objectives import pdas_loss, projected
from objectives.names import Reduction


class InterchangeMethod(DirectionMethod):
    """Swap the base's coordinates for the source's, score the source's response."""

    operation = "clamp"
    steering = "clamp to multiplier x measured factor"
    unit_norm = True

    def interventions(self, width: int, rank: int) -> Mapping[EditName, PartitionedSubspace]:
        """The interchange; orthonormal rows."""
        swap = DistributedInterchangeIntervention(embed_dim=width, low_rank_dimension=rank)
        return {"interchange": swap}

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """D+ and D-, each the mean over the batch."""
        return [
            term
            for direction in DIRECTIONS
            for term in weighted_terms(
                [getattr(row, direction) for row in rows], direction, reduction
            )
        ]

    def factors(self, latents: Latents) -> tuple[Float[Tensor, "rank"], Float[Tensor, "rank"]]:
        """The mean coordinates of neutral and of concept prompts (CDAS paper, inference)."""
        return latents.negative_factor, latents.positive_factor


class CDAS(InterchangeMethod):
    """Concept DAS: match the source's distribution in Jensen-Shannon divergence."""

    name = "cdas"
    summary = "Jensen-Shannon divergence to the source's distribution (the paper's method)"
    objective = matching(objectives.jensen_shannon, projected.jensen_shannon_with_gradient)


class KLTeacherStudent(InterchangeMethod):
    """The paper's ablation; the release calls it reverse KL."""

    name = "kl_teacher_student"
    summary = "ablation: KL(teacher || student) in place of the JSD"
    objective = matching(objectives.kl_teacher_student, projected.kl_teacher_student_with_gradient)


class KLStudentTeacher(InterchangeMethod):
    """The paper's ablation; the release calls it forward KL."""

    name = "kl_student_teacher"
    summary = "ablation: KL(student || teacher) in place of the JSD"
    objective = matching(objectives.kl_student_teacher, projected.kl_student_teacher_with_gradient)


class DAS(InterchangeMethod):
    """Distributed alignment search as the paper's baseline has it.

    The same interchange; the target is the source's response text and not its distribution.
    """

    name = "das"
    summary = "baseline: cross-entropy on the source's response text"
    objective = LIKELIHOOD


class PDAS(InterchangeMethod):
    """Preference DAS: make the source's response likelier than the base's own.

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
                terms.append(
                    preference_term(winner, loser, pdas_loss, direction, number, len(rows))
                )
        return terms
