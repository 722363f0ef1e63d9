"""Compute teacher-forced logits of the steered model at many strengths of one vector.

A vector changes nothing below its lowest block, so those blocks run once for all strengths. Tests
compare the result with the whole model under `steer`.
"""

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.models.blocks import find_site
from concept_das.models.logits import collate_for, response_logits
from concept_das.models.replay import Replay, ReplayError
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import SiteEdit, Steering, steer
from concept_das.steering.vector import SteeringVector
from interventions.positions import edit_where

log = logging.getLogger(__name__)


@runtime_checkable
class SteeredLogits(Protocol):
    """Computes the logits of turns, steered or not."""

    def of(
        self, turns: Sequence[Turn], steering: Steering | None = None
    ) -> list[Float[Tensor, "_ vocab"]]:
        """Logits that predict each turn's response, one tensor per turn.

        Args:
            steering: None for the untouched model.
        """


def steered_logits(
    model: PreTrainedModel, artifact: Artifact, turns: Sequence[Turn]
) -> SteeredLogits:
    """Choose the fastest exact way to compute the logits under an artifact.

    Args:
        turns: all turns that will be asked for.
    """
    prefixes = {turn.prompt.ids[: turn.prompt.prefix_length] for turn in turns}
    if isinstance(artifact, SteeringVector) and {len(p) for p in prefixes} == {
        artifact.prefix_length
    }:
        try:
            return ReplayedLogits(model, artifact, turns)
        except ReplayError as reason:
            log.debug("evaluating with the whole model, which cannot be replayed (%s)", reason)
    return WholeModelLogits(model)


class WholeModelLogits:
    """Runs the whole model under `steer`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def of(
        self, turns: Sequence[Turn], steering: Steering | None = None
    ) -> list[Float[Tensor, "_ vocab"]]:
        """See `SteeredLogits`."""
        if steering is None:
            return self._logits(turns)
        if steering.vector.is_text:
            return self._logits([Turn(steering.prompt(t.prompt), t.response) for t in turns])
        with steer(self.model, steering, prompt_lengths=[len(t.prompt.ids) for t in turns]):
            return self._logits(turns)

    def _logits(self, turns: Sequence[Turn]) -> list[Float[Tensor, "_ vocab"]]:
        return response_logits(self.model, collate_for(self.model, turns))


class ReplayedLogits:
    """Runs only the blocks above the vector's lowest site.

    Raises:
        ReplayError: at construction, if the model cannot be replayed exactly.
    """

    def __init__(
        self, model: PreTrainedModel, vector: SteeringVector, probe: Sequence[Turn]
    ) -> None:
        sites = {find_site(model, layer) for layer in vector.layers}
        self.replay = Replay(model, sorted(sites, key=lambda site: site.layer), probe)
        self.span = vector.span
        self.last: tuple[list[Turn], list[Tensor]] = ([], [])

    def of(
        self, turns: Sequence[Turn], steering: Steering | None = None
    ) -> list[Float[Tensor, "_ vocab"]]:
        """See `SteeredLogits`. The states of the latest turns are kept for the next strength."""
        if self.last[0] != list(turns):
            self.last = (list(turns), list(self.replay.states(turns)))
        edit = None
        if steering is not None:
            by_site = steering.edits(self.replay.model)
            steered = [SiteEdit([by_site[site]], site) for site in self.replay.sites]
            mask = self.span.mask(turns)

            def edit(index: int, hidden: Tensor) -> Tensor:
                return edit_where(mask, steered[index].apply(hidden), hidden)

        hidden = self.replay.responses(turns, self.last[1], edit)
        projection = self.replay.projection
        device = projection.weight.device
        return list(projection.logits(torch.cat(hidden).to(device)).split([len(h) for h in hidden]))
