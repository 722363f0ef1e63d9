"""Adding a direction to hidden states, and taking it out: how vectors other than CDAS's steer.

Lang., BiPO and RePS train `h + factor * w`, and DiffMean steers by it. RePS trains suppression on
the same w with the direction nulled out. None of the three that are trained holds the length of w
fixed: it is learned, and the factors of the papers are in units of it. DiffMean's direction has
unit length.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interventions.sourceless import FactoredDirections, SourcelessDirections
from interventions.subspace import coordinates

# Below any squared length that a direction has; keeps a direction of zeros from dividing by zero.
_TINY = 1e-12


def add_direction(
    hidden: Float[Tensor, "*batch positions dim"],
    weight: Float[Tensor, "*rows rank dim"],
    factor: Float[Tensor, "*factors rank"],
) -> Float[Tensor, "*batch positions dim"]:
    """h + sum_r factor_r w_r: move along the directions, wherever the hidden state is.

    Args:
        hidden: hidden states, any floating dtype.
        weight: directions of any length, `[rank, dim]` or one set per batch row
            `[batch, rank, dim]`.
        factor: multiples of the directions, `[rank]` or `[batch, 1, rank]`.

    Returns:
        The moved hidden states in the dtype of `hidden`; the arithmetic is in the weight's.
    """
    return (hidden + torch.atleast_2d(factor).to(weight.dtype) @ weight).to(hidden.dtype)


def null_out(
    hidden: Float[Tensor, "*batch positions dim"],
    weight: Float[Tensor, "*rows rank dim"],
) -> Float[Tensor, "*batch positions dim"]:
    """h - relu(w . h) w / |w|^2: remove what points along the direction, keep what points against.

    RePS's suppression in training, as AxBench's code has it without the trainable bias that it
    adds to the latent and to every factor. Independent of the length of w, and exact for several
    directions only if they are orthogonal. A direction of zeros has no effect.

    Args:
        hidden, weight: as for `add_direction`.

    Returns:
        The hidden states with `w . h <= 0`, in the dtype of `hidden`.
    """
    latent = torch.relu(coordinates(hidden, weight))
    scale = weight.square().sum(dim=-1).clamp_min(_TINY).unsqueeze(-2)
    return (hidden - (latent / scale) @ weight).to(hidden.dtype)


class AdditiveIntervention(FactoredDirections):
    """Add a direction, times a factor: h + factor * w. Needs no source.

    ::

        intervention = AdditiveIntervention(embed_dim=576)
        model = pv.IntervenableModel(
            {"component": "model.layers[15].output", "intervention": intervention}, model
        )
        _, output = model(
            batch, unit_locations={"base": [positions]},
            intervention_additional_kwargs={"row_factors": torch.tensor([2.0, 10.0])},
        )

    The length of w is free, as Lang., BiPO and RePS want it. For a direction of unit length call
    `retract()` after each optimizer step. The direction is float32 whatever the model's precision.

    Args:
        embed_dim, low_rank_dimension, subspace_partition: see `interventions.partition`.
        weight: the directions `[rank, dim]`, kept at their length; random unit ones if not given.
            BiPO begins at zero (its paper).
        factor: a multiple for each direction, `[rank]`; ones if not given.
    """

    default_factor = 1.0

    def edited(
        self,
        base: Float[Tensor, "batch positions dim"],
        subspaces: Sequence[Sequence[int] | int] | None,
        row_factors: Float[Tensor, "prompts"] | None,
    ) -> Float[Tensor, "batch positions dim"]:
        """Add the directions to the base."""
        weight, rows = self.select(base, subspaces)
        if row_factors is None:
            return add_direction(base, weight, self.factors_of(rows, weight.shape[-2]))
        repeats = base.shape[0] // row_factors.shape[0]  # several sequences per prompt
        column = row_factors.to(weight).repeat_interleave(repeats)[:, None, None]
        factor = column.expand(-1, 1, weight.shape[-2])
        if isinstance(self.factor, nn.Parameter):
            factor = factor * self.factor
        return add_direction(base, weight, factor)


class NullOutIntervention(SourcelessDirections):
    """Take a direction out of the hidden states where it is present: see `null_out`.

    RePS trains one direction both ways, by sharing the parameter::

        add = AdditiveIntervention(embed_dim=576)
        null = NullOutIntervention(embed_dim=576)
        null.weight = add.weight

    Args:
        embed_dim, low_rank_dimension, subspace_partition: see `interventions.partition`.
        weight: the directions `[rank, dim]`; random if not given.
    """

    def edited(
        self,
        base: Float[Tensor, "batch positions dim"],
        subspaces: Sequence[Sequence[int] | int] | None,
        row_factors: Tensor | None,
    ) -> Float[Tensor, "batch positions dim"]:
        """Take the directions out of the base."""
        weight, _rows = self.select(base, subspaces)
        return null_out(base, weight)
