"""The inference intervention of Concept DAS."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from pyvene.models.interventions import SourcelessIntervention
from torch import Tensor

from interventions.partition import PartitionedSubspace
from interventions.positions import edit_where
from interventions.subspace import set_coordinates


class ClampIntervention(SourcelessIntervention, PartitionedSubspace):
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
    """

    def __init__(
        self, weight: Tensor | None = None, factor: Tensor | None = None, **kwargs: Any
    ) -> None:
        if weight is not None:
            kwargs = {
                **kwargs,
                "embed_dim": weight.shape[1],
                "low_rank_dimension": weight.shape[0],
            }
        super().__init__(**kwargs)
        self.weight.requires_grad_(False)
        if weight is not None:
            self.weight.data.copy_(weight)
        rank = self.weight.shape[0]
        if factor is not None and factor.shape != (rank,):
            raise ValueError(f"factor has shape {tuple(factor.shape)}; expected ({rank},)")
        self.factor: Tensor
        self.register_buffer(
            "factor", torch.zeros(rank) if factor is None else factor.detach().float().clone()
        )

    def forward(
        self,
        base: Float[Tensor, "batch positions dim"],
        source: None = None,
        subspaces: Sequence[Sequence[int] | int] | None = None,
        position_mask: Bool[Tensor, "prompts width"] | None = None,
        **_: Any,
    ) -> Float[Tensor, "batch positions dim"]:
        """Clamp the base's coordinates along the directions to the factor.

        Args:
            base: hidden states to change.
            source: unused; pyvene passes None.
            subspaces: which directions each batch row uses; all of them if None.
            position_mask: true at the prompt positions to clamp (false protects a template prefix
                or padding). It spans the prompt: positions after it, and the single new tokens of
                cached generation, are clamped always.

        Returns:
            The clamped hidden states, same shape and dtype as `base`.
        """
        self._check_width(base)
        weight, rows = self.select(subspaces, base.shape[0])
        target = self.factor if rows is None else self._targets(rows, weight.shape[1])
        moved = set_coordinates(base, weight, target)
        return edit_where(position_mask, moved, base)

    def _targets(self, rows: list[list[int]], rank: int) -> Float[Tensor, "batch 1 rank"]:
        target = self.factor.new_zeros(len(rows), 1, rank)
        for i, chosen in enumerate(rows):
            target[i, 0, : len(chosen)] = self.factor[chosen]
        return target

    def _unsized_buffers(self, saved_weight: Tensor) -> dict[str, Tensor]:
        factor = self.factor.new_zeros(saved_weight.shape[0])
        known = {} if factor.shape == self.factor.shape else {"factor": factor}
        return {**super()._unsized_buffers(saved_weight), **known}

    def __str__(self) -> str:
        return f"ClampIntervention(rank={self.weight.shape[0]})"
