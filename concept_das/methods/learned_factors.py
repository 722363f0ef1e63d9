"""CDAS with factors that are learned together with the directions.

The interchange gives each base the coordinates of its own source, while steering clamps to one
factor for all. Here training clamps too: to a factor for each direction of steering, which is a
parameter with a learning rate of its own (`factor_learning_rate`), as PrOSV trains its factor
(arXiv 2605.05983). The loss is CDAS's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.methods.base import Fit, directions_of, learned_factor
from concept_das.methods.interchange import CDAS, InterchangeMethod
from concept_das.models.blocks import Site
from concept_das.steering.factors import measure_latents_at
from concept_das.words import Direction
from interventions import ClampIntervention


class CDASLearned(InterchangeMethod):
    """CDAS's divergence, with the mean coordinates of the sources as the factors' start.

    Use it as CDAS, at several blocks; the vector that comes with the package is one.
    """

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
                learned_factor(at_site["elicit"]).copy_(latents.positive_factor)
                learned_factor(at_site["suppress"]).copy_(latents.negative_factor)

    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[EditedPass]:
        """CDAS's, with the direction's clamp in place of the interchange."""
        return [replace(run, edit=direction) for run in super().runs(rows, direction)]

    def factors_at(
        self, task: Fit, sites: Sequence[Site], trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> list[tuple[Tensor, Tensor]]:
        """The learned factors."""
        negative, positive = (
            [learned_factor(at_site[edit]).detach().cpu().clone() for at_site in trained]
            for edit in ("suppress", "elicit")
        )
        return list(zip(negative, positive, strict=True))
