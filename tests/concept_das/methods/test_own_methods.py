"""A method that a user brings: registered by a call, or by an installed package's entry point."""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from concept_das import methods
from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate
from concept_das.methods import Fit, FittedMethod, matching
from concept_das.methods.registry import METHODS, find_method, register
from concept_das.models.blocks import find_site
from concept_das.steering.factors import measure_latents
from concept_das.steering.vector import SteeringVector
from concept_das.training.loop import train_direction
from concept_das.training.options import EngineOptions
from concept_das.training.vectors import train_vector
from objectives import jensen_shannon
from objectives.projected import jensen_shannon_with_gradient
from tests.concept_das.helpers import (
    PLANTED_ROWS,
    ROWS,
    encoded_rows,
    planted_model,
    tiny_chat,
    tiny_loaded,
)


@pytest.fixture(autouse=True)
def only_the_projects_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


class RandomDirection(FittedMethod):
    """A direction that knows nothing: the floor of every table."""

    name = "random"
    summary = "floor: a random direction"
    steering = "clamp to multiplier x measured factor"
    draws = True

    def fit(self, task: Fit) -> SteeringVector:
        width = task.model.config.get_text_config().hidden_size
        generator = torch.Generator().manual_seed(task.config.seed)
        weight = torch.nn.functional.normalize(torch.randn(1, width, generator=generator))
        site = find_site(task.model, task.layer)
        latents = measure_latents(task.model, site, weight, task.encoded)
        return SteeringVector(
            weight,
            latents.negative_factor,
            latents.positive_factor,
            layer=site.layer,
            **task.common,
        )


def test_a_registered_method_trains_saves_and_is_measured(tmp_path: Any) -> None:
    register(RandomDirection())
    loaded, chat = tiny_loaded(), tiny_chat()
    config = find_method("random").config(seed=7)
    vector = train_vector(loaded, chat, ROWS, [], 1, config).vector
    vector.save(tmp_path)
    assert SteeringVector.load(tmp_path, loaded).method == "random"
    table = evaluate(loaded.model, chat, vector, encoded_rows(2), multipliers=(1.0,)).table
    assert table["gain_elicit"].notna().all()


def documented_method() -> str:
    """The method of one's own in docs/methods.md."""
    text = (Path(__file__).parents[3] / "docs/methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(# my_method\.py\n.*?)```", text, flags=re.DOTALL)
    return block


@pytest.mark.parametrize("engine", ["auto", "pyvene"])
def test_the_documented_method_matches_distributions(engine: Any) -> None:
    block = documented_method()
    assert len(block.splitlines()) <= 20
    exec(compile(block, "my_method.py", "exec"), {"__name__": "my_method"})
    model, rows = planted_model(), encoded_rows(rows=PLANTED_ROWS)
    config = find_method("hellinger").config(epochs=6, batch_size=4, learning_rate=0.1)
    site = find_site(model, 0)
    result = train_direction(model, site, rows, config, engine=EngineOptions(engine))
    losses = [record["loss"] for record in result.history]
    assert losses[-1] < 0.7 * losses[0]


def test_its_gradient_by_autograd_is_that_of_the_closed_form() -> None:
    p, q = torch.randn(2, 5, 11).log_softmax(-1)
    scratch = torch.empty_like(p), torch.empty_like(p)
    labels = torch.zeros(5, dtype=torch.long)
    values, gradient = matching(jensen_shannon).with_gradient(p.clone(), q.clone(), labels, scratch)
    expected = jensen_shannon_with_gradient(p.clone(), q.clone(), labels, scratch)
    torch.testing.assert_close((values, gradient), expected)


def test_a_name_is_taken_once() -> None:
    register(RandomDirection())
    register(RandomDirection())  # the same class again, as a module that is imported twice does

    class Other(RandomDirection):
        name = "cdas"

    with pytest.raises(InputError, match="there is a method 'cdas' already"):
        register(Other())


class Entry:
    """An entry point as `importlib.metadata.entry_points` finds it in an installed package."""

    value = "their_package:Method"

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.found = name, found

    def load(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_an_installed_packages_method_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(group: str) -> list[Entry]:
        assert group == methods.ENTRY_POINTS
        return [Entry("random", RandomDirection)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entries)
    assert isinstance(find_method("random"), RandomDirection)
    assert "random" in methods.all_methods()


def test_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("random", ImportError("no module named flux"))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    with pytest.raises(InputError, match="'random' cannot be loaded from their_package:Method"):
        methods.all_methods()
