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
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from concept_das.data.chat_format import Prompt, Turn
from concept_das.data.encoding import EncodedQuadruple
from concept_das.errors import InputError
from concept_das.models.blocks import Site
from concept_das.models.logits import hidden_states_of
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
    model: PreTrainedModel, sites: Sequence[Site], prompts: Sequence[Prompt], batch_size: int
) -> Float[Tensor, "sites prompts dim"]:
    """The hidden state at each site and each prompt's source token, in float32.

    Later tokens cannot change it (causal attention), so they are cut off.
    """
    cut = [
        Turn(Prompt(p.ids[: p.source_position + 1], p.prefix_length, p.source_position))
        for p in prompts
    ]
    found: list[list[Tensor]] = [[] for _ in sites]
    with tqdm(total=len(prompts), desc="factors", leave=False) as bar:
        for batch, seen in hidden_states_of(model, sites, cut, batch_size):
            index = torch.tensor(batch.source_positions())
            for of_site, hidden in zip(found, seen, strict=True):
                of_site.append(hidden[torch.arange(len(index)), index].float().to(seen[0].device))
            bar.update(len(index))
    return torch.stack([torch.cat(of_site) for of_site in found])


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
    return measure_latents_at(model, [site], [weight], rows, batch_size=batch_size)[0]


def measure_latents_at(
    model: PreTrainedModel,
    sites: Sequence[Site],
    weights: Sequence[Float[Tensor, "rank dim"]],
    rows: Sequence[EncodedQuadruple],
    *,
    batch_size: int = 16,
) -> list[Latents]:
    """The same at several sites, each with its own directions."""
    neutral = [row.elicit.base.prompt for row in rows]
    concept = [row.elicit.source.prompt for row in rows]
    states = source_states(model, sites, neutral + concept, batch_size)
    return [
        _latents(coordinates(at_site, weight.to(at_site.device)).cpu(), site, len(rows))
        for at_site, weight, site in zip(states, weights, sites, strict=True)
    ]


def _latents(values: Float[Tensor, "prompts rank"], site: Site, rows: int) -> Latents:
    """Split the coordinates of neutral and of concept prompts.

    Raises:
        InputError: naming the first row whose coordinate is NaN or Inf.
    """
    bad = (~torch.isfinite(values)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        kind = "negative_input" if bad[0] < rows else "positive_input"
        raise InputError(
            f"the factor of row {bad[0] % rows}, {kind}, is NaN or Inf at layer {site.layer}; "
            "load the model in float32 or drop the row"
        )
    return Latents(values[:rows], values[rows:])
