"""The epoch that is kept, and the distance that is reported as drift."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from concept_das.methods.settings import TrainingConfig
from concept_das.training import loop as training
from concept_das.training.concept import subspace_distance
from tests.concept_das.helpers import (
    encoded_rows,
)
from tests.concept_das.training.runs import train
from tests.tiny import tiny_model


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[Tensor]:
    """Held-out losses from a list; returns the weights they were asked for."""
    weights: list[Tensor] = []

    def measured(losses: Any, *_: Any) -> dict[str, float]:
        weights.append(losses.interventions[0][0]["interchange"].weight.detach().clone())
        return {"elicit": values[len(weights) - 1], "suppress": 0.0}

    monkeypatch.setattr(training, "heldout_loss", measured)
    return weights


@pytest.mark.parametrize(
    ("patience", "values", "epochs", "best"),
    [
        (2, [3.0, 2.0, 2.5, 2.1, 1.0], 4, 2),
        (1, [3.0, 3.0, 1.0], 2, 1),
        (3, [5.0, 6.0, 4.0, 5.0, 5.0], 5, 3),
        (2, [5.0, 4.0, 3.0, 2.0, 1.0], 5, 5),
        (2, [float("nan"), 4.0, 5.0, 6.0, 1.0], 4, 2),
    ],
)
def test_early_stopping_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch, patience: int, values: list[float], epochs: int, best: int
) -> None:
    weights = scripted(monkeypatch, values)
    config = TrainingConfig(epochs=5, batch_size=3, patience=patience)
    result = train(tiny_model(), config, heldout=encoded_rows(1))
    assert len(weights) == epochs
    assert result.best_epoch == best
    assert torch.equal(result.weight, weights[best - 1])


def test_without_patience_the_last_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = scripted(monkeypatch, [1.0, 2.0, 3.0])
    config = TrainingConfig(epochs=3, batch_size=3)
    result = train(tiny_model(), config, heldout=encoded_rows(1))
    assert result.best_epoch == 3
    assert torch.equal(result.weight, weights[-1])


def test_an_early_stopped_run_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = scripted(monkeypatch, [1.0, 2.0, 0.5])
    config = TrainingConfig(epochs=3, batch_size=3, patience=1)
    arguments = {"heldout": encoded_rows(1), "checkpoint": tmp_path}
    first = train(tiny_model(), config, **arguments)
    again = train(tiny_model(), config, **arguments)
    assert len(weights) == 2
    assert again.best_epoch == first.best_epoch == 1
    assert torch.equal(again.weight, weights[0])


def test_distance_of_subspaces() -> None:
    axes = torch.eye(4)
    assert subspace_distance(axes[:1], -axes[:1]) == 0.0
    assert subspace_distance(axes[:1], axes[1:2]) == 1.0
    turned = torch.tensor([[0.6, 0.8, 0.0, 0.0]])
    assert subspace_distance(axes[:1], turned) == pytest.approx(0.8)
    assert subspace_distance(axes[:2], axes[[1, 0]]) == 0.0
    assert subspace_distance(axes[:2], axes[[1, 2]]) == pytest.approx(0.5**0.5)
