"""The training step as the authors' release does it, on plain pyvene.

The source pass runs inside pyvene, the teacher is a second pass over the same source, the base runs
at full depth, and logits are made at every position. Kept as the yardstick of `benchmarks.speed`;
`concept_das.plain` is the reference for correctness.
"""

from collections.abc import Sequence

import pyvene as pv
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data import Direction, EncodedQuadruple
from concept_das.scoring import collate_for
from concept_das.sites import Site
from interventions import DistributedInterchangeIntervention
from objectives import elicit_loss


class ReleaseLosses:
    """One intervention's losses; token-pooled, as the release computes them."""

    def __init__(
        self,
        model: PreTrainedModel,
        site: Site,
        intervention: DistributedInterchangeIntervention,
        pad_id: int,
    ) -> None:
        self.model = model
        self.pad_id = pad_id
        self.intervenable = pv.IntervenableModel(
            {"component": site.component, "intervention": intervention}, model
        )

    def loss(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> Tensor:
        """JSD of a batch in one direction, with its graph."""
        pairs = [getattr(row, direction) for row in rows]
        base = collate_for(self.model, [pair.base for pair in pairs], self.pad_id)
        source = collate_for(self.model, [pair.source for pair in pairs], self.pad_id)
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
