"""Trainings of tiny models that several test modules make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedModel

from concept_das.data.encoding import EncodedQuadruple
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.training.concept import TrainingResult, TrainingTask
from concept_das.training.loop import train_direction
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import NoTracker
from interventions import DistributedInterchangeIntervention
from tests.concept_das.helpers import (
    ROWS,
    encoded_rows,
)
from tests.tiny import WIDTH

BOTH_ENGINES = pytest.mark.parametrize("engine", ["auto", "pyvene"])
LAYER = 1


def intervention_of(rank: int = 1) -> DistributedInterchangeIntervention:
    return DistributedInterchangeIntervention(embed_dim=WIDTH, low_rank_dimension=rank)


def train(
    model: PreTrainedModel,
    config: TrainingConfig,
    rows: Sequence[EncodedQuadruple] = encoded_rows(),
    layer: int = LAYER,
    engine: Any = "auto",
    **options: Any,
) -> TrainingResult:
    return train_direction(
        model,
        find_site(model, layer),
        rows,
        config,
        engine=EngineOptions(engine),
        **options,
    )


class Stop(Exception):
    pass


class InterruptingTracker(NoTracker):
    """Raises when the n-th record is logged; the next run with it goes through."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.records: list[Mapping[str, float]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stop
        self.records.append(values)


def several_tasks(**options: Any) -> list[TrainingTask]:
    """Concepts of different sizes, so that one is finished while another still trains."""
    rows = encoded_rows()
    return [
        TrainingTask(rows[:2], rows[3:], name="small", **options),
        TrainingTask(rows, (), name="all", **options),
        TrainingTask(rows[1:4], rows[:1], name="some", **options),
    ]


def with_row(i: int, text: str) -> list[EncodedQuadruple]:
    rows = [replace(row, positive_output=text) if i == j else row for j, row in enumerate(ROWS)]
    return encoded_rows(rows=rows)
