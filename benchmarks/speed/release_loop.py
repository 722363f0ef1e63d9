"""The training step as the authors' release does it, on plain pyvene.

The source pass runs inside pyvene, the teacher is a second pass over the same source, the base runs
at full depth, and logits are made at every position. Kept as the yardstick of `benchmarks.speed`;
`concept_das.training.pyvene_engine` is the reference for correctness.
"""

from collections.abc import Sequence

import pyvene as pv
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.encoding import EncodedQuadruple, Interchange
from concept_das.models.blocks import Site
from concept_das.models.logits import collate_for
from concept_das.words import DIRECTIONS
from interventions import DistributedInterchangeIntervention
from objectives import elicit_loss


class ReleaseLoop:
    """Steps of one intervention; token-pooled, as the release reduces."""

    def __init__(
        self,
        model: PreTrainedModel,
        site: Site,
        intervention: DistributedInterchangeIntervention,
    ) -> None:
        self.model = model
        self.intervenable = pv.IntervenableModel(
            {"component": site.component, "intervention": intervention}, model
        )

    def step(self, rows: Sequence[EncodedQuadruple]) -> float:
        """Forward and backward of a batch, one direction after the other; the loss."""
        total = 0.0
        for direction in DIRECTIONS:
            loss = self._loss([getattr(row, direction) for row in rows])
            loss.backward()
            total += float(loss.detach())
        return total

    def _loss(self, pairs: Sequence[Interchange]) -> Tensor:
        base = collate_for(self.model, [pair.base for pair in pairs])
        source = collate_for(self.model, [pair.source for pair in pairs])
        positions = list(range(pairs[0].base.prompt.prefix_length, base.input_ids.shape[1]))
        where = [[position] * len(positions) for position in source.source_positions()]
        _, student = self.intervenable(
            base.model_inputs(),
            [source.model_inputs()],
            {"sources->base": ([where], [[positions] * len(pairs)])},
        )
        with torch.no_grad():
            teacher = self.model(**source.model_inputs())
        student_tokens = student.logits[base.response_mask]
        teacher_tokens = teacher.logits[source.response_mask]
        mask = torch.ones(1, len(student_tokens), dtype=torch.bool, device=student_tokens.device)
        return elicit_loss(student_tokens[None], teacher_tokens[None], mask, "token")
