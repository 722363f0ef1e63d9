"""Presets: what AxBench is run with for a model and layer, and where each number is from.

A preset in `presets.yaml` names a recipe of hyper-parameters (`concept_das/recipes`) and the
strengths of each method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.axbench.published import Cell
from benchmarks.judges.ratings import Kind
from benchmarks.presets import to_multipliers
from concept_das.errors import InputError
from concept_das.methods.recipes import read_recipe
from concept_das.methods.settings import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """A run of the benchmark.

    Attributes:
        name: model and layer.
        model: hub id, or the packaged model.
        layer: decoder block of the methods that act at one, 0-based.
        configs: hyper-parameters of each method, by its name.
        factors: strengths of each method as the sources have them; see `multipliers`.
        sources: where things are from, by `layer`, method (its hyper-parameters), `METHOD factors`,
            `generation` (instructions, length, temperature) and `judge`.
        cell: the published scores that belong beside it; None if there are none.
        concept_ids: concepts of the data to run; all if None.
        instructions_per_concept: half of them choose the multiplier.
        new_tokens: length of the answers.
        temperature: at which they are sampled.
        judge: kind of judge.
        rows: training rows per concept; all if None.
    """

    name: str
    model: str
    layer: int
    configs: Mapping[str, TrainingConfig]
    factors: Mapping[str, tuple[float, ...]]
    sources: Mapping[str, str]
    instructions_per_concept: int
    new_tokens: int
    temperature: float
    judge: Kind
    cell: Cell | None = None
    concept_ids: tuple[int, ...] | None = None
    rows: int | None = None

    def strengths(self, method: str) -> tuple[float, ...]:
        """The multipliers that a method is run at: the grid, and 1 for the unit scores."""
        return tuple(sorted({*self.multipliers.get(method, ()), 1.0}))

    def only(self, methods: Sequence[str]) -> "Preset":
        """The preset with some of its methods.

        Raises:
            InputError: if it does not have one, or one is named twice.
        """
        for method in methods:
            if method not in self.configs or list(methods).count(method) > 1:
                raise InputError(
                    f"{method!r} is named twice or not in {self.name}; choose from "
                    f"{', '.join(self.configs)}"
                )
        return replace(self, configs={name: self.configs[name] for name in methods})

    @property
    def methods(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.configs)

    @property
    def multipliers(self) -> dict[str, tuple[float, ...]]:
        """The factors of each method as this project's multipliers."""
        return {name: to_multipliers(name, factors) for name, factors in self.factors.items()}


def _preset(name: str, entry: Mapping[str, Any], whole: Mapping[str, Any]) -> Preset:
    """A preset; what its entry does not say of generation and judge, the whole file does."""
    recipe = read_recipe(entry["recipe"])
    methods: Mapping[str, Mapping[str, str]] = entry["methods"]
    generation = {**whole["generation"], **entry.get("generation", {})}
    judge = entry.get("judge", whole["judge"])
    ids = entry.get("concept_ids")
    return Preset(
        name=name,
        model=recipe.loading["model"],
        layer=recipe.layer,
        configs={method: recipe.configs[method] for method in methods},
        factors={m: tuple(whole["grids"][said["factors"]]) for m, said in methods.items()},
        sources={
            "layer": recipe.layer_source,
            "generation": generation.pop("source"),
            "judge": judge["source"],
            **{method: recipe.sources[method] for method in methods},
            **{f"{method} factors": said["source"] for method, said in methods.items()},
        },
        judge=judge["kind"],
        cell=entry.get("cell"),
        concept_ids=None if ids is None else tuple(ids),
        rows=entry.get("rows"),
        **generation,
    )


_CONTENT = yaml.safe_load(Path(__file__).with_name("presets.yaml").read_text("utf-8"))

PRESETS = {name: _preset(name, entry, _CONTENT) for name, entry in _CONTENT["presets"].items()}
