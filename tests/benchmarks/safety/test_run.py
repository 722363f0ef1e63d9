"""A preset's model is loaded as the preset says, wherever it lies."""

import json
from pathlib import Path

import pytest

from benchmarks.refusal.case import REFUSAL
from benchmarks.refusal.presets import PRESETS
from benchmarks.safety.run import _loading
from concept_das.cli.options import ModelOptions
from concept_das.errors import InputError

LARGE = PRESETS["llama-3.1-70b"]


def loading(preset: str = "llama-3.1-70b", **options: object) -> ModelOptions:
    return _loading(REFUSAL, PRESETS[preset], ModelOptions(**options))  # type: ignore[arg-type]


def test_the_presets_model_keeps_its_four_bits(tmp_path: Path) -> None:
    copy = tmp_path / "Llama-3.1-70B-Instruct"
    copy.mkdir()
    sizes = {"hidden_size": 8192, "num_hidden_layers": 80, "vocab_size": 128256}
    (copy / "config.json").write_text(json.dumps(sizes))
    for model in (None, LARGE.model, str(copy)):
        assert loading(model=model).load_in_4bit
    for model in ("someone/other", str(tmp_path)):
        assert not loading(model=model).load_in_4bit
        assert loading(model=model, load_in_4bit=True).load_in_4bit
    assert not loading("llama-3.1-8b").load_in_4bit


def test_a_preset_without_a_model_needs_one() -> None:
    with pytest.raises(InputError, match="the preset organism needs a model: give --model"):
        loading("organism")
