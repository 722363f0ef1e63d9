"""A-PSR: imitate, at every block and token, the hidden states that the prompt would have caused.

Prompt Steering Replacement (arXiv 2605.03907): each block's output moves along a vector z by
relu(g h + b), which each token's own hidden state h decides; z, g and b are trained until the
steered hidden states are those under the other prompt, in squared error summed over the blocks. It
acts at the tokens of the response, as the authors' AxBench runs do, which also leave out the
regulariser of the gate. The paper elicits only; suppression is trained in the same way here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.errors import InputError
from concept_das.methods.base import Fit, Term, TokenObjective, TrainedMethod, weighted_terms
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import Site, find_site
from concept_das.steering.artifact import Artifact, ModuleEdit, readable
from concept_das.steering.positions import parse_positions
from concept_das.words import DIRECTIONS, Direction
from interventions.gated import GatedAdditionIntervention, gated_add
from objectives.names import Reduction

_PARTS = ("vector", "gate", "bias")


@readable
@dataclass(frozen=True)
class GatedEdit(Artifact):
    """h + m relu(g h + b) z at several blocks, for each direction; m is the multiplier.

    Attributes:
        gated: z `[dim]`, g `[dim]` and b `[]` by direction and block (0-based); the same blocks for
            each direction.
        positions: the tokens it edits, see `concept_das.steering.positions`.
    """

    operations: ClassVar[tuple[str, ...]] = ("gated_add",)

    gated: Mapping[Direction, Mapping[int, tuple[Tensor, Tensor, Tensor]]]
    positions: str = "generated"

    @property
    def rank(self) -> int:
        """1: one vector at each block."""
        return 1

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks edited, from the lowest."""
        return tuple(sorted(self.gated["elicit"]))

    def edits(
        self, model: PreTrainedModel, direction: Direction, multiplier: float
    ) -> Sequence[ModuleEdit]:
        """One at each block."""
        return [
            ModuleEdit(
                find_site(model, layer).module_name,
                partial(_move, parts=parts, multiplier=multiplier),
                span=parse_positions(self.positions),
            )
            for layer, parts in self.gated[direction].items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """z, g and b, as `direction.layer.part`."""
        return {
            f"{direction}.{layer}.{name}": value
            for direction, by_layer in self.gated.items()
            for layer, parts in by_layer.items()
            for name, value in zip(_PARTS, parts, strict=True)
        }

    def edit_description(self) -> dict[str, Any]:
        """The edited blocks and tokens."""
        return {
            "operation": "gated_add",
            "formula": "h + m relu(g h + b) z",
            "positions": self.positions,
            "sites": {"layers": list(self.layers), "component": "output of the decoder block"},
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "GatedEdit":
        """The inverse of `tensors` and `edit_description`."""

        def parts(direction: Direction, layer: int) -> tuple[Tensor, Tensor, Tensor]:
            vector, gate, bias = (tensors[f"{direction}.{layer}.{name}"] for name in _PARTS)
            return vector, gate, bias

        layers = description["sites"]["layers"]
        gated = {d: {layer: parts(d, layer) for layer in layers} for d in DIRECTIONS}
        return cls(gated=gated, positions=description["positions"], **common)


class APSR(TrainedMethod):
    """Squared error between steered hidden states and those under the other prompt."""

    name = "apsr"
    summary = "baseline: a gated vector at every block, trained on the prompt's hidden states"
    steering = "add multiplier x gate x the vector of each block, at every new token"
    positions = "generated"

    def sites(self, model: PreTrainedModel, layer: int, config: TrainingConfig) -> list[Site]:
        """Every block.

        Raises:
            InputError: if layers are given, or more than one direction for each.
        """
        if config.layers or config.rank > 1:
            raise InputError(
                f"{self.name} has one vector at every block; leave layers and rank out"
            )
        return [find_site(model, i) for i in range(find_site(model, 0).n_layers)]

    def interventions(self, width: int, rank: int) -> Mapping[EditName, nn.Module]:
        """A gated addition for each direction of steering."""
        return {direction: GatedAdditionIntervention(width) for direction in DIRECTIONS}

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """Each direction's mean over the batch; the source is the teacher."""
        found = []
        for direction in DIRECTIONS:
            runs: list[EditedPass] = [getattr(row, direction) for row in rows]
            runs = [replace(run, edit=direction) for run in runs]
            found += weighted_terms(runs, direction, reduction)
        return found

    def artifact(self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]) -> GatedEdit:
        """The gated vectors of each direction and block."""
        return GatedEdit(
            gated={
                direction: {
                    layer: _plain(at_site[direction]) for layer, at_site in enumerate(trained)
                }
                for direction in DIRECTIONS
            },
            positions=task.config.positions or self.positions,
            **task.common,
        )

    objective = TokenObjective.of_states(
        lambda student, teacher: (student.float() - teacher.float()).square().sum(dim=(0, 2))
    )


def _plain(intervention: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    assert isinstance(intervention, GatedAdditionIntervention)
    vector, gate, bias = (getattr(intervention, name).detach().cpu().clone() for name in _PARTS)
    return vector, gate, bias


def _move(
    _inputs: Tensor,
    hidden: Float[Tensor, "*batch dim"],
    parts: tuple[Tensor, Tensor, Tensor],
    multiplier: float,
) -> Float[Tensor, "*batch dim"]:
    vector, gate, bias = (part.to(hidden.device) for part in parts)
    return gated_add(hidden, vector, gate, bias, multiplier)
