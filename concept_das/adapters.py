"""Steering by LoRA: low-rank additions to linear layers, as peft trains them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from concept_das.data.quadruples import Direction
from concept_das.steering.artifact import Artifact, ModuleEdit, readable


@dataclass(frozen=True)
class LoraTensors:
    """The adapter of one linear layer: y + scale B A x.

    Attributes:
        down: A.
        up: B.
    """

    down: Float[Tensor, "rank inputs"]
    up: Float[Tensor, "outputs rank"]


@readable
@dataclass(frozen=True)
class Adapter(Artifact):
    """LoRA on some linear layers: y + m scale B A x, m the multiplier; elicits only.

    It acts on every token, the template prefix too, as peft's does.

    Attributes:
        lora: the parameters by the path of the linear layer.
        scale: alpha / rank.
        blocks: the decoder blocks these layers belong to, 0-based.
    """

    operations: ClassVar[tuple[str, ...]] = ("lora",)

    lora: Mapping[str, LoraTensors]
    scale: float
    blocks: tuple[int, ...]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Towards the concept."""
        return ("elicit",)

    @property
    def rank(self) -> int:
        """Rank of each addition."""
        return next(iter(self.lora.values())).down.shape[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder blocks, from the lowest."""
        return self.blocks

    def edits(
        self, model: PreTrainedModel, direction: Direction, multiplier: float
    ) -> Sequence[ModuleEdit]:
        """One at each linear layer."""
        return [
            ModuleEdit(
                path,
                partial(_add, tensors=tensors, scale=multiplier * self.scale),
                protects_prefix=False,
            )
            for path, tensors in self.lora.items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """A and B, by peft's names."""
        found = {}
        for path, tensors in self.lora.items():
            found[f"{path}.lora_A.weight"] = tensors.down
            found[f"{path}.lora_B.weight"] = tensors.up
        return found

    def edit_description(self) -> dict[str, Any]:
        """Where it acts."""
        return {
            "operation": "lora",
            "formula": "y + m scale B A x, at every token",
            "rank": self.rank,
            "scale": self.scale,
            "sites": {"layers": list(self.layers), "modules": list(self.lora)},
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "Adapter":
        """The inverse of `tensors` and `edit_description`."""
        sites = description["sites"]
        lora = {
            path: LoraTensors(tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"])
            for path in sites["modules"]
        }
        return cls(lora=lora, scale=description["scale"], blocks=tuple(sites["layers"]), **common)


def _add(inputs: Tensor, outputs: Tensor, tensors: LoraTensors, scale: float) -> Tensor:
    down, up = tensors.down.to(inputs.device), tensors.up.to(inputs.device)
    # As peft: the addition is computed in float32 and rounded once.
    added = linear(linear(inputs.to(down.dtype), down), up) * scale
    return (outputs + added).to(outputs.dtype)
