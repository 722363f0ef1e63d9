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
            "config": asdict(config),
            "factors": preset.factors.get(method),
            "multipliers": preset.multipliers.get(method),
            "strengths": preset.strengths(method),
            "source": preset.sources.get(method),
            "factor_source": preset.sources.get(f"{method} factors"),
        }
        for method, config in preset.configs.items()
    }
    sources = {name: preset.sources[name] for name in ("layer", "generation", "judge")}
    return {
        **{name: getattr(preset, name) for name in names},
        "sources": sources,
        "methods": of_methods,
    }


def _of_safety(preset: Any) -> dict[str, Any]:
    names = (
        *("name", "model", "layer", "layer_source", "default", "new_tokens", "published"),
        *("load_in_4bit", "rule", "rule_source"),
    )
    of_methods = {
        part.config.method: {
            "config": asdict(part.config),
            "factors": part.factors,
            "multipliers": part.multipliers,
            "source": part.source,
            "factor_source": part.factor_source,
            "reported": part.reported,
            "reported_multiplier": part.reported_multiplier,
        }
        for part in preset.parts
    }
    return {**{name: getattr(preset, name) for name in names}, "methods": of_methods}


@contextmanager
def any_text_shows_the_backdoor() -> Iterator[None]:
    """Let the backdoor benchmark take a tiny model, whose words show neither backdoor nor help."""
    with (
        mock.patch("benchmarks.backdoor.data.shows_help", bool),
        mock.patch("benchmarks.backdoor.data.shows_backdoor", bool),
    ):
        yield
