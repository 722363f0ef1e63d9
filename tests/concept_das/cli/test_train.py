"""The command `train`, from the options to the folder of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from concept_das.cli.parser import main
from concept_das.data.reading import read_quadruples, to_frame
from concept_das.errors import TrainingError
from concept_das.steering.artifact import load_vector
from concept_das.steering.vector import SteeringVector
from tests.concept_das.cli.world import error_of, evaluate, train
from tests.concept_das.helpers import MORE_ROWS
from tests.tiny import tiny_model


def test_training_leaves_a_run(run: Path, model: Path) -> None:
    vector = SteeringVector.load(run / "vector", tiny_model())
    assert vector.layer == 1
    assert vector.model.name == str(model)
    kept, held = read_quadruples(run / "train.parquet"), read_quadruples(run / "heldout.parquet")
    assert (len(kept), len(held)) == (7, 3)
    assert sorted(map(MORE_ROWS.index, kept + held)) == list(range(10))
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert sum("heldout_loss" in record for record in history) == 2
    assert sum("gradient_norm" in record for record in history) == 4
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["layer"], config["heldout"], config["learning_rate"]) == (-3, 3, 0.04)


def test_a_run_repeated_from_its_config(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["train", "--config", str(run / "config.yaml"), "--out", str(out)]) == 0
    first, second = SteeringVector.load(run / "vector"), SteeringVector.load(out / "vector")
    for name in ("weight", "negative_factor", "positive_factor"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.describe() == second.describe()
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (run, out)]
    assert {**configs[0], "out": ""} == {**configs[1], "out": ""}


def test_an_option_beside_a_config_wins(run: Path, tmp_path: Path) -> None:
    arguments = ["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "other")]
    assert main([*arguments, "--rank", "2", "--engine", "pyvene"]) == 0
    assert SteeringVector.load(tmp_path / "other/vector").rank == 2


def test_options_with_dashes(run: Path, world: Path, tmp_path: Path) -> None:
    arguments = [
        word.replace("_", "-") if word.startswith("--") else word
        for word in train(world, tmp_path / "dashes")
    ]
    assert "--max-response-tokens" in arguments
    assert main([*arguments, "--source-token=-1"]) == 0
    found = SteeringVector.load(tmp_path / "dashes/vector")
    assert torch.equal(found.weight, SteeringVector.load(run / "vector").weight)


def test_an_interrupted_run_goes_on(
    run: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "broken off"
    with monkeypatch.context() as patch:

        def interrupted(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr("concept_das.methods.interchange.measure_latents_at", interrupted)
        assert main(train(world, out)) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err
    assert (out / "progress/progress.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr("concept_das.training.loop.sum_losses", None)  # no step is left to do
        assert main(train(world, out)) == 0
    found = SteeringVector.load(out / "vector")
    assert torch.equal(found.weight, SteeringVector.load(run / "vector").weight)
    assert (out / "history.jsonl").read_text() == (run / "history.jsonl").read_text()


def test_several_concepts_are_trained_in_one_run(world: Path, tmp_path: Path) -> None:
    both = MORE_ROWS + [replace(row, concept_id=9, concept="Captain") for row in MORE_ROWS[2:]]
    to_frame(both).to_parquet(tmp_path / "rows.parquet")
    rows = ("--data", str(tmp_path / "rows.parquet"))
    assert main(train(world, tmp_path / "all", *rows, "--together", "2")) == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == [
        "concept-3",
        "concept-9",
        "config.yaml",
    ]
    assert main(train(world, tmp_path / "one", *rows, "--concept_id", "9")) == 0
    together = SteeringVector.load(tmp_path / "all" / "concept-9" / "vector")
    single = SteeringVector.load(tmp_path / "one" / "vector")
    assert (together.concept, together.data_hash) == ("Captain", single.data_hash)
    torch.testing.assert_close(together.weight, single.weight, rtol=0, atol=1e-3)
    assert len(read_quadruples(tmp_path / "all" / "concept-9" / "heldout.parquet")) == 3


def test_layers_of_a_method_that_acts_at_several(world: Path, tmp_path: Path) -> None:
    assert main(train(world, tmp_path / "run", "--method=lora", "--layers=[1, 2]")) == 0
    vector = load_vector(tmp_path / "run/vector")
    assert vector.layers == (1, 2)
    assert main(evaluate(tmp_path / "run")) == 0
    table = pd.read_csv(tmp_path / "run/evaluation.csv")
    assert table["gain_elicit"].notna().all()
    assert table["gain_suppress"].isna().all()
    export = ["export", "--vector", str(tmp_path / "run/vector"), "--format", "peft"]
    assert main([*export, "--out", str(tmp_path / "peft")]) == 0
    assert (tmp_path / "peft/adapter_config.json").exists()


def test_unusable_input_of_training(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = train(world, tmp_path / "run")
    several = tmp_path / "several.parquet"
    to_frame([replace(row, concept_id=i % 2) for i, row in enumerate(MORE_ROWS)]).to_parquet(
        several
    )
    for more, message in (
        (["--data", str(tmp_path / "none.csv")], "there is no file"),
        (["--model", str(tmp_path / "none")], "cannot load model"),
        (["--layer", "4"], "layer 4 is out of range"),
        (["--heldout", "10"], "cannot hold out 10 of 10 rows of concept 3"),
        (["--heldout", "0", "--patience", "1"], "needs held-out rows"),
        (["--method", "magic"], "unknown method 'magic'"),
        (["--rank", "99"], "rank 99 exceeds"),
        (["--source_token", "99"], "source_token 99 is outside the generation prompt"),
        (
            ["--data", str(several), "--heldout", "5"],
            "cannot hold out 5 of 5 rows of concept 0; some must train",
        ),
        (["--concept_id", "8"], "has no rows of concept 8"),
        (["--device", "toaster"], "cannot use device 'toaster'"),
        (["--device_map", "auto"], "give either device or device_map"),
    ):
        assert message in error_of([*options, *more], capsys)


def test_a_failed_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise TrainingError("the elicit loss is nan at step 1")

    monkeypatch.setattr("concept_das.training.loop.sum_losses", failing)
    assert "the elicit loss is nan" in error_of(train(world, tmp_path), capsys)
