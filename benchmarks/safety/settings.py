"""Presets with their sources, and a run's settings: a preset with a user's changes to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.capabilities.scores import EVERYDAY, Framing
from benchmarks.presets import Strengths
from benchmarks.steps import Answering, Subject
from concept_das.errors import InputError
from concept_das.methods import TrainedMethod
from concept_das.methods.recipes import Recipe, read_recipe
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig, check_changes, with_changes
from concept_das.runs.stages import Piece
from concept_das.training.options import EngineOptions
from concept_das.words import Rule


@dataclass(frozen=True)
class SafetyPreset:
    """A benchmark's settings for a model.

    Attributes:
        name: for the command line.
        recipe: model, layer and hyper-parameters; without a model the user says which.
        strengths: of every method that applies, by its name.
        default: names of the methods that are run if none are named.
        new_tokens: length of the answers.
        folder: holds the benchmark's published numbers (`published.csv`).
        published: which of them are of this model; None if none are.
        tasks: of lm-eval that show the cost, with the number of solved examples before each
            question; a task's own number if None.
        tasks_source: where these are from.
        rule: what a multiplier of a clamp means; see `Choices`.
        rule_source: where that is from.
    """

    name: str
    recipe: Recipe
    strengths: Mapping[str, Strengths]
    default: tuple[str, ...]
    new_tokens: int
    folder: Path
    published: str | None = None
    tasks: Mapping[str, int | None] = field(default_factory=lambda: {EVERYDAY: None})
    tasks_source: str = "this project: needs no network"
    rule: Rule = "paper"
    rule_source: str = "CDAS paper: m x factor"

    @property
    def model(self) -> str | None:
        """Hub id; None if the user says which."""
        return self.recipe.loading.get("model")

    def published_numbers(self) -> pd.DataFrame:
        """The rows that belong beside the measured ones: the model's, or all if none are."""
        table = pd.read_csv(self.folder / "published.csv")
        if self.published is None:
            return table
        return table[table["model"] == self.published].reset_index(drop=True)

    def chosen(self, names: str) -> list[str]:
        """The names of some methods.

        Args:
            names: with commas between them; the default ones if empty, or `all`.

        Raises:
            InputError: if one is unknown or named twice.
        """
        if names == "all":
            return list(self.strengths)
        listed = [name.strip() for name in names.split(",")] if names else list(self.default)
        for name in listed:
            if name not in self.strengths:
                raise InputError(
                    f"preset {self.name} has no method {name!r}; choose from "
                    f"{', '.join(self.strengths)}"
                )
            if listed.count(name) > 1:
                raise InputError(f"the method {name} is named twice; name it once")
        return listed


def read_presets(path: Path) -> dict[str, SafetyPreset]:
    """The presets of a yaml file, by name.

    Each names a recipe of hyper-parameters (`concept_das/recipes`), and for each method `factors`,
    their `source`, the `reported` factor if it is not 1, and the decoding if it is not greedy.
    """
    content = yaml.safe_load(path.read_text("utf-8"))
    return {name: _preset(name, path.parent, **entry) for name, entry in content.items()}


def _preset(
    name: str,
    folder: Path,
    recipe: str,
    methods: Mapping[str, Any],
    default: list[str],
    **more: Any,
) -> SafetyPreset:
    return SafetyPreset(
        name=name,
        folder=folder,
        recipe=read_recipe(recipe),
        strengths={method: Strengths.of(method, said) for method, said in methods.items()},
        default=tuple(default),
        **more,
    )


