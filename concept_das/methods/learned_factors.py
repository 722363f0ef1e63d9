"""CDAS with factors that are learned together with the directions.

The interchange gives each base the coordinates of its own source, while steering clamps to one
factor for all. Here training clamps too: to a factor for each direction of steering, which is a
parameter with a learning rate of its own (`factor_learning_rate`), as PrOSV trains its factor
(arXiv 2605.05983). The loss is CDAS's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditName, EncodedQuadruple
from concept_das.methods.base import Fit, Term, directions_of
from concept_das.methods.interchange import CDAS, InterchangeMethod
from concept_das.models.blocks import Site
from concept_das.steering.factors import measure_latents_at
from concept_das.steering.vector import DirectionAtSite
from interventions import ClampIntervention
from objectives.names import Reduction


class CDASLearned(InterchangeMethod):
    """CDAS's divergence, with the mean coordinates of the sources as the factors' start."""

    name = "cdas_learned"
    summary = "CDAS, the factors learned with the directions, one for each direction of steering"
    steering = "clamp to multiplier x learned factor"
    objective = CDAS.objective

    def interventions(self, width: int, rank: int) -> Mapping[EditName, ClampIntervention]:
        """A clamp for each direction of steering; they share the directions."""
        elicit, suppress = (
            ClampIntervention(embed_dim=width, low_rank_dimension=rank, learns_factor=True)
            for _ in range(2)
        )
        suppress.weight = elicit.weight
        return {"elicit": elicit, "suppress": suppress}

    def begin(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        rows: Sequence[EncodedQuadruple],
        built: Sequence[Mapping[EditName, nn.Module]],
    ) -> None:
        """The factors begin at the mean coordinates of the sources along the first directions."""
        weights = [directions_of(at_site) for at_site in built]
        for at_site, latents in zip(
            built, measure_latents_at(model, sites, weights, rows), strict=True
        ):
            with torch.no_grad():
                _factor(at_site, "elicit").copy_(latents.positive_factor)
                _factor(at_site, "suppress").copy_(latents.negative_factor)

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """CDAS's, with the direction's clamp in place of the interchange."""
        return [
            replace(term, runs=tuple(replace(run, edit=term.direction) for run in term.runs))
            for term in super().terms(rows, reduction, rng)
        ]

    def at_sites(
        self, task: Fit, sites: Sequence[Site], trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> list[DirectionAtSite]:
        """The learned factors."""
        return [
            DirectionAtSite(
                directions_of(at_site),
                _factor(at_site, "suppress").detach().cpu().clone(),
                _factor(at_site, "elicit").detach().cpu().clone(),
                site.layer,
            )
            for site, at_site in zip(sites, trained, strict=True)
        ]


def _factor(at_site: Mapping[EditName, nn.Module], edit: EditName) -> nn.Parameter:
    factor = at_site[edit].factor
    assert isinstance(factor, nn.Parameter)
    return factor
