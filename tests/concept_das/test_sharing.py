"""`concept-das share`, and the commands that take a vector by its name on a hub."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import DatasetCard

from concept_das.cli import main
from concept_das.data.reading import to_frame
from concept_das.exports import share_comparison
from concept_das.models.identity import ModelIdentity
from concept_das.reports.results import write_comparison
from tests.concept_das.helpers import ROWS, random_vector
from tests.hub import TOKEN, Hub, check_card
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def vector(model: Path, tmp_path: Path) -> Path:
    made = random_vector(tiny_model(), concept="Talk like a pirate")
    identity = ModelIdentity.of(tiny_model(), str(model))
    return replace(made, model=identity).save(tmp_path / "run/vector")


@pytest.fixture(autouse=True)
def logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)


def test_a_shared_vector_is_used_by_its_name(
    hub: Hub, vector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["share", "--vector", str(vector), "--to", "name/pirate", "--license", "mit"]) == 0
    assert f"{hub.url}/name/pirate" in capsys.readouterr().out
    here = ["--vector", "name/pirate", "--device", "cpu"]
    steering = [*here, "--prompt", "Hi", "--max-new-tokens", "4"]
    assert main(["steer", *steering]) == 0
    by_name = capsys.readouterr().out
    assert main(["steer", *steering, "--vector", str(vector)]) == 0
    assert by_name == capsys.readouterr().out
    assert main(["inspect", "--vector", "name/pirate@main"]) == 0
    assert json.loads(capsys.readouterr().out)["concept"] == "Talk like a pirate"
    rows = tmp_path / "rows.parquet"
    to_frame(ROWS).to_parquet(rows)
    assert main(["inspect", *here, "--data", str(rows)]) == 0
    assert "source" in capsys.readouterr().out
    measure = ["evaluate", *here, "--data", str(rows), "--multipliers", "[1.0]"]
    assert main(measure) == 2
    assert "name/pirate is no folder of a run; give rows as data" in capsys.readouterr().err
    assert main([*measure, "--out", str(tmp_path / "measured")]) == 0
    assert (tmp_path / "measured/evaluation.csv").exists()
    assert not (tmp_path / "name").exists()


def comparison(folder: Path) -> Path:
    table = pd.DataFrame(
        {
            "method": ["cdas", "reps"],
            "concept_id": 0,
            "concept": "Pirate",
            "seed": 42,
            "multiplier": 1.0,
            "parameters": 16,
            "seconds": 1.0,
            "elicitation_recovery": [0.8, 0.5],
            "suppression_recovery": [0.9, -0.5],
            "kl_side_effect_elicit": [0.1, 0.4],
            "kl_side_effect_suppress": [0.1, 0.4],
        }
    )
    write_comparison(folder, table, "tiny, layer 1")
    return folder


def test_a_comparison_is_shared_as_a_data_set(hub: Hub, tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = comparison(tmp_path / "compared")
    (folder / "concept-0").mkdir()
    (folder / "concept-0/private.txt").write_text("not shared")
    command = ["share", "--comparison", str(folder), "--to", "name/compared", "--license", "mit"]
    assert main(command) == 0
    assert main(command) == 0  # again
    files = set(hub.files("name/compared", "dataset"))
    assert {"README.md", "table.csv", "tradeoff.png", "comparison.html"} <= files
    assert not any("private" in name for name in files)
    card = DatasetCard.load("name/compared")
    check_card(card)
    assert card.data.license == "mit"
    assert "| cdas |" in card.text
    assert "![recovery by strength](recovery.png)" in card.text
    assert load_dataset("name/compared", split="train")["method"][:] == ["cdas", "reps"]
    assert share_comparison(folder, "name/compared", revision="next").endswith("name/compared")


def test_what_cannot_be_shared(
    hub: Hub, vector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["share", "--to", "name/pirate", *words]) == 2
        return capsys.readouterr().err

    assert "give a vector or a comparison to share" in refused()
    both = refused("--vector", str(vector), "--comparison", str(tmp_path))
    assert "and not both" in both
    assert "holds no vector.safetensors" in refused("--vector", str(tmp_path))
    assert "holds no comparison.html" in refused("--comparison", str(tmp_path))
    assert not hub.repositories
