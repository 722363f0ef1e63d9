"""A-PSR: imitate, at every block and token, the hidden states that the prompt would have caused.

Prompt Steering Replacement (arXiv 2605.03907): each block's output moves along a vector z by
relu(g h + b), which each token's own hidden state h decides; z, g and b are trained until the
steered hidden states are those under the other prompt, in squared error summed over the blocks. It
acts at the tokens of the response, as the authors' AxBench runs do, which also leave out the
regulariser of the gate. The paper elicits only; suppression is trained in the same way here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditName
from concept_das.errors import InputError
from concept_das.methods.base import Fit
from concept_das.methods.block_edits import BlockEditMethod, BlockEdits
from concept_das.methods.settings import TrainingConfig
from concept_das.methods.token_objective import TokenObjective
from concept_das.models.blocks import Site, find_site
from concept_das.steering.artifact import readable
from concept_das.steering.positions import Span, parse_positions
from interventions.gated import GatedAdditionIntervention, gated_add


@readable
@dataclass(frozen=True)
class GatedEdit(BlockEdits):
    """h + m relu(g h + b) z at every block, for each direction; m is the multiplier.

    Attributes:
        parts: z `[dim]`, g `[dim]` and b `[]` of each edit.
        positions: the tokens it edits, see `concept_das.steering.positions`.
    """

    operations: ClassVar[tuple[str, ...]] = ("gated_add",)
    formula: ClassVar[str] = "h + m relu(g h + b) z"
    names: ClassVar[tuple[str, ...]] = ("vector", "gate", "bias")

    positions: str = "generated"

    @property
    def rank(self) -> int:
        """1: one vector at each block."""
        return 1

    def span(self) -> Span:
        """The tokens of `positions`."""
        return parse_positions(self.positions)

    @staticmethod
    def edited(hidden: Tensor, parts: tuple[Tensor, ...], multiplier: float) -> Tensor:
        """See `interventions.gated.gated_add`."""
        vector, gate, bias = parts
        return gated_add(hidden, vector, gate, bias, multiplier)

    def edit_description(self) -> dict[str, Any]:
        """The edited blocks and tokens."""
        return {**super().edit_description(), "positions": self.positions}

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "GatedEdit":
        """The inverse of `tensors` and `edit_description`."""
        parts = cls.saved_parts(tensors, description)
        return cls(parts=parts, positions=description["positions"], **common)


class APSR(BlockEditMethod):
    """Squared error between steered hidden states and those under the other prompt.

    Use it to elicit with little change of unrelated text.
    """

    name = "apsr"
    summary = "baseline: a gated vector at every block, trained on the prompt's hidden states"
    steering = "add multiplier x gate x the vector of each block, at every new token"
    positions = "generated"

    objective = TokenObjective.of_states(
        lambda student, teacher: (student.float() - teacher.float()).square().sum(dim=(0, 2))
    )

    def sites(
        self, model: PreTrainedModel, layers: Sequence[int], config: TrainingConfig
    ) -> list[Site]:
        """Every block.

        Raises:
            InputError: if several layers are given, or more than one direction for each.
        """
        if config.layers or config.rank > 1:
            raise InputError(
                f"{self.name} has one vector at every block; leave layers and rank out"
            )
        return [find_site(model, i) for i in range(find_site(model, 0).n_layers)]

    def new_edit(self, width: int, rank: int) -> nn.Module:
        """A gated addition."""
        return GatedAdditionIntervention(width)

    def parts_of(self, intervention: nn.Module) -> tuple[Tensor, ...]:
        """z, g and b."""
        assert isinstance(intervention, GatedAdditionIntervention)
        return intervention.vector, intervention.gate, intervention.bias

    def artifact(self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]) -> GatedEdit:
        """The gated vectors of each direction and block."""
        return GatedEdit(
            parts=self.trained_parts(task, trained),
            positions=task.config.positions or self.positions,
            **task.common,
        )
