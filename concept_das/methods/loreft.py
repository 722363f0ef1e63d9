"""LoReFT, trained on text, and CDAS-LoReFT, trained to match distributions.

The intervention is pyreft's own; `concept_das.loreft` says what had to be worked around.
Hyper-parameters are AxBench's for Gemma-2-2B: rank 4 at blocks 5, 10, 15 and 20, the first and last
5 tokens of the prompt, learning rate 9e-4, 24 epochs, batches of 36 (18 accumulated twice).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from pyvene.models.interventions import SourcelessIntervention, TrainableIntervention
from torch import Tensor, nn
from transformers import PreTrainedModel

import objectives
from concept_das.data.chat_format import Prompt
from concept_das.data.encoding import EditName, EncodedQuadruple, Run
from concept_das.data.quadruples import Direction
from concept_das.errors import InputError
from concept_das.learned_edits import LearnedEdit
from concept_das.loreft import LoreftTensors, build_loreft, loreft_edit, loreft_tensors
from concept_das.methods.base import (
    AXBENCH_AT_SEVERAL_BLOCKS,
    LIKELIHOOD,
    Job,
    SiteMethod,
    Term,
    blocks_of,
    matching,
    weighted_terms,
)
from concept_das.models.blocks import Site, find_site
from concept_das.recipe import TrainingConfig
from interventions.positions import edit_where
from objectives import projected
from objectives.reduction import Reduction

# The first and the last tokens of the prompt that are edited (AxBench's f5+l5).
ENDS = (5, 5)


class MaskedLoreft(SourcelessIntervention, TrainableIntervention):
    """pyreft's LoReFT at chosen positions, in the model's own precision.

    pyreft's forward takes neither a mask nor hidden states of another precision; the parameters
    that are trained here are its own.

    Args:
        embed_dim: width of the hidden states.
        low_rank_dimension: the rank.
    """

    def __init__(self, embed_dim: int, low_rank_dimension: int) -> None:
        super().__init__(embed_dim=embed_dim, keep_last_dim=True)
        self.reft = build_loreft(embed_dim, low_rank_dimension)

    def forward(
        self,
        base: Float[Tensor, "batch positions dim"],
        source: None = None,
        subspaces: None = None,
        position_mask: Bool[Tensor, "prompts width"] | None = None,
        **_: Any,
    ) -> Float[Tensor, "batch positions dim"]:
        """Edit the base at the masked positions.

        Args:
            base: hidden states to change.
            source, subspaces: unused; pyvene passes them.
            position_mask: true at the prompt positions to change, see
                `interventions.positions.edit_where`.

        Returns:
            The edited hidden states, same shape and dtype as `base`.
        """
        return edit_where(position_mask, loreft_edit(base, *loreft_tensors(self.reft)), base)


class LoreftMethod(SiteMethod):
    """LoReFT at several blocks, for each direction that is trained."""

    steering = "the learned edit of the prompt's first and last 5 tokens, times the multiplier"
    defaults = AXBENCH_AT_SEVERAL_BLOCKS

    def sites(self, model: PreTrainedModel, job_layer: int, config: TrainingConfig) -> list[Site]:
        """The recipe's layers.

        Raises:
            InputError: if there are none, the model is not that deep, or there is weight decay,
                which undoes pyreft's parametrisation of R.
        """
        blocks = blocks_of(model, config)
        if config.weight_decay:
            raise InputError(
                f"weight_decay is {config.weight_decay}, under which pyreft's rotation falls to "
                f"zero; train {self.name} with 0"
            )
        return [find_site(model, layer) for layer in blocks]

    def interventions(self, width: int, rank: int) -> Mapping[EditName, nn.Module]:
        """A LoReFT for each direction."""
        return {_edit_of(direction): MaskedLoreft(width, rank) for direction in self.directions}

    def edited(self, prompt: Prompt) -> Sequence[int]:
        """The first and the last tokens of the prompt, the template prefix not counted."""
        first, last = ENDS
        start, stop = prompt.prefix_length, len(prompt.ids)
        return [i for i in range(start, stop) if i < start + first or i >= stop - last]

    @abstractmethod
    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[Run]:
        """The edited runs of a direction."""

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """Each direction's mean over the batch."""
        return [
            term
            for direction in self.directions
            for term in weighted_terms(self.runs(rows, direction), direction, reduction)
        ]

    def artifact(self, job: Job, trained: Sequence[Mapping[EditName, nn.Module]]) -> LearnedEdit:
        """The edits of each direction and block."""
        layers = blocks_of(job.model, job.config)
        return LearnedEdit(
            loreft={
                direction: {
                    layer: _plain(at_site[_edit_of(direction)])
                    for layer, at_site in zip(layers, trained, strict=True)
                }
                for direction in self.directions
            },
            ends=ENDS,
            **job.common,
        )


class LoReFT(LoreftMethod):
    """Maximum likelihood of the concept's response after the neutral prompt (ReFT paper, AxBench).

    Trained to elicit only: neither paper has a suppressing LoReFT.
    """

    name = "loreft"
    summary = "baseline: likelihood of the concept's response with pyreft's LoReFT at 4 blocks"
    directions = ("elicit",)
    columns = ("positive_output",)
    objective = LIKELIHOOD

    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[Run]:
        """x followed by y^c."""
        return [Run(row.elicit.base, None, _edit_of(direction)) for row in rows]


class CDASLoReFT(LoreftMethod):
    """The JSD objective of CDAS on LoReFT: an edit that elicits and another that suppresses.

    The release trains the eliciting one only, on Phi-3.5 with learning rate 0.02. There is no
    interchange: nothing is swapped, and there is no factor.
    """

    name = "cdas_loreft"
    summary = "ablation: CDAS's Jensen-Shannon divergence on LoReFT, one edit each way"
    objective = matching(objectives.jensen_shannon, projected.jensen_shannon_with_gradient)

    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[Run]:
        """The base prompt followed by the source's response; the source is the teacher."""
        runs: list[Run] = [getattr(row, direction) for row in rows]
        return [replace(run, edit=_edit_of(direction)) for run in runs]


def _edit_of(direction: Direction) -> EditName:
    return f"loreft_{direction}"


def _plain(intervention: nn.Module) -> LoreftTensors:
    assert isinstance(intervention, MaskedLoreft)
    with torch.no_grad():
        return LoreftTensors(
            *(tensor.detach().cpu().clone() for tensor in loreft_tensors(intervention.reft))
        )
