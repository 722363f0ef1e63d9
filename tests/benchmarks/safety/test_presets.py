"""The presets of both benchmarks say what their sources say."""

import pytest

from benchmarks.backdoor.presets import PRESETS as BACKDOOR
from benchmarks.presets import preset_named
from benchmarks.refusal.presets import PRESETS as REFUSAL
from benchmarks.refusal.published import published
from benchmarks.safety.settings import Preset
from concept_das.errors import InputError
from concept_das.methods.registry import METHODS

ALL = [*REFUSAL.values(), *BACKDOOR.values()]


@pytest.mark.parametrize("preset", ALL, ids=[f"{i}-{p.name}" for i, p in enumerate(ALL)])
def test_every_method_is_there_with_its_sources(preset: Preset) -> None:
    assert set(preset.methods) == set(METHODS)
    assert len(preset.parts) == len(METHODS)
    assert set(preset.default) <= set(preset.methods)
    assert preset.layer_source
    for part in preset.parts:
        assert part.source
        assert part.factor_source
        assert list(part.multipliers) == sorted(set(part.multipliers))
        assert part.multipliers[0] > 0
        assert part.reported_multiplier in part.multipliers


def test_a_reps_factor_is_an_eleventh_of_a_multiplier() -> None:
    reported = {
        name: REFUSAL[name].methods["reps"].reported_multiplier
        for name in ("phi-3.5-mini", "llama-3.1-8b", "llama-3.1-70b")
    }
    assert [value * 11 for value in reported.values()] == pytest.approx([1.6, 1.3, 1.4])
    reps = BACKDOOR["checkpoint"].methods["reps"]
    assert reps.reported_multiplier * 11 == pytest.approx(1.7)
    assert REFUSAL["llama-3.1-70b"].load_in_4bit


def test_the_published_numbers_belong_to_presets() -> None:
    own = {preset.published for preset in REFUSAL.values() if preset.published}
    assert set(published(None)["model"]) == own
    assert list(published("llama-3.1-8b")["method"]) == ["cdas", "reps"]
    assert len(published(None)) == 6


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown preset 'gpt'; choose one of organism, phi"):
        preset_named(REFUSAL, "gpt")
    preset = REFUSAL["organism"]
    assert [part.config.method for part in preset.chosen("")] == list(preset.default)
    assert [part.config.method for part in preset.chosen("das, lora")] == ["das", "lora"]
    assert len(preset.chosen("all")) == len(METHODS)
    with pytest.raises(InputError, match="no method 'sft'; choose from cdas"):
        preset.chosen("sft")
    with pytest.raises(InputError, match="das is named twice"):
        preset.chosen("das,das")
