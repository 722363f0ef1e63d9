"""The training step as the authors' release does it, on plain pyvene.

The source pass runs inside pyvene, the teacher is a second pass over the same source, the base runs
at full depth, and logits are made at every position. `benchmarks.speed` compares the engine with
it; `concept_das.training.pyvene_engine` is the reference for correctness.
"""

from collections.abc import Sequence

import pyvene as pv
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.encoding import Interchange
from concept_das.models.logits import collate_for
from objectives import elicit_loss


def release_loss(
    model: PreTrainedModel,
    intervenable: pv.IntervenableModel,
    pairs: Sequence[Interchange],
) -> Tensor:
    """The loss of a batch in one direction, token-pooled, as the release reduces it."""
    base = collate_for(model, [pair.base for pair in pairs])
    source = collate_for(model, [pair.source for pair in pairs])
    positions = list(range(pairs[0].base.prompt.prefix_length, base.input_ids.shape[1]))
    where = [[position] * len(positions) for position in source.source_positions()]
    _, student = intervenable(
        base.model_inputs(),
        [source.model_inputs()],
        {"sources->base": ([where], [[positions] * len(pairs)])},
    )
    with torch.no_grad():
        teacher = model(**source.model_inputs())
    student_tokens = student.logits[base.response_mask]
    teacher_tokens = teacher.logits[source.response_mask]
    mask = torch.ones(1, len(student_tokens), dtype=torch.bool, device=student_tokens.device)
    return elicit_loss(student_tokens[None], teacher_tokens[None], mask, "token")
