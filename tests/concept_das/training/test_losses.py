"""A batch's loss by both engines, against plain torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.encoding import EncodedQuadruple
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.training.batch_loss import Losses
from concept_das.training.loop import build_losses, heldout_loss
from concept_das.training.options import EngineOptions
from concept_das.words import DIRECTIONS
from interventions import DistributedInterchangeIntervention
from tests.concept_das.helpers import (
    EVERY_ARCHITECTURE,
    encoded_rows,
    loss_of,
    plain_interchange,
    plain_loss,
    runs_of,
)
from tests.concept_das.training.runs import BOTH_ENGINES, LAYER, intervention_of
from tests.tiny import WIDTH, tiny_model


def losses_of(
    model: PreTrainedModel,
    intervention: DistributedInterchangeIntervention,
    rows: Sequence[EncodedQuadruple],
    engine: Any = "pyvene",
    **options: Any,
) -> Losses:
    model.requires_grad_(False)
    config = TrainingConfig(**options)
    site = find_site(model, LAYER)
    chosen = EngineOptions(engine)
    runs = runs_of(rows, config.method)
    edits = {"interchange": intervention}
    return build_losses(model, [site], [[edits]], config.method, runs, chosen)


@EVERY_ARCHITECTURE
@BOTH_ENGINES
@pytest.mark.parametrize("rank", [1, 2])
def test_the_loss_is_the_papers(architecture: str, engine: Any, rank: int) -> None:
    """Row by row, unpadded, in plain torch: so it depends on no batch and no engine."""
    model, rows, intervention = tiny_model(architecture), encoded_rows(), intervention_of(rank)
    losses = losses_of(model, intervention, rows, engine)
    for direction in DIRECTIONS:
        expected = plain_loss(model, LAYER, intervention.weight.detach(), rows, direction)
        assert float(expected) > 0.01
        found = loss_of(losses, rows, direction)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def other_loss(method: str, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Per response token, in float64, by the definitions."""
    p, q = student.double().softmax(-1), teacher.double().softmax(-1)
    if method == "das":
        return -p.gather(-1, labels.unsqueeze(-1)).squeeze(-1).log()
    if method == "kl_teacher_student":
        return (q * (q / p).log()).sum(-1)
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("method", ["das", "kl_teacher_student", "kl_student_teacher"])
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@BOTH_ENGINES
def test_the_losses_of_the_other_methods(method: str, reduction: str, engine: Any) -> None:
    model, rows, intervention = tiny_model(), encoded_rows(), intervention_of()
    losses = losses_of(model, intervention, rows, engine, method=method, reduction=reduction)
    for direction in DIRECTIONS:
        values = [
            other_loss(
                method,
                *plain_interchange(model, LAYER, intervention.weight.detach(), pair),
                torch.tensor(pair.base.response),
            )
            for pair in (getattr(row, direction) for row in rows)
        ]
        mean = torch.stack([value.mean() for value in values]).mean()
        expected = mean if reduction == "sequence" else torch.cat(values).mean()
        found = loss_of(losses, rows, direction, reduction, method)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def in_double(architecture: str) -> PreTrainedModel:
    """A tiny model in float64 with attention written out: GPT-2's other one fails in 4.45."""
    model = tiny_model(architecture)
    plain = type(model)._from_config(model.config, attn_implementation="eager")
    plain.load_state_dict(model.state_dict())
    return plain.double().eval()


# Llama's norms compute in float32 whatever the model's precision, so differences are coarse there.
@pytest.mark.parametrize(
    ("architecture", "step", "tolerance"), [("gpt2", 1e-5, 1e-7), ("llama", 1e-3, 1e-3)]
)
@BOTH_ENGINES
def test_the_gradient_of_the_objective(
    architecture: str, step: float, tolerance: float, engine: Any
) -> None:
    model, rows = in_double(architecture), encoded_rows(2)
    intervention = intervention_of().double()
    losses = losses_of(model, intervention, rows, engine)
    for direction in DIRECTIONS:
        loss_of(losses, rows, direction).backward()
    gradient = intervention.weight.grad
    assert gradient is not None
    weight = intervention.weight.detach()

    def objective(weight: Tensor) -> Tensor:
        with torch.no_grad():
            return sum(plain_loss(model, LAYER, weight, rows, d) for d in DIRECTIONS)

    for axis in torch.eye(WIDTH, dtype=torch.float64):
        move = step * axis.unsqueeze(0)
        numeric = (objective(weight + move) - objective(weight - move)) / (2 * step)
        assert float((gradient * axis).sum()) == pytest.approx(float(numeric), abs=tolerance)
    assert float(gradient.abs().max()) > 10 * tolerance


@BOTH_ENGINES
def test_a_loss_does_not_depend_on_the_company(engine: Any) -> None:
    model, rows = tiny_model("qwen2"), encoded_rows()
    losses = losses_of(model, intervention_of(), rows, engine)
    for direction in DIRECTIONS:
        together = loss_of(losses, rows, direction)
        alone = torch.stack([loss_of(losses, [row], direction) for row in rows])
        torch.testing.assert_close(alone.mean(), together, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(loss_of(losses, rows[::-1], direction), together)


@BOTH_ENGINES
def test_the_heldout_loss_weighs_rows_and_not_batches(engine: Any) -> None:
    model, rows, intervention = tiny_model(), encoded_rows(), intervention_of()
    losses = losses_of(model, intervention, rows, engine)
    budget = 3 * max(len(row.suppress.base.ids) for row in rows)  # several batches
    terms = find_method("cdas").terms(rows, "sequence", np.random.default_rng(0))
    found = heldout_loss(losses, terms, budget)
    expected = {
        d: float(plain_loss(model, LAYER, intervention.weight.detach(), rows, d))
        for d in DIRECTIONS
    }
    assert found == pytest.approx(expected, rel=1e-4)
