"""A steering vector: directions at one site with the factors measured on data."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.blocks import Site, find_site
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.steering.artifact import Artifact, load_vector, readable
from concept_das.words import Direction, Rule

__all__ = ["ModelIdentity", "Operation", "Rule", "SteeringVector"]


Operation = Literal["clamp", "add"]


@readable
@dataclass(frozen=True)
class SteeringVector(Artifact):
    """Directions at one site with the factors measured on data.

    Attributes:
        weight: `[rank, dim]` float32; orthonormal rows where the operation is `clamp`.
        negative_factor: `[rank]`, mean coordinates of neutral prompts (for `add`: the scale that
            suppresses).
        positive_factor: `[rank]`, mean coordinates of concept prompts (for `add`: the scale that
            elicits).
        operation: `clamp` sets the coordinates W h to a; `add` adds a W.
        layer: block index, 0-based; the site is that block's output.

    The other fields are those of every `Artifact`.
    """

    operations: ClassVar[tuple[str, ...]] = ("clamp", "add")

    weight: Float[Tensor, "rank dim"]
    negative_factor: Float[Tensor, "rank"]
    positive_factor: Float[Tensor, "rank"]
    layer: int
    operation: Operation = "clamp"

    def __post_init__(self) -> None:
        rank = self.weight.shape[0]
        for name in ("negative_factor", "positive_factor"):
            value = getattr(self, name)
            if value.shape != (rank,):
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected ({rank},)")
            if not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"{name} holds NaN or Inf: a hidden state of the data overflowed; load the "
                    "model in float32 or drop the row"
                )
        if not bool(torch.isfinite(self.weight).all()):
            raise InputError("the weight holds NaN or Inf; train the vector again")

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.weight.shape[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """The one block it acts at."""
        return (self.layer,)

    @property
    def parameters(self) -> int:
        """Numbers that were learned; the factors are measured."""
        return self.weight.numel()

    def target(
        self, direction: Direction, multiplier: float = 1.0, rule: Rule = "paper"
    ) -> Float[Tensor, "rank"]:
        """The coordinates to clamp to, or the amounts to add.

        Args:
            direction: `elicit` or `suppress`.
            multiplier: strength, without unit; 1 is the paper's unit factor under both rules.
            rule: `paper` scales the measured factor from the coordinate's zero, m * factor;
                `interpolate` moves along the line between the two measured means: for `elicit` 0 is
                the neutral mean and 1 the concept mean, for `suppress` the other way round.

        Raises:
            InputError: on an unknown direction or rule.
        """
        self.check_direction(direction)
        here, there = self.negative_factor, self.positive_factor
        if direction == "suppress":
            here, there = there, here
        if rule == "paper":
            return multiplier * there
        if rule == "interpolate":
            return here + multiplier * (there - here)
        raise InputError(f"unknown rule {rule!r}; choose paper or interpolate")

    def site(self, model: PreTrainedModel) -> Site:
        """Where the vector acts in this model."""
        return find_site(model, self.layer)

    def tensors(self) -> dict[str, Tensor]:
        """The directions and the two factors."""
        return {
            "weight": self.weight,
            "negative_factor": self.negative_factor,
            "positive_factor": self.positive_factor,
        }

    def edit_description(self) -> dict[str, Any]:
        """Operation, norm, site and factors."""
        formula = {
            "clamp": "h + W^T (a - W h), at every position from prefix_length on",
            "add": "h + W^T a, at every position from prefix_length on",
        }
        return {
            "operation": self.operation,
            "formula": formula[self.operation],
            "rank": self.rank,
            "row_norms": [round(norm, 6) for norm in self.weight.norm(dim=1).tolist()],
            "site": {"layer": self.layer, "component": "output of the decoder block, 0-based"},
            "factors": {
                "negative": self.negative_factor.tolist(),
                "positive": self.positive_factor.tolist(),
            },
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "SteeringVector":
        """The inverse of `tensors` and `edit_description`."""
        return cls(
            tensors["weight"],
            tensors["negative_factor"],
            tensors["positive_factor"],
            layer=description["site"]["layer"],
            operation=description["operation"],
            **common,
        )

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], model: PreTrainedModel | LoadedModel | None = None
    ) -> "SteeringVector":
        """Read a saved vector, and check that it belongs to the model if one is given.

        Raises:
            InputError: if a file is missing, truncated or was edited, or holds something else than
                a vector.
            VectorMismatchError: if it belongs to another model.
        """
        vector = load_vector(folder, model)
        if not isinstance(vector, cls):
            raise InputError(
                f"{folder} was trained by {vector.method} and holds no vector; read it with "
                "load_vector"
            )
        return vector
