"""Edits of hidden states that have tensors of their own for each direction and block.

LoReFT and A-PSR train them; both are applied, saved and made in the same way.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.methods.base import Fit, TrainedMethod
from concept_das.models.blocks import find_site
from concept_das.steering.artifact import Artifact, ModuleEdit
from concept_das.steering.positions import Span
from concept_das.words import DIRECTIONS, Direction

# The tensors of an edit, by direction and block (0-based).
ByBlock = Mapping[Direction, Mapping[int, tuple[Tensor, ...]]]
Edit = TypeVar("Edit", bound="BlockEdits")


@dataclass(frozen=True)
class BlockEdits(Artifact):
    """Edited hidden states after several blocks, for each direction.

    Attributes:
        parts: the tensors of each edit; the same blocks for each direction.
        formula, names: the edit as a formula, and the names of its tensors.
    """

    formula: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    parts: ByBlock

    @abstractmethod
    def span(self) -> Span:
        """The tokens that are edited."""

    @staticmethod
    @abstractmethod
    def edited(hidden: Tensor, parts: tuple[Tensor, ...], multiplier: float) -> Tensor:
        """The hidden states `[*batch, dim]` after the edit, in the same shape and dtype."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions it was trained in."""
        return tuple(self.parts)

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks edited, from the lowest."""
        return tuple(sorted(next(iter(self.parts.values()))))

    def edits(
        self, model: PreTrainedModel, direction: Direction, multiplier: float
    ) -> Sequence[ModuleEdit]:
        """One at each block."""
        return [
            ModuleEdit(
                find_site(model, layer).module_name,
                partial(self._change, parts=parts, multiplier=multiplier),
                span=self.span(),
            )
            for layer, parts in self.parts[direction].items()
        ]

    def _change(
        self, _inputs: Tensor, hidden: Tensor, parts: tuple[Tensor, ...], multiplier: float
    ) -> Tensor:
        return self.edited(hidden, tuple(part.to(hidden.device) for part in parts), multiplier)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of each edit, as `direction.layer.name`."""
        return {
            f"{direction}.{layer}.{name}": value
            for direction, by_block in self.parts.items()
            for layer, parts in by_block.items()
            for name, value in zip(self.names, parts, strict=True)
        }

    def edit_description(self) -> dict[str, Any]:
        """The edited blocks."""
        return {
            "operation": self.operations[0],
            "formula": self.formula,
            "sites": {"layers": list(self.layers), "component": "output of the decoder block"},
        }

    @classmethod
    def saved_parts(
        cls, tensors: Mapping[str, Tensor], description: Mapping[str, Any]
    ) -> dict[Direction, dict[int, tuple[Tensor, ...]]]:
        """The inverse of `tensors`, for `from_saved`."""
        return {
            direction: {
                layer: tuple(tensors[f"{direction}.{layer}.{name}"] for name in cls.names)
                for layer in description["sites"]["layers"]
            }
            for direction in description.get("directions", DIRECTIONS)
        }


class BlockEditMethod(TrainedMethod):
    """Trains an edit at each of several blocks, for each direction it steers in."""

    @abstractmethod
    def new_edit(self, width: int, rank: int) -> nn.Module:
        """A new pyvene intervention for one block and direction."""

    @abstractmethod
    def parts_of(self, intervention: nn.Module) -> tuple[Tensor, ...]:
        """The trained tensors of an intervention, in the order of the artifact's `names`."""

    def interventions(self, width: int, rank: int) -> Mapping[EditName, nn.Module]:
        """An edit for each direction, named after it."""
        return {direction: self.new_edit(width, rank) for direction in self.directions}

    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[EditedPass]:
        """The base prompt with the source's response, edited; the source is the teacher."""
        return [replace(run, edit=direction) for run in super().runs(rows, direction)]

    def trained_parts(self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]) -> ByBlock:
        """The trained tensors, for `artifact`."""
        sites = self.sites(task.model, task.layers, task.config)
        return {
            direction: {
                site.layer: tuple(
                    part.detach().cpu().clone() for part in self.parts_of(at_site[direction])
                )
                for site, at_site in zip(sites, trained, strict=True)
            }
            for direction in self.directions
        }
