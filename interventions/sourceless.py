"""Edits that need no source; where directions are set or added, a factor for each is kept."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interventions.backend import pyvene as pv
from interventions.partition import PartitionedSubspace
from interventions.positions import edit_where


class SourcelessEdit(pv.SourcelessIntervention):
    """Changes hidden states by what they are themselves, at the positions of a mask."""

    @abstractmethod
    def edited(
        self,
        base: Float[Tensor, "batch positions dim"],
        subspaces: Sequence[Sequence[int] | int] | None,
        row_factors: Float[Tensor, "prompts"] | None,
    ) -> Float[Tensor, "batch positions dim"]:
        """The hidden states changed at every position, same shape and dtype; see `forward`."""

    def forward(
        self,
        base: Float[Tensor, "batch positions dim"],
        source: None = None,
        subspaces: Sequence[Sequence[int] | int] | None = None,
        position_mask: Bool[Tensor, "prompts width"] | None = None,
        row_factors: Float[Tensor, "prompts"] | None = None,
        **_: Any,
    ) -> Float[Tensor, "batch positions dim"]:
        """Change the base.

        Args:
            base: hidden states to change.
            source: unused; pyvene passes None.
            subspaces: which directions each batch row uses; all of them if None. Edits without a
                choice of directions take no account of it.
            position_mask: true at the prompt positions to change (false protects a template prefix
                or padding). It spans the prompt: positions after it, and the single new tokens of
                cached generation, are changed always.
            row_factors: for additions, one factor per batch row in place of the saved one, for all
                its directions: the factors that Lang. and RePS draw, BiPO's sign. A learned factor
                is multiplied by it.

        Returns:
            The changed hidden states, same shape and dtype as `base`.
        """
        return edit_where(position_mask, self.edited(base, subspaces, row_factors), base)


class SourcelessDirections(SourcelessEdit, PartitionedSubspace):
    """A stack of directions that may be given.

    Args:
        embed_dim, low_rank_dimension, subspace_partition: see `interventions.partition`.
        weight: the directions `[rank, dim]`, kept at their length; random unit ones if not given.
    """

    def __init__(self, weight: Tensor | None = None, **kwargs: Any) -> None:
        if weight is not None:
            rank, width = weight.shape
            kwargs = {**kwargs, "embed_dim": width, "low_rank_dimension": rank}
        super().__init__(**kwargs)
        if weight is not None:
            self.weight.data.copy_(weight)


class FactoredDirections(SourcelessDirections):
    """A stack of directions with a factor for each.

    Args:
        factor: `[rank]`; the class's default for each direction if not given.
        learns_factor: true if the factor is a parameter, to be trained with the directions.

    Raises:
        ValueError: if there is not one factor for each direction.
    """

    default_factor: ClassVar[float]

    def __init__(
        self,
        weight: Tensor | None = None,
        factor: Tensor | None = None,
        learns_factor: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight, **kwargs)
        rank = self.weight.shape[0]
        if factor is None:
            factor = torch.full((rank,), self.default_factor)
        if factor.shape != (rank,):
            raise ValueError(f"factor has shape {tuple(factor.shape)}; expected ({rank},)")
        self.factor: Tensor
        own = factor.detach().float().clone()
        if learns_factor:
            self.factor = nn.Parameter(own)
        else:
            self.register_buffer("factor", own)

    def factors_of(self, rows: list[list[int]] | None, rank: int) -> Float[Tensor, "*batch rank"]:
        """The factors of the directions that `select` chose.

        Args:
            rows: each batch row's, as `select` names them; None for all.
            rank: the most that one has.

        Returns:
            `[rank]` for all, or `[batch, 1, rank]` with zeros behind a batch row's own.
        """
        if rows is None:
            return self.factor
        factors = self.factor.new_zeros(len(rows), 1, rank)
        for i, chosen in enumerate(rows):
            factors[i, 0, : len(chosen)] = self.factor[chosen]
        return factors

    def _unsized_buffers(self, saved_weight: Tensor) -> dict[str, Tensor]:
        factor = self.factor.new_zeros(saved_weight.shape[0])
        known = {} if factor.shape == self.factor.shape else {"factor": factor}
        return {**super()._unsized_buffers(saved_weight), **known}
