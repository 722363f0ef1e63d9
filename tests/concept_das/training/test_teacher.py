"""A teacher of the user's own in place of the model itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from concept_das.errors import InputError
from concept_das.steering.vector import SteeringVector
from concept_das.training.options import EngineOptions
from concept_das.training.teacher import Teacher
from concept_das.training.vectors import TrainedVector, train_vector
from tests.concept_das.helpers import ROWS, tiny_chat, tiny_config, tiny_loaded
from tests.tiny import VOCABULARY, tiny_model

LOADED = tiny_loaded()
ENGINES = pytest.mark.parametrize("engine", ["auto", "pyvene"])


def train(teacher: Any = None, engine: Any = "auto", method: str = "cdas", **more: Any) -> Any:
    config = tiny_config(method, epochs=2, batch_size=2, learning_rate=0.1)
    layer = None if config.layers else 1
    options = EngineOptions(engine=engine, batch_tokens=200)
    trained = train_vector(
        LOADED,
        tiny_chat(),
        ROWS[:4],
        ROWS[4:],
        layer,
        config,
        engine=options,
        teacher=teacher,
        **more,
    )
    assert isinstance(trained, TrainedVector)
    return trained


def weight_of(trained: TrainedVector) -> Tensor:
    assert isinstance(trained.vector, SteeringVector)
    return trained.vector.weight


def itself(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    return LOADED.model(input_ids, attention_mask).logits


@pytest.mark.parametrize(
    ("engine", "teacher"), [("auto", LOADED), ("pyvene", Teacher(itself, "itself"))]
)
def test_the_model_as_its_own_teacher_changes_nothing(engine: Any, teacher: Any) -> None:
    expected, found = train(engine=engine), train(teacher, engine)
    torch.testing.assert_close(weight_of(found), weight_of(expected), atol=1e-5, rtol=1e-4)
    for step, wanted in zip(found.history, expected.history, strict=True):
        assert step == pytest.approx(wanted, abs=1e-5, rel=1e-4, nan_ok=True)
    assert "teacher" not in expected.vector.recipe
    assert found.vector.recipe["teacher"] == Teacher.of(teacher).name


def test_both_engines_learn_the_same_from_another_model() -> None:
    other = tiny_model(seed=1)
    fast, plain = (train(other, engine) for engine in ("auto", "pyvene"))
    torch.testing.assert_close(weight_of(fast), weight_of(plain), atol=1e-4, rtol=1e-3)
    own = train()
    assert not torch.allclose(weight_of(fast), weight_of(own), atol=1e-2)
    assert fast.history[0]["loss"] != pytest.approx(own.history[0]["loss"], rel=0.05)
    assert fast.vector.recipe["teacher"].startswith("2:")  # of its weights
    # The factors are the steered model's own.
    assert fast.vector.model == own.vector.model


def test_the_loss_is_to_the_teachers_distribution() -> None:
    """A teacher that says what the student says leaves nothing to learn; a certain one does."""

    def certain(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = torch.full((*input_ids.shape, len(VOCABULARY)), -1e4)
        logits[..., 5] = 0.0
        return logits

    far = train(Teacher(certain)).history[0]["loss"]
    near = train().history[0]["loss"]
    assert 0 < near < far
    # Two distributions that share nothing have a JSD of ln 2, in each direction.
    assert far == pytest.approx(2 * torch.log(torch.tensor(2.0)).item(), rel=0.2)


@ENGINES
def test_logits_that_cannot_be_used(engine: Any) -> None:
    def cut(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return LOADED.model(input_ids, attention_mask).logits[..., :-1]

    message = rf"\d+, {len(VOCABULARY) - 1}\) and not .*, {len(VOCABULARY)}\)"
    with pytest.raises(InputError, match=message):
        train(cut, engine)
    with pytest.raises(InputError, match="the teacher gives a str; it must give logits"):
        train(lambda *_: "logits", engine)
    with pytest.raises(InputError, match="a float is no teacher"):
        train(3.0, engine)


@pytest.mark.parametrize("method", ["das", "diffmean", "lora", "apsr"])
def test_methods_without_a_distribution(method: str) -> None:
    with pytest.raises(InputError, match=f"{method} matches no distribution and has no teacher"):
        train(LOADED, method=method)


def test_progress_belongs_to_the_teacher(tmp_path: Path) -> None:
    other = tiny_model(seed=1)

    def unnamed(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return other(input_ids, attention_mask).logits

    with pytest.raises(InputError, match=r"no name to tell it from another; give Teacher\("):
        train(unnamed, checkpoint=tmp_path)
    whole = train(other, checkpoint=tmp_path)
    assert torch.equal(weight_of(train(other, checkpoint=tmp_path)), weight_of(whole))
    for another in (None, Teacher(unnamed, "another")):
        with pytest.raises(InputError, match=r"of another run \(teacher differ\)"):
            train(another, checkpoint=tmp_path)
    stopped = train(other, checkpoint=tmp_path / "b", on_epoch=lambda _: True)
    assert len(stopped.history) < len(whole.history)
    again = train(other, checkpoint=tmp_path / "b")
    torch.testing.assert_close(weight_of(again), weight_of(whole))
