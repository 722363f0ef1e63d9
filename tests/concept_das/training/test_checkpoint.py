"""Interrupted, finished, foreign and damaged runs."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from concept_das.data.encoding import encode_quadruples
from concept_das.errors import InputError
from concept_das.methods.registry import find_method, trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.training import loop as training
from concept_das.training.concept import TrainingTask
from concept_das.training.loop import train_directions
from concept_das.training.tracking import NoTracker
from tests.concept_das.helpers import (
    ROWS,
    encoded_rows,
    tiny_chat,
)
from tests.concept_das.training.runs import (
    LAYER,
    InterruptingTracker,
    Stop,
    several_tasks,
    train,
    with_row,
)
from tests.tiny import tiny_model


# With three steps and a held-out record an epoch: within the first, at the second's last step,
# at its held-out record, within the third.
@pytest.mark.parametrize("at", [2, 7, 8, 10])
@pytest.mark.parametrize("options", [{}, {"rank": 2, "patience": 3, "method": "das"}], ids=str)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    tmp_path: Path, at: int, options: dict[str, Any]
) -> None:
    config = TrainingConfig(epochs=4, batch_size=2, **options)
    heldout = encoded_rows(2)
    expected = train(tiny_model(), config, heldout=heldout)
    tracker = InterruptingTracker(at)
    with pytest.raises(Stop):
        train(tiny_model(), config, heldout=heldout, checkpoint=tmp_path, tracker=tracker)
    torch.rand(5)
    result = train(tiny_model(), config, heldout=heldout, checkpoint=tmp_path, tracker=tracker)
    assert torch.equal(result.weight, expected.weight)
    assert result.history == expected.history
    assert result.best_epoch == expected.best_epoch
    steps = [(r["step"], "heldout_loss" in r) for r in result.history]
    assert len(set(steps)) == len(steps)


def test_the_time_of_all_parts_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second whenever it is read: at the start and at each epoch."""
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    config = TrainingConfig(epochs=4, batch_size=2)
    with pytest.raises(Stop):  # in the third epoch
        tracker = InterruptingTracker(8)
        train(tiny_model(), config, checkpoint=tmp_path, tracker=tracker)
    assert train(tiny_model(), config, checkpoint=tmp_path).earlier_seconds == 2.0
    assert train(tiny_model(), config, checkpoint=tmp_path).earlier_seconds == 4.0
    assert train(tiny_model(), config).earlier_seconds == 0.0


def test_progress_of_earlier_releases_has_no_time(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=2)
    train(tiny_model(), config, checkpoint=tmp_path)
    path = tmp_path / "progress.safetensors"
    with safe_open(path, framework="pt") as file:
        numbers = json.loads(file.metadata()["progress"])
    assert numbers.pop("seconds") > 0
    save_file(load_file(path), path, metadata={"progress": json.dumps(numbers)})
    assert train(tiny_model(), config, checkpoint=tmp_path).earlier_seconds == 0.0


def test_concepts_trained_together_share_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    tasks = [replace(task, checkpoint=tmp_path / task.name) for task in several_tasks()]
    model = tiny_model()
    for _ in range(2):
        results = train_directions(
            model, [find_site(model, LAYER)], tasks, TrainingConfig(epochs=1, batch_size=9)
        )
    found = [result.earlier_seconds for result in results]
    assert found == pytest.approx([1 / 3, 2 / 3, 3 / 3])  # a tick as each of them ends its epoch


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=2)
    first = train(tiny_model(), config, checkpoint=tmp_path)
    tracker = InterruptingTracker(99)
    again = train(tiny_model(), config, checkpoint=tmp_path, tracker=tracker)
    assert tracker.records == []
    assert torch.equal(again.weight, first.weight)
    assert again.history == first.history
    assert [path.name for path in tmp_path.iterdir()] == ["progress.safetensors"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": TrainingConfig(epochs=1, learning_rate=0.02)}, "learning_rate"),
        ({"config": TrainingConfig(epochs=2)}, "epochs"),
        ({"config": TrainingConfig(epochs=1, rank=2)}, "rank"),
        (
            {"config": TrainingConfig(epochs=1, method="das", seed=1)},
            "method, method_settings, seed",
        ),
        ({"rows": encoded_rows()[::-1]}, "data, prompts"),
        ({"rows": with_row(4, "A mile")}, "data"),
        ({"heldout": encoded_rows(1)}, "data, prompts"),
        ({"rows": encode_quadruples(ROWS, tiny_chat(source_token=-2))}, "prompts"),
        ({"layer": 2}, "layers"),
        ({"model": tiny_model(seed=1)}, "model"),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given),
)
def test_progress_of_another_run(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    arguments = {"model": tiny_model(), "config": TrainingConfig(epochs=1), "rows": encoded_rows()}
    train(**arguments, checkpoint=tmp_path)
    before = (tmp_path / "progress.safetensors").read_bytes()
    with pytest.raises(InputError, match=rf"progress of another run \({named} differ\); delete it"):
        train(**{**arguments, **change}, checkpoint=tmp_path)
    assert (tmp_path / "progress.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-8], lambda b: b[:20], lambda b: b"", lambda b: b[::-1]]
)
def test_damaged_progress(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    train(tiny_model(), TrainingConfig(epochs=1), checkpoint=tmp_path)
    path = tmp_path / "progress.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"progress.safetensors is damaged; delete it"):
        train(tiny_model(), TrainingConfig(epochs=1), checkpoint=tmp_path)


def test_progress_of_other_adapted_layers(tmp_path: Path) -> None:
    """LoRA starts from one site, whatever the layers that it adapts."""
    pytest.importorskip("peft", reason="LoRA needs peft")
    model, task = tiny_model(), TrainingTask(encoded_rows(), checkpoint=tmp_path)
    for layers in ((1, 2), (1, 3)):
        config = find_method("lora").config(epochs=1, rank=1, layers=layers)
        sites = trained_method("lora").sites(model, config.layers or (0,), config)
        if layers == (1, 2):
            train_directions(model, sites, [task], config)
    with pytest.raises(InputError, match=r"another run \(method_layers differ\)"):
        train_directions(model, sites, [task], config)


def test_several_concepts_are_resumed_each_where_it_was(tmp_path: Path) -> None:
    model, config = tiny_model(), TrainingConfig(epochs=3, batch_size=2)
    site = find_site(model, LAYER)

    def tasks(at: int) -> list[TrainingTask]:
        trackers = [NoTracker(), InterruptingTracker(at), NoTracker()]
        return [
            replace(task, tracker=tracker, checkpoint=tmp_path / task.name)
            for task, tracker in zip(several_tasks(), trackers, strict=True)
        ]

    expected = train_directions(model, [site], several_tasks(), config)
    with pytest.raises(Stop):
        train_directions(model, [site], tasks(5), config)
    resumed = train_directions(model, [site], tasks(99), config)
    for found, result in zip(resumed, expected, strict=True):
        assert float(torch.cosine_similarity(found.weight, result.weight)) > 0.9999
        assert [r["step"] for r in found.history] == [r["step"] for r in result.history]
