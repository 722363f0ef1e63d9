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
from benchmarks.judges.options import OWN_QUESTIONS
from benchmarks.judges.ratings import Kind
from benchmarks.presets import Strengths
from concept_das.errors import InputError
from concept_das.methods.recipes import Recipe, read_recipe
from concept_das.methods.settings import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """A run of the benchmark.

    Attributes:
        name: model and layer.
        recipe: model, layer and hyper-parameters.
        grids: strengths of each method, by its name.
        generation_source: where instructions, length and temperature are from.
        judge_source: where the kind of judge is from.
        instructions_per_concept: half of them choose the multiplier.
        new_tokens: length of the answers.
        temperature: at which they are sampled.
        top_k, top_p: sampling is from the likeliest tokens, so many, and with so much of the
            probability; None for all.
        judge: kind of judge.
        questions: whose questions a language model is asked: `axbench` or `own`.
        cell: the published scores that belong beside it; None if there are none.
        texts: the cell whose concepts are steered where the data have several.
        concept_ids: concepts of the data to run; all if None.
        rows: training rows per concept; all if None.
        response_tokens: length of the neutral responses that a model writes. It follows from all
            methods of the recipe, so that a method can be added and the data stay.
    """

    name: str
    recipe: Recipe
    grids: Mapping[str, Strengths]
    generation_source: str
    judge_source: str
    instructions_per_concept: int
    new_tokens: int
    temperature: float
    judge: Kind
    texts: Cell
    questions: str = OWN_QUESTIONS
    top_k: int | None = None
    top_p: float | None = None
    cell: Cell | None = None
    concept_ids: tuple[int, ...] | None = None
    rows: int | None = None
    response_tokens: int = 128

    @property
    def model(self) -> str:
        """Hub id, or the packaged model."""
        return self.recipe.loading["model"]

    @property
    def layer(self) -> int:
        """Decoder block of the methods that act at one, 0-based."""
        return self.recipe.layer

    @property
    def methods(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.grids)

    @property
    def configs(self) -> dict[str, TrainingConfig]:
        """Hyper-parameters of each method, by its name."""
        return {method: self.recipe.configs[method] for method in self.grids}

    def strengths(self, method: str) -> tuple[float, ...]:
        """The multipliers that a method is run at: the grid, and 1 for the unit scores."""
        grid = self.grids.get(method)
        return tuple(sorted({*(grid.multipliers if grid else ()), 1.0}))

    def only(self, methods: Sequence[str]) -> "Preset":
        """The preset with some of its methods.

        Raises:
            InputError: if it does not have one, or one is named twice.
        """
        for method in methods:
            if method not in self.grids or list(methods).count(method) > 1:
                raise InputError(
                    f"{method!r} is named twice or not in {self.name}; choose from "
                    f"{', '.join(self.grids)}"
                )
        return replace(self, grids={name: self.grids[name] for name in methods})


def _preset(name: str, entry: Mapping[str, Any], whole: Mapping[str, Any]) -> Preset:
    """A preset; what its entry does not say of generation and judge, the whole file does."""
    generation = {**whole["generation"], **entry.get("generation", {})}
    judge = entry.get("judge", whole["judge"])
    ids = entry.get("concept_ids")
    recipe = read_recipe(entry["recipe"])
    return Preset(
        name=name,
        recipe=recipe,
        response_tokens=max(config.max_response_tokens for config in recipe.configs.values()),
        grids={
            method: Strengths.of(method, {**said, "factors": whole["grids"][said["factors"]]})
            for method, said in entry["methods"].items()
        },
        generation_source=generation.pop("source"),
        judge_source=judge["source"],
        judge=judge["kind"],
        questions=judge.get("questions", OWN_QUESTIONS),
        cell=entry.get("cell"),
        texts=entry.get("texts") or entry.get("cell") or whole["texts"]["cell"],
        concept_ids=None if ids is None else tuple(ids),
        rows=entry.get("rows"),
        **generation,
    )


_CONTENT = yaml.safe_load(Path(__file__).with_name("presets.yaml").read_text("utf-8"))

PRESETS = {name: _preset(name, entry, _CONTENT) for name, entry in _CONTENT["presets"].items()}