@dataclass(frozen=True)
class Choices:
    """Settings in place of the preset's own, where given.

    Args:
        methods: names with commas between them, or all; the preset's usual ones if not given.
        changes: hyper-parameters in place of the preset's, as JSON by method or for all, e.g.
            '{"all": {"epochs": 2}, "cdas": {"rank": 4}}'.
        seeds: one training each; a method that draws nothing is trained once.
        layer: decoder block of the methods that act at one, 0-based.
        layers: run the methods that act at one block at each of these, with the first seed, into
            OUT/layers.
        multipliers: strengths of every method, without unit.
        rule: what the multiplier of a clamp means: paper (m x factor) or interpolate (from the mean
            of one kind of prompts, 0, to that of the other, 1, and beyond); the preset's if not
            given. They are the same at 1.
        new_tokens: length of the answers.
        generation_batch_tokens: tokens of a batch of answers; changes no answer.
        generator: who answers: hf (Hugging Face's generate), vllm (in this process), or the address
            of a server as http://localhost:8000/v1 (`concept-das serve`), which must have the
            trained vectors. Methods that vLLM cannot apply are answered by hf.
        tasks: of lm-eval, to see what suppressing costs elsewhere, with the preset's numbers of
            solved examples; '[]' for none; the preset's tasks if not given.
        capability_limit: the first so many questions of each task.
        capability_multipliers: strengths to score them at; that of published results, or 1, if not
            given.
        stages: names with commas between them (data, generate, measure, capabilities, train,
            report), or all; train.cdas is one method's.
    """

    methods: str = ""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [42])
    layer: int | None = None
    layers: list[int] = field(default_factory=list)
    multipliers: list[float] = field(default_factory=list)
    rule: Rule | None = None
    new_tokens: int | None = None
    generation_batch_tokens: int = 8192
    generator: str = "hf"
    tasks: list[str] | None = None
    capability_limit: int | None = None
    capability_multipliers: list[float] = field(default_factory=list)
    stages: str = "all"

    def __post_init__(self) -> None:
        for name in ("seeds", "layers", "multipliers", "capability_multipliers", "tasks"):
            values = getattr(self, name) or []
            if len(set(values)) < len(values):
                raise InputError(f"{name} holds {values}; give each of them once")
        if not self.seeds:
            raise InputError("give at least one of the seeds")
        for name in ("multipliers", "capability_multipliers"):
            if any(not value > 0 for value in getattr(self, name)):
                raise InputError(f"{name} must be above 0: the direction is what changes the sign")
        check_limits(new_tokens=self.new_tokens, capability_limit=self.capability_limit)


def check_limits(**limits: int | None) -> None:
    """Make sure that limits leave something.

    Raises:
        InputError: naming one that does not.
    """
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise InputError(f"{name} is {limit}; it must be at least 1")


