"""A steering vector: directions at one or several sites with the factors measured on data."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from concept_das.steering.positions import Span, parse_positions
from concept_das.words import Direction, Rule

__all__ = ["DirectionAtSite", "ModelIdentity", "Operation", "Rule", "SteeringVector"]

Operation = Literal["clamp", "add"]

_TENSORS = ("weight", "negative_factor", "positive_factor")


@dataclass(frozen=True)
class DirectionAtSite:
    """Directions at the output of one decoder block, with their factors.

    Attributes:
        weight: `[rank, dim]` float32; orthonormal rows where the operation is `clamp`.
        negative_factor: `[rank]`, mean coordinates of neutral prompts (for `add`: the scale that
            suppresses).
        positive_factor: `[rank]`, mean coordinates of concept prompts (for `add`: the scale that
            elicits).
        layer: block index, 0-based; the site is that block's output.

    Raises:
        InputError: if a factor has another rank than the weight, or a number is NaN or Inf.
    """

    weight: Float[Tensor, "rank dim"]
    negative_factor: Float[Tensor, "rank"]
    positive_factor: Float[Tensor, "rank"]
    layer: int

    def __post_init__(self) -> None:
        for name in ("negative_factor", "positive_factor"):
            value = getattr(self, name)
            if value.shape != (self.rank,):
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected ({self.rank},)")
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

    def target(
        self, direction: Direction, multiplier: float = 1.0, rule: Rule = "paper"
    ) -> Float[Tensor, "rank"]:
        """The coordinates to clamp to, or the amounts to add; see `SteeringVector.target`."""
        here, there = self.negative_factor, self.positive_factor
        if direction == "suppress":
            here, there = there, here
        if rule == "paper":
            return multiplier * there
        if rule == "interpolate":
            return here + multiplier * (there - here)
        raise InputError(f"unknown rule {rule!r}; choose paper or interpolate")

    def description(self) -> dict[str, Any]:
        """Norms, site and factors."""
        return {
            "row_norms": [round(norm, 6) for norm in self.weight.norm(dim=1).tolist()],
            "site": {"layer": self.layer, "component": "output of the decoder block, 0-based"},
            "factors": {
                "negative": self.negative_factor.tolist(),
                "positive": self.positive_factor.tolist(),
            },
        }


@readable
@dataclass(frozen=True, init=False)
class SteeringVector(Artifact):
    """Directions at one or several sites, with the factors measured on data.

    Most vectors have one site: its `weight`, `negative_factor`, `positive_factor` and `layer` can
    be given to the constructor and read from the vector. Reading them raises InputError where there
    are several sites.

    Attributes:
        sites: the directions at each site, from the lowest layer to the highest.
        operation: `clamp` sets the coordinates W h to a; `add` adds a W.
        positions: the tokens it edits, see `concept_das.steering.positions`.

    The other fields are those of every `Artifact`.
    """

    operations: ClassVar[tuple[str, ...]] = ("clamp", "add")

    sites: tuple[DirectionAtSite, ...]
    operation: Operation = "clamp"
    positions: str = "all"

    def __init__(
        self,
        weight: Float[Tensor, "rank dim"] | None = None,
        negative_factor: Float[Tensor, "rank"] | None = None,
        positive_factor: Float[Tensor, "rank"] | None = None,
        layer: int | None = None,
        operation: Operation = "clamp",
        *,
        sites: Sequence[DirectionAtSite] = (),
        positions: str = "all",
        **common: Any,
    ) -> None:
        """Take `sites`, or the parts of one site; parts given with one site replace its own.

        Args:
            weight, negative_factor, positive_factor, layer: see `DirectionAtSite`.
            common: the fields of `Artifact`.

        Raises:
            InputError: if there is no site, a layer is given twice, or a part cannot be used.
        """
        super().__init__(**common)
        object.__setattr__(self, "operation", operation)
        parse_positions(positions)
        object.__setattr__(self, "positions", positions)
        given = {
            "weight": weight,
            "negative_factor": negative_factor,
            "positive_factor": positive_factor,
            "layer": layer,
        }
        parts: dict[str, Any] = {name: part for name, part in given.items() if part is not None}
        ordered = tuple(sorted(sites, key=lambda site: site.layer))
        object.__setattr__(self, "sites", ordered)
        if parts and ordered:
            object.__setattr__(self, "sites", (replace(self._one_site, **parts),))
        elif len(parts) == len(given):
            object.__setattr__(self, "sites", (DirectionAtSite(**parts),))
        elif not ordered:
            raise InputError("give sites, or weight, negative_factor, positive_factor and layer")
        if len(set(self.layers)) < len(self.sites):
            raise InputError("a layer is given twice; name each once")

    @property
    def _one_site(self) -> DirectionAtSite:
        if len(self.sites) > 1:
            layers = ", ".join(map(str, self.layers))
            raise InputError(
                f"this vector acts at the layers {layers}, and this needs a vector of one layer; "
                "make one from a single entry of its sites"
            )
        return self.sites[0]

    @property
    def weight(self) -> Float[Tensor, "rank dim"]:
        """The directions of a vector with one site."""
        return self._one_site.weight

    @property
    def negative_factor(self) -> Float[Tensor, "rank"]:
        """The negative factor of a vector with one site."""
        return self._one_site.negative_factor

    @property
    def positive_factor(self) -> Float[Tensor, "rank"]:
        """The positive factor of a vector with one site."""
        return self._one_site.positive_factor

    @property
    def layer(self) -> int:
        """The block of a vector with one site."""
        return self._one_site.layer

    @property
    def span(self) -> Span:
        """The tokens it edits."""
        return parse_positions(self.positions)

    @property
    def rank(self) -> int:
        """Number of directions at a site, the largest where they differ."""
        return max(site.rank for site in self.sites)

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks it acts at."""
        return tuple(site.layer for site in self.sites)

    @property
    def parameters(self) -> int:
        """Numbers that were learned; the factors are measured."""
        return sum(site.weight.numel() for site in self.sites)

    def target(
        self, direction: Direction, multiplier: float = 1.0, rule: Rule = "paper"
    ) -> Float[Tensor, "rank"]:
        """The coordinates to clamp to, or the amounts to add, of a vector with one site.

        Args:
            direction: `elicit` or `suppress`.
            multiplier: strength, without unit; 1 is the paper's unit factor under both rules.
            rule: `paper` scales the measured factor from the coordinate's zero, m * factor;
                `interpolate` moves along the line between the two measured means: for `elicit` 0 is
                the neutral mean and 1 the concept mean, for `suppress` the other way round.

        Raises:
            InputError: on an unknown direction or rule, `interpolate` for a vector that is added,
                or if there are several sites.
        """
        self._check_strength(direction, rule)
        return self._one_site.target(direction, multiplier, rule)

    def _check_strength(self, direction: Direction, rule: Rule) -> None:
        self.check_direction(direction)
        if self.operation == "add" and rule == "interpolate":
            raise InputError(
                "this vector is added and has no coordinates to move between; give rule paper"
            )

    def targets(
        self, direction: Direction, multiplier: float = 1.0, rule: Rule = "paper"
    ) -> list[Float[Tensor, "rank"]]:
        """The same at each site, of any vector."""
        self._check_strength(direction, rule)
        return [site.target(direction, multiplier, rule) for site in self.sites]

    def require_every_position(self, tool: str) -> None:
        """Make sure that a tool which edits every position can apply the vector.

        Raises:
            InputError: if it edits fewer.
        """
        if self.positions != "all":
            raise InputError(
                f"this vector edits the positions {self.positions} and {tool} edits every one; "
                "use concept_das.steer"
            )

    def site(self, model: PreTrainedModel) -> Site:
        """The place in this model where a vector with one site acts."""
        return find_site(model, self.layer)

    def tensors(self) -> dict[str, Tensor]:
        """The directions and the two factors; of several sites, under `0.weight` and so on."""
        prefixes = [""] if len(self.sites) == 1 else [f"{i}." for i in range(len(self.sites))]
        return {
            prefix + name: getattr(site, name)
            for prefix, site in zip(prefixes, self.sites, strict=True)
            for name in _TENSORS
        }

    def edit_description(self) -> dict[str, Any]:
        """Operation, norm, site and factors."""
        at_all = self.positions == "all"
        where = "at every position" if at_all else f"at the positions {self.positions}"
        formula = {"clamp": "h + W^T (a - W h)", "add": "h + W^T a"}
        described = [site.description() for site in self.sites]
        return {
            "operation": self.operation,
            "formula": f"{formula[self.operation]}, {where} from prefix_length on",
            **({} if at_all else {"positions": self.positions}),
            "rank": self.rank,
            **(described[0] if len(described) == 1 else {"sites": described}),
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "SteeringVector":
        """The inverse of `tensors` and `edit_description`."""
        several = description.get("sites")
        sites = [
            DirectionAtSite(
                **{name: tensors[f"{i}.{name}" if several else name] for name in _TENSORS},
                layer=described["site"]["layer"],
            )
            for i, described in enumerate(several or [description])
        ]
        return cls(
            sites=sites,
            operation=description["operation"],
            positions=description.get("positions", "all"),
            **common,
        )

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        model: PreTrainedModel | LoadedModel | None = None,
        **options: Any,
    ) -> "SteeringVector":
        """Read a saved vector, and check that it belongs to the model if one is given.

        Args:
            folder: or another name of a vector; see `load_vector`.
            options: further arguments of `load_vector`.

        Raises:
            InputError: if a file is missing, truncated or was edited, or holds something else than
                a vector.
            VectorMismatchError: if it belongs to another model.
        """
        vector = load_vector(folder, model, **options)
        if not isinstance(vector, cls):
            raise InputError(
                f"{folder} was trained by {vector.method} and holds no vector; read it with "
                "load_vector"
            )
        return vector
