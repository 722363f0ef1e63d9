"""DiffMean, the baseline that needs no training."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from concept_das.data.batches import batches, pad_id_of
from concept_das.data.chat_format import Turn
from concept_das.diffmean import diff_mean
from concept_das.methods.base import FittedMethod, Job
from concept_das.models.blocks import Site, find_site, hidden_states_at
from concept_das.models.logits import collate_for
from concept_das.steering.vector import SteeringVector


class DiffMean(FittedMethod):
    """The unit direction from the mean hidden state of neutral texts to that of concept texts.

    As in AxBench: every token after the template prefix, of instruction and response, the
    instruction without the concept asked for in both; factors in units of the largest coordinate
    over the concept's texts (`max_act`). The CDAS paper does not say at which tokens its DiM is
    taken.
    """

    name = "diffmean"
    summary = "baseline: difference of the mean hidden states of concept and neutral texts"
    steering = "add multiplier x the largest coordinate of a concept text; negative to suppress"

    def fit(self, job: Job) -> SteeringVector:
        """The direction and its scale."""
        site = find_site(job.model, job.layer)
        concept = _states(job, site, [row.elicit.base for row in job.encoded])
        neutral = _states(job, site, [row.suppress.source for row in job.encoded])
        difference = diff_mean(concept, neutral)
        largest = (concept @ difference.direction).max().reshape(1)
        return SteeringVector(
            weight=difference.direction.unsqueeze(0),
            negative_factor=-largest,
            positive_factor=largest,
            operation="add",
            layer=site.layer,
            **job.common,
        )


def _states(job: Job, site: Site, turns: Sequence[Turn]) -> Float[Tensor, "tokens dim"]:
    """Hidden states of every token after the template prefix, in float32 on the CPU."""
    found = []
    for chunk in batches(turns, 8):
        batch = collate_for(job.model, chunk, pad_id_of(job.chat.tokenizer))
        hidden = hidden_states_at(job.model, site, **batch.model_inputs())
        for states, turn in zip(hidden, chunk, strict=True):
            found.append(states[turn.prompt.prefix_length : len(turn.ids)].float().cpu())
    return torch.cat(found)
