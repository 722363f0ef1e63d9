"""Steering by LoReFT: an edit of hidden states that is learned, at several blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.quadruples import Direction
from concept_das.loreft import LoreftTensors, loreft_edit
from concept_das.models.blocks import find_site
from concept_das.steering.artifact import Artifact, ModuleEdit, readable

_PARTS = ("rotation", "weight", "bias")


@readable
@dataclass(frozen=True)
class LearnedEdit(Artifact):
    """A LoReFT for each direction and block: h + m R^T (W h + b - R h), m the multiplier.

    Attributes:
        loreft: the parameters by direction and block (0-based); the same blocks for each direction.
        ends: how many tokens at the start of the prompt, the template prefix not counted, and how
            many at its end are edited.
    """

    operations: ClassVar[tuple[str, ...]] = ("loreft",)

    loreft: Mapping[Direction, Mapping[int, LoreftTensors]]
    ends: tuple[int, int]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions it was trained in."""
        return tuple(self.loreft)

    @property
    def rank(self) -> int:
        """Rank of each edit."""
        return next(iter(next(iter(self.loreft.values())).values())).rotation.shape[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks edited, from the lowest."""
        return tuple(sorted(next(iter(self.loreft.values()))))

    def edits(
        self, model: PreTrainedModel, direction: Direction, multiplier: float
    ) -> Sequence[ModuleEdit]:
        """One at each block."""
        return [
            ModuleEdit(
                find_site(model, layer).module_name,
                partial(_move, tensors=tensors, multiplier=multiplier),
                ends=self.ends,
            )
            for layer, tensors in self.loreft[direction].items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """R, W and b, as `direction.layer.part`."""
        return {
            f"{direction}.{layer}.{part}": value
            for direction, by_layer in self.loreft.items()
            for layer, tensors in by_layer.items()
            for part, value in zip(_PARTS, tensors, strict=True)
        }

    def edit_description(self) -> dict[str, Any]:
        """Where it acts."""
        return {
            "operation": "loreft",
            "formula": "h + m R^T (W h + b - R h), at the prompt's first and last tokens",
            "rank": self.rank,
            "directions": list(self.directions),
            "sites": {"layers": list(self.layers), "component": "output of the decoder block"},
            "tokens": {"first": self.ends[0], "last": self.ends[1]},
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "LearnedEdit":
        """The inverse of `tensors` and `edit_description`."""
        loreft = {
            direction: {
                layer: LoreftTensors(*(tensors[f"{direction}.{layer}.{part}"] for part in _PARTS))
                for layer in description["sites"]["layers"]
            }
            for direction in description["directions"]
        }
        ends = description["tokens"]
        return cls(loreft=loreft, ends=(ends["first"], ends["last"]), **common)


def _move(_inputs: Tensor, hidden: Tensor, tensors: LoreftTensors, multiplier: float) -> Tensor:
    here = (tensor.to(hidden.device) for tensor in tensors)
    wide = hidden.float()
    return (wide + multiplier * (loreft_edit(wide, *here) - wide)).to(hidden.dtype)
