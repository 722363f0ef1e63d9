"""Methods that train an interchange, in both directions, and clamp at inference."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

import objectives
from concept_das.data.encoding import EditName, EncodedQuadruple
from concept_das.data.quadruples import DIRECTIONS
from concept_das.methods.base import (
    LIKELIHOOD,
    DirectionMethod,
    Term,
    matching,
    weighted_terms,
)
from concept_das.steering.factors import Latents
from interventions import DistributedInterchangeIntervention
from interventions.partition import PartitionedSubspace
from objectives import projected
from objectives.reduction import Reduction


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
