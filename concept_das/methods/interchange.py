"""Methods that train an interchange, in both directions, and clamp at inference.

CDAS and its KL ablations, DAS and PDAS: they differ in the loss alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

import objectives
from concept_das.data.encoding import EditName, EncodedQuadruple, Interchange
from concept_das.methods.base import DirectionMethod, Fit, directions_of
from concept_das.methods.terms import Term, preference_terms
from concept_das.methods.token_objective import LIKELIHOOD, matching
from concept_das.models.blocks import Site
from concept_das.steering.factors import Latents, measure_latents_at
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

    def factors_at(
        self, task: Fit, sites: Sequence[Site], trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> list[tuple[Float[Tensor, "rank"], Float[Tensor, "rank"]]]:
        """Measured on the training prompts."""
        weights = [directions_of(at_site) for at_site in trained]
        measured = measure_latents_at(task.model, sites, weights, task.encoded)
        return [self.factors(latents) for latents in measured]

    def factors(self, latents: Latents) -> tuple[Float[Tensor, "rank"], Float[Tensor, "rank"]]:
        """The mean coordinates of neutral and of concept prompts (CDAS paper, inference)."""
        return latents.negative_factor, latents.positive_factor


class CDAS(InterchangeMethod):
    """Concept DAS: match the source's distribution in Jensen-Shannon divergence.

    Use it where one vector is to steer both ways and to leave unrelated text alone. At several
    blocks (`layers: spread`) it elicits more than at one.
    """

    name = "cdas"
    summary = "Jensen-Shannon divergence to the source's distribution (the paper's method)"
    objective = matching(objectives.jensen_shannon, projected.jensen_shannon_with_gradient)


class KLTeacherStudent(InterchangeMethod):
    """The paper's ablation; the release calls it reverse KL.

    Use it to see what the choice of the divergence does.
    """

    name = "kl_teacher_student"
    summary = "ablation: KL(teacher || student) in place of the JSD"
    objective = matching(objectives.kl_teacher_student, projected.kl_teacher_student_with_gradient)


class KLStudentTeacher(InterchangeMethod):
    """The paper's ablation; the release calls it forward KL.

    Use it to see what the choice of the divergence does.
    """

    name = "kl_student_teacher"
    summary = "ablation: KL(student || teacher) in place of the JSD"
    objective = matching(objectives.kl_student_teacher, projected.kl_student_teacher_with_gradient)


class DAS(InterchangeMethod):
    """Distributed alignment search as the paper's baseline has it.

    The same interchange; the target is the source's response text and not its distribution. Use it
    where the texts themselves are to be learned: it changes unrelated text more than CDAS.
    """

    name = "das"
    summary = "baseline: cross-entropy on the source's response text"
    objective = LIKELIHOOD


class PDAS(InterchangeMethod):
    """Preference DAS: make the source's response likelier than the base's own.

    Scaled SimPO with gamma 0 and scaler 1, the release's settings. The scale has the RePS paper's
    sign; see `objectives.pdas_loss` for what the release does otherwise. Use it to compare: it is
    a baseline of the paper.
    """

    name = "pdas"
    summary = "baseline: preference for the source's response, on the interchange"
    objective = LIKELIHOOD

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """One preference per row and direction; the loss divides by lengths itself."""
        elicit = [(row.elicit, _answered(row.elicit, row.suppress)) for row in rows]
        suppress = [(row.suppress, _answered(row.suppress, row.elicit)) for row in rows]
        return [
            *preference_terms(elicit, pdas_loss, "elicit"),
            *preference_terms(suppress, pdas_loss, "suppress"),
        ]


def _answered(run: Interchange, other: Interchange) -> Interchange:
    """A run with the response of the other direction."""
    response = other.base.response
    return Interchange(
        run.base.prompt.with_response(response), run.source.prompt.with_response(response)
    )
