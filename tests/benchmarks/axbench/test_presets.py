"""The presets say what their sources say."""

import pytest

from benchmarks.axbench.presets import PRESETS, Preset
from benchmarks.axbench.published import CELLS
from benchmarks.presets import preset_named, to_multipliers
from concept_das.errors import InputError
from concept_das.methods.registry import METHODS

ALL = list(PRESETS.values())
NAMES = [
    "gemma-2-2b-l10",
    "gemma-2-2b-l20",
    "gemma-2-9b-l20",
    "gemma-2-9b-l31",
    "qwen2.5-3b-l18",
    "qwen2.5-7b-l14",
    "qwen2.5-14b-l24",
    "olmo-2-1b-l8",
    "olmo-2-7b-l16",
    "olmo-2-13b-l20",
    "smollm2-135m",
]
# Methods that take part but are not part of every installation of the registry.
LOW_RANK = {"loreft", "lora", "cdas_loreft"}


def test_the_presets_are_found_by_name() -> None:
    assert list(PRESETS) == NAMES
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert name.endswith(f"-l{preset.layer}") or name == "smollm2-135m"
    with pytest.raises(InputError, match=r"'gpt-2'.*gemma-2-2b-l10, .*smollm2-135m"):
        preset_named(PRESETS, "gpt-2")


@pytest.mark.parametrize("preset", ALL, ids=NAMES)
def test_every_method_is_complete(preset: Preset) -> None:
    assert set(preset.methods) <= {*METHODS, *LOW_RANK}
    for method, config in preset.configs.items():
        assert config.method == method
        assert preset.recipe.sources[method]
        assert preset.grids[method].source
        multipliers = preset.grids[method].multipliers
        assert list(multipliers) == sorted(set(multipliers))
        assert multipliers[0] > 0
    assert preset.recipe.layer_source
    assert preset.generation_source
    assert preset.judge_source
    assert {"cdas", "das", "diffmean", "reps", "prompt"} <= set(preset.methods)


def test_the_cells_are_those_that_were_published() -> None:
    cells = [preset.cell for preset in ALL if preset.cell]
    assert cells == list(CELLS)
    for preset in ALL:
        if preset.cell:
            size, _, layer = preset.cell.partition("-l")
            assert f"gemma-2-{size}-it" in preset.model
            assert preset.layer == int(layer)


@pytest.mark.parametrize("name", NAMES[:3])
def test_grids_reach_as_far_as_the_sources(name: str) -> None:
    preset = PRESETS[name]
    ends = {name: (grid.factors[0], grid.factors[-1]) for name, grid in preset.grids.items()}
    assert ends["reps"] == ends["lang"] == (2, 50)
    assert ends["diffmean"] == ends["bipo"] == (0.2, 5)
    assert ends["cdas"] == (1, 7 if "9b" in name else 14)
    assert ends["loreft"] == ends["lora"] == ends["prompt"] == (1, 1)


def test_factors_of_lang_and_reps_are_in_units_of_11() -> None:
    assert to_multipliers("reps", (2.0, 11.0, 50.0)) == pytest.approx((2 / 11, 1.0, 50 / 11))
    assert to_multipliers("lang", (22.0,)) == (2.0,)
    for method in ("cdas", "diffmean", "bipo"):
        assert to_multipliers(method, (0.2, 5.0)) == (0.2, 5.0)
    assert PRESETS["smollm2-135m"].grids["reps"].multipliers == (0.5, 1.0, 2.0)


def test_the_small_preset_is_small() -> None:
    preset = PRESETS["smollm2-135m"]
    assert (preset.layer, preset.concept_ids, preset.new_tokens) == (15, (0, 1, 2, 3, 4), 32)
    assert preset.judge == "proxy"
    assert preset.cell is None
    assert (preset.top_k, preset.top_p) == (50, None)  # transformers' default
    config = preset.configs["reps"]
    numbers = (config.learning_rate, config.epochs, config.batch_size, config.max_response_tokens)
    assert numbers == (0.04, 4, 8, 32)
    assert len(preset.grids["reps"].factors) == 3