@dataclass(frozen=True)
class Settings:
    """The settings of a run: the preset with the user's choices.

    Attributes:
        preset: what is used where nothing was chosen.
        choices: the user's.
        subject: the model that is steered.
        engine: of training.
        framing: of the capability questions.

    Raises:
        InputError: on methods or changes that cannot be.
    """

    preset: SafetyPreset
    choices: Choices
    subject: Subject
    engine: EngineOptions
    framing: Framing

    def __post_init__(self) -> None:
        _ = self.configs

    @cached_property
    def configs(self) -> dict[str, TrainingConfig]:
        """Hyper-parameters by method; in a sweep over layers, of those that act at one block."""
        names = self.preset.chosen(self.choices.methods)
        changes = self.choices.changes
        check_changes(changes, names)
        configs = {name: with_changes(self.preset.recipe.configs[name], changes) for name in names}
        if not self.choices.layers:
            return configs
        found = {k: one for k, one in configs.items() if not one.layers and k != "prompt"}
        if not found:
            raise InputError("none of the methods acts at one block; name one that does, as cdas")
        return found

    @property
    def pieces(self) -> list[Piece]:
        """One for each seed; in a sweep, one for each layer, with the first seed."""
        seeds, layers = self.choices.seeds, self.choices.layers
        if layers:
            return [Piece(f"layer-{n}", {"seed": seeds[0], "layer": n}) for n in layers]
        return [Piece(f"seed-{seed}", {"seed": seed}) for seed in seeds]

    @property
    def layer(self) -> int | None:
        """Block of the methods that act at one; None in a sweep, where every piece has its own."""
        if self.choices.layers:
            return None
        return self.preset.recipe.layer if self.choices.layer is None else self.choices.layer

    @property
    def rule(self) -> Rule:
        """The meaning of a multiplier of the methods that clamp."""
        return self.choices.rule or self.preset.rule

    @property
    def answering(self) -> Answering:
        """The way prompts are answered: greedily."""
        choices = self.choices
        return Answering(
            choices.new_tokens or self.preset.new_tokens,
            temperature=0.0,
            batch_tokens=choices.generation_batch_tokens,
            generator=choices.generator,
        )

    def answering_of(self, method: str) -> Answering:
        """The same of a method, which samples if its source does."""
        strengths = self.preset.strengths.get(method)
        answering = self.answering.of_method(method)
        return replace(answering, **strengths.decoding) if strengths else answering

    @property
    def tasks(self) -> dict[str, int | None]:
        """Tasks of lm-eval with their number of solved examples; None for a task's own."""
        preset, chosen = self.preset.tasks, self.choices.tasks
        return {name: preset.get(name) for name in (preset if chosen is None else chosen)}

    @property
    def reported(self) -> dict[str, float]:
        """The multiplier of published results by method."""
        return {name: self.preset.strengths[name].reported_multiplier for name in self.configs}

    def multipliers(self, method: str) -> tuple[float, ...]:
        """Strengths of a method."""
        return tuple(self.choices.multipliers) or self.preset.strengths[method].multipliers

    def capability_multipliers(self, method: str) -> tuple[float, ...]:
        """Strengths of a method at which capabilities are scored."""
        return tuple(self.choices.capability_multipliers) or (self.reported[method],)

    def sources(self) -> list[dict[str, str]]:
        """The settings and the source of each, one row each; the user's own are marked."""
        recipe, preset = self.preset.recipe, self.preset
        rows: list[dict[str, str]] = []

        def add(setting: str, value: str, source: str, changed: bool = False) -> None:
            source = f"changed by hand; {source}" if changed else source
            rows.append({"setting": setting, "value": value, "source": source})

        layers = [self.layer] if self.layer is not None else self.choices.layers
        add("layer", _numbers(layers), recipe.layer_source, layers != [recipe.layer])
        add("rule of clamps", self.rule, preset.rule_source, self.rule != preset.rule)
        if self.tasks:
            asked = ", ".join(
                name if shots is None else f"{name} ({shots} examples)"
                for name, shots in self.tasks.items()
            )
            add("capabilities", asked, preset.tasks_source, self.tasks != dict(preset.tasks))
        template = self.subject.chat_options.chat_template
        if recipe.chat_template or template:
            source = recipe.chat_source if template == recipe.chat_template else "changed by hand"
            value = "in place of the tokenizer's" if template else "the tokenizer's"
            add("chat template", value, source)
        for name, config in self.configs.items():
            own, source = recipe.configs[name], recipe.sources[name]
            if isinstance(find_method(name), TrainedMethod):
                told = _in_words(config)
                add(name, told, source, told != _in_words(own))
            elif name == "diffmean":
                where = {"all": "over all tokens", "source_token": "at the source token"}
                add(name, f"means {where[config.means]}", source, config.means != own.means)
            else:
                add(name, "nothing is trained", source)
            known, used = preset.strengths[name], self.multipliers(name)
            add(f"{name} multipliers", _numbers(used), known.source, used != known.multipliers)
            if known.decoding:
                add(f"{name} answers", self.answering_of(name).in_words, known.source)
        return rows


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{one:.4g}" for one in values)


def _in_words(config: TrainingConfig) -> str:
    layers = f", layers {' '.join(map(str, config.layers))}" if config.layers else ""
    return (
        f"learning rate {config.learning_rate:g}, batch {config.batch_size}, {config.epochs} "
        f"epochs, rank {config.rank}, {config.max_response_tokens} response tokens{layers}"
    )
