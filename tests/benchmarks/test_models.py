"""A local copy of a paper's model is told from other models."""

import json
from pathlib import Path

import pytest

from benchmarks.axbench.presets import PRESETS
from benchmarks.models import is_model, known_models
from benchmarks.refusal.presets import PRESETS as REFUSAL

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
SIZES = {"hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128256}


def write(folder: Path, **config: object) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**SIZES, **config}))
    return str(folder)


def test_every_model_of_the_paper_is_known() -> None:
    models = {preset.model for preset in (*PRESETS.values(), *REFUSAL.values())}
    assert models - {"smollm2-135m", None} == set(known_models().index)
    assert (known_models()["parameters"] > 1e9).all()


def test_the_hub_id_is_the_model() -> None:
    assert is_model(LLAMA, LLAMA)
    assert not is_model("meta-llama/Llama-3.1-8B", LLAMA)
    assert not is_model(LLAMA, None)


@pytest.mark.parametrize(
    ("folder", "config", "same"),
    [
        ("llama-3.1-8b-instruct", {}, True),
        ("models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0123", {}, True),
        ("mine", {"_name_or_path": "/data/Llama-3.1-8B-Instruct"}, True),
        ("mine", {}, False),
        ("mine", {"_name_or_path": "meta-llama/Llama-3.1-8B"}, False),
        ("Llama-3.1-8B-Instruct", {"num_hidden_layers": 16}, False),
        ("Llama-3.1-8B-Instruct", {"vocab_size": None}, False),
    ],
)
def test_a_folder_is_told_by_name_and_sizes(
    tmp_path: Path, folder: str, config: dict[str, object], same: bool
) -> None:
    assert is_model(write(tmp_path / folder, **config), LLAMA) is same


def test_a_link_to_the_hubs_cache_is_the_model(tmp_path: Path) -> None:
    cached = write(tmp_path / "models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0123")
    (tmp_path / "link").symlink_to(cached)
    assert is_model(str(tmp_path / "link"), LLAMA)


def test_other_models_are_told_by_their_name(tmp_path: Path) -> None:
    assert is_model(write(tmp_path / "model"), "someone/model")
    (tmp_path / "empty").mkdir()
    assert not is_model(str(tmp_path / "empty"), "someone/empty")
