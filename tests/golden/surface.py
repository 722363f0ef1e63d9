"""The only places of the record that know modules inside the packages.

Everything else goes through the names that `concept_das` exports and through the commands. When a
module moves, the functions here are what is to be adapted; what they return must stay the same.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest import mock

PRESET_BENCHMARKS = ("axbench", "refusal", "backdoor")


def preset_settings(benchmark: str) -> dict[str, dict[str, Any]]:
    """Every setting of every preset of a benchmark, in a form of the record's own.

    No command prints the hyper-parameters of a preset, so its objects are read.
    """
    presets = importlib.import_module(f"benchmarks.{benchmark}.presets").PRESETS
    describe = _of_axbench if benchmark == "axbench" else _of_safety
    return {name: describe(preset) for name, preset in presets.items()}


def _of_axbench(preset: Any) -> dict[str, Any]:
    names = (
        *("name", "model", "layer", "cell", "concept_ids", "instructions_per_concept"),
        *("new_tokens", "temperature", "judge", "rows"),
    )
    of_methods = {
        method: {
            "config": asdict(preset.recipe.configs[method]),
            "factors": grid.factors,
            "multipliers": grid.multipliers,
            "strengths": preset.strengths(method),
            "source": preset.recipe.sources[method],
            "factor_source": grid.source,
        }
        for method, grid in preset.grids.items()
    }
    sources = {
        "layer": preset.recipe.layer_source,
        "generation": preset.generation_source,
        "judge": preset.judge_source,
    }
    return {
        **{name: getattr(preset, name) for name in names},
        "sources": sources,
        "methods": of_methods,
    }


def _of_safety(preset: Any) -> dict[str, Any]:
    names = ("name", "model", "default", "new_tokens", "published", "rule", "rule_source")
    recipe = preset.recipe
    of_methods = {
        method: {
            "config": asdict(recipe.configs[method]),
            "factors": strengths.factors,
            "multipliers": strengths.multipliers,
            "source": recipe.sources[method],
            "factor_source": strengths.source,
            "reported": strengths.reported,
            "reported_multiplier": strengths.reported_multiplier,
        }
        for method, strengths in preset.strengths.items()
    }
    return {
        **{name: getattr(preset, name) for name in names},
        "layer": recipe.layer,
        "layer_source": recipe.layer_source,
        "load_in_4bit": recipe.loading.get("load_in_4bit", False),
        "methods": of_methods,
    }


@contextmanager
def any_text_shows_the_backdoor() -> Iterator[None]:
    """Let the backdoor benchmark take a tiny model, whose words show neither backdoor nor help."""
    with (
        mock.patch("benchmarks.backdoor.data.shows_help", bool),
        mock.patch("benchmarks.backdoor.data.shows_backdoor", bool),
    ):
        yield
