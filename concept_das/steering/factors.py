"""Measuring where neutral and concept prompts lie along a direction.

The paper's factors: the mean coordinate W h over training prompts, read at the source token of each
prompt in the untouched model (its section on inference; one mean for neutral prompts, one for
concept prompts).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from concept_das.data.batches import batches
from concept_das.data.chat_format import Prompt, Turn
from concept_das.data.encoding import EncodedQuadruple
from concept_das.errors import InputError
from concept_das.models.blocks import Site, hidden_states_at
from concept_das.models.logits import collate_for
from interventions import coordinates


@dataclass(frozen=True)
class Latents:
    """Coordinates of every prompt of the data.

    Attributes:
        negative: `[rows, rank]`, neutral prompts.
        positive: `[rows, rank]`, concept prompts.
    """

    negative: Float[Tensor, "rows rank"]
    positive: Float[Tensor, "rows rank"]

    @property
    def negative_factor(self) -> Float[Tensor, "rank"]:
        """Mean over neutral prompts."""
        return self.negative.mean(dim=0)

    @property
    def positive_factor(self) -> Float[Tensor, "rank"]:
        """Mean over concept prompts."""
        return self.positive.mean(dim=0)


def source_states(
    model: PreTrainedModel,
    site: Site,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = 16,
    progress: str | None = None,
) -> Float[Tensor, "prompts dim"]:
    """The site's hidden state at each prompt's source token, in float32.

    Later tokens cannot change it (causal attention), so they are cut off.

    Args:
        progress: label of a progress bar; none if None.
    """
    found = []
    bar = tqdm(total=len(prompts), desc=progress, disable=progress is None, leave=False)
    for chunk in batches(prompts, batch_size):
        cut = [
            Turn(Prompt(p.ids[: p.source_position + 1], p.prefix_length, p.source_position))
            for p in chunk
        ]
        batch = collate_for(model, cut)
        hidden = hidden_states_at(model, site, **batch.model_inputs())
        index = torch.tensor(batch.source_positions(), device=hidden.device)
        found.append(hidden[torch.arange(len(chunk), device=hidden.device), index].float())
        bar.update(len(chunk))
    bar.close()
    return torch.cat(found)


def measure_latents(
    model: PreTrainedModel,
    site: Site,
    weight: Float[Tensor, "rank dim"],
    rows: Sequence[EncodedQuadruple],
    *,
    batch_size: int = 16,
) -> Latents:
    """Coordinates of the neutral and the concept prompts of the rows.

    Raises:
        InputError: naming the first row whose coordinate is NaN or Inf.
    """
    neutral = [row.elicit.base.prompt for row in rows]
    concept = [row.elicit.source.prompt for row in rows]
    states = source_states(
        model, site, neutral + concept, batch_size=batch_size, progress="factors"
    )
    values = coordinates(states, weight.to(states.device)).cpu()
    bad = (~torch.isfinite(values)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        kind = "negative_input" if bad[0] < len(rows) else "positive_input"
        raise InputError(
            f"the factor of row {bad[0] % len(rows)}, {kind}, is NaN or Inf at layer {site.layer}; "
            "load the model in float32 or drop the row"
        )
    return Latents(values[: len(rows)], values[len(rows) :])
