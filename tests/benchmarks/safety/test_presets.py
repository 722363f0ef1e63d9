"""The presets of both benchmarks say what their sources say."""

import pytest

from benchmarks.backdoor.presets import PRESETS as BACKDOOR
from benchmarks.presets import preset_named
from benchmarks.refusal.presets import PRESETS as REFUSAL
from benchmarks.safety.settings import SafetyPreset
from concept_das.errors import InputError
from concept_das.methods.registry import METHODS

ALL = [*REFUSAL.values(), *BACKDOOR.values()]


@pytest.mark.parametrize("preset", ALL, ids=[f"{i}-{p.name}" for i, p in enumerate(ALL)])
def test_every_method_is_there_with_its_sources(preset: SafetyPreset) -> None:
    assert set(preset.strengths) == set(REFUSAL["organism"].strengths) <= set(METHODS)
    assert set(preset.default) <= set(preset.strengths)
    assert preset.recipe.layer_source
    for name, strengths in preset.strengths.items():
        assert name == strengths.method == preset.recipe.configs[name].method
        assert preset.recipe.sources[name]
        assert strengths.source
        assert list(strengths.multipliers) == sorted(set(strengths.multipliers))
        assert strengths.multipliers[0] > 0
        assert strengths.reported_multiplier in strengths.multipliers


def test_the_published_numbers_belong_to_presets() -> None:
    own = {preset.published for preset in REFUSAL.values() if preset.published}
    everything = REFUSAL["organism"].published_numbers()
    assert set(everything["model"]) == own
    own_rows = REFUSAL["llama-3.1-8b"].published_numbers()
    assert list(own_rows["method"]) == ["cdas", "das", "reps", "diffmean"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="unknown preset 'gpt'; choose one of organism, phi"):
        preset_named(REFUSAL, "gpt")
    preset = REFUSAL["organism"]
    assert preset.chosen("") == list(preset.default)
    assert preset.chosen("das, lora") == ["das", "lora"]
    assert preset.chosen("all") == list(preset.strengths)
    with pytest.raises(InputError, match="no method 'sft'; choose from cdas"):
        preset.chosen("sft")
    with pytest.raises(InputError, match="das is named twice"):
        preset.chosen("das,das")
