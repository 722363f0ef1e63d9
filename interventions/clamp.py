"""The inference intervention of Concept DAS; also trained, where factors are learned."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interventions.sourceless import FactoredDirections
from interventions.subspace import set_coordinates


class ClampIntervention(FactoredDirections):
    """Clamp the coordinates along known directions to a factor. Needs no source.

    Clamp(h; a) = h + W^T (a - W h) (CDAS paper, inference). Works in pyvene's `generate` with a KV
    cache; every new token is clamped::

        _, ids = model.generate(
            prompt, unit_locations=None, intervene_on_prompt=True,
            intervention_additional_kwargs={"position_mask": mask},
        )

    Args:
        embed_dim, low_rank_dimension, subspace_partition: as for the training intervention.
        weight: the directions `[rank, dim]`; random if not given.
        factor: the coordinates `[rank]` to clamp to; zeros if not given.
        learns_factor: true if directions and factor are to be trained; known ones are frozen.
    """

    default_factor = 0.0

    def __init__(
        self,
        weight: Tensor | None = None,
        factor: Tensor | None = None,
        learns_factor: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, factor, learns_factor, **kwargs)
        self.weight.requires_grad_(learns_factor)

    def edited(
        self,
        base: Float[Tensor, "batch positions dim"],
        subspaces: Sequence[Sequence[int] | int] | None,
        row_factors: Tensor | None,
    ) -> Float[Tensor, "batch positions dim"]:
        """Clamp the base's coordinates along the directions to the factor."""
        weight, rows = self.select(base, subspaces)
        return set_coordinates(base, weight, self.factors_of(rows, weight.shape[-2]))
