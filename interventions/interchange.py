"""The training intervention of Concept DAS."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from interventions.partition import PartitionedSubspace
from interventions.positions import edit_where
from interventions.subspace import coordinates, set_coordinates


class DistributedInterchangeIntervention(PartitionedSubspace):
    """Swap the base's coordinates along learned directions for the source's.

    DII(h; h_s) = h + W^T (W h_s - W h) with orthonormal rows W, rank 1 by default (CDAS paper,
    method section). An ordinary trainable pyvene intervention::

        intervention = DistributedInterchangeIntervention(embed_dim=576)
        model = pv.IntervenableModel(
            {"component": "model.layers[15].output", "intervention": intervention}, model
        )

    The direction is float32 whatever the model's precision, and gradients flow through all three
    uses of it: reading the source, reading the base, writing. Call `retract()` after each
    optimizer step.

    Args:
        embed_dim: width of the hidden states.
        low_rank_dimension: number of directions, 1 if not given.
        subspace_partition: splits the directions into independent concepts; see
            `interventions.partition`.
    """

    def forward(
        self,
        base: Float[Tensor, "batch positions dim"],
        source: Tensor,
        subspaces: Sequence[Sequence[int] | int] | None = None,
        position_mask: Bool[Tensor, "prompts width"] | None = None,
        **_: Any,
    ) -> Float[Tensor, "batch positions dim"]:
        """Give the base the source's coordinates along the directions.

        Args:
            base: hidden states to change.
            source: `[batch, 1, dim]` or `[batch, dim]`, one source state for all base positions
                (the paper's one-to-many interchange), or `[batch, positions, dim]`.
            subspaces: which directions each batch row uses; all of them if None.
            position_mask: true at the positions to change, see
                `interventions.positions.edit_where`. pyvene 0.1.8 hands no keyword to an
                intervention with a source: there, choose positions by `unit_locations`.

        Returns:
            The intervened hidden states, same shape and dtype as `base`.

        Raises:
            ValueError: on a width mismatch or a subspace out of range.
        """
        weight, _rows = self.select(base, subspaces)
        source = source.unsqueeze(1) if source.dim() == base.dim() - 1 else source
        moved = set_coordinates(base, weight, coordinates(source, weight))
        return edit_where(position_mask, moved, base)
