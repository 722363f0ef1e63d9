"""Presets with their sources, and a user's changes to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.capabilities.scores import EVERYDAY, Framing
from benchmarks.presets import to_multipliers
from benchmarks.steps import Answering, Subject
from concept_das.errors import InputError
from concept_das.methods import TrainedMethod
from concept_das.methods.recipes import read_recipe
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig, check_changes, with_changes
from concept_das.runs.stages import Piece
from concept_das.training.options import EngineOptions
from concept_das.words import Rule


@dataclass(frozen=True)
class Part:
    """One method of a preset.

    Attributes:
        config: hyper-parameters.
        factors: strengths as the source has them.
        source: where the hyper-parameters are from.
        factor_source: where the factors are from.
        reported: the factor of published results, and of the capability scores.
    """

    config: TrainingConfig
    factors: tuple[float, ...]
    source: str
    factor_source: str
    reported: float = 1.0

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The factors as this project's multipliers."""
        return to_multipliers(self.config.method, self.factors)

    @property
    def reported_multiplier(self) -> float:
        """The same for the reported factor."""
        return to_multipliers(self.config.method, (self.reported,))[0]


@dataclass(frozen=True)
class Preset:
    """A benchmark's settings for a model.

    Attributes:
        name: for the command line.
        model: hub id; None if the user says which.
        layer: decoder block of the methods that act at one, 0-based.
        layer_source: where the layer is from.
        parts: every method that applies.
        default: names of the methods that are run if none are named.
        new_tokens: length of the answers.
        published: which of the published numbers belong beside it; None if none do.
        load_in_4bit: as the source loads the model.
        rule: what a multiplier of a clamp means; see `Choices`.
        rule_source: where that is from.
    """

    name: str
    model: str | None
    layer: int
    layer_source: str
    parts: tuple[Part, ...]
    default: tuple[str, ...]
    new_tokens: int
    published: str | None = None
    load_in_4bit: bool = False
    rule: Rule = "paper"
    rule_source: str = "CDAS paper: m x factor"

    @property
    def methods(self) -> dict[str, Part]:
        """The parts by their methods' names."""
        return {part.config.method: part for part in self.parts}

    def chosen(self, names: str) -> list[Part]:
        """The parts of some methods.

        Args:
            names: with commas between them; the default ones if empty, or `all`.

        Raises:
            InputError: if one is unknown or named twice.
        """
        known = self.methods
        listed = [name.strip() for name in names.split(",")] if names else list(self.default)
        if names == "all":
            listed = list(known)
        for name in listed:
            if name not in known:
                raise InputError(
                    f"preset {self.name} has no method {name!r}; choose from {', '.join(known)}"
                )
            if listed.count(name) > 1:
                raise InputError(f"the method {name} is named twice; name it once")
        return [known[name] for name in listed]


def read_presets(path: Path) -> dict[str, Preset]:
    """The presets of a yaml file, by name.

    Each names a recipe of hyper-parameters (`concept_das/recipes`), and for each method `factors`,
    their `source`, and the `reported` factor if it is not 1.
    """
    content = yaml.safe_load(path.read_text("utf-8"))
    return {name: _preset(name, **entry) for name, entry in content.items()}


def _preset(
    name: str,
    recipe: str,
    methods: Mapping[str, Mapping[str, Any]],
    default: list[str],
    **more: Any,
) -> Preset:
    numbers = read_recipe(recipe)
    return Preset(
        name=name,
        model=numbers.loading.get("model"),
        layer=numbers.layer,
        layer_source=numbers.layer_source,
        parts=tuple(
            Part(
                config=numbers.configs[method],
                factors=tuple(said["factors"]),
                source=numbers.sources[method],
                factor_source=said["source"],
                reported=said.get("reported", 1.0),
            )
            for method, said in methods.items()
        ),
        default=tuple(default),
        load_in_4bit=numbers.loading.get("load_in_4bit", False),
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
        tasks: of lm-eval, to see what suppressing costs elsewhere; '[]' for none.
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
    tasks: list[str] = field(default_factory=lambda: [EVERYDAY])
    capability_limit: int | None = None
    capability_multipliers: list[float] = field(default_factory=list)
    stages: str = "all"

    def __post_init__(self) -> None:
        for name in ("seeds", "layers", "multipliers", "capability_multipliers", "tasks"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InputError(f"{name} holds {values}; give each of them once")
        if not self.seeds:
            raise InputError("give at least one of the seeds")
        for name in ("multipliers", "capability_multipliers"):
            if any(not value > 0 for value in getattr(self, name)):
                raise InputError(f"{name} must be above 0: the direction is what changes the sign")
        for name in ("new_tokens", "capability_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Plan:
    """The settings of a run: the preset with the user's choices.

    Attributes:
        layer: of the methods that act at one; None if every piece has its own.
        multipliers: strengths by method.
        rule: of the methods that clamp.
        capability_multipliers: those at which capabilities are scored, by method.
        framing: of the capability questions.
    """

    subject: Subject
    layer: int | None
    configs: Mapping[str, TrainingConfig]
    multipliers: Mapping[str, tuple[float, ...]]
    rule: Rule
    capability_multipliers: Mapping[str, tuple[float, ...]]
    pieces: tuple[Piece, ...]
    answering: Answering
    tasks: tuple[str, ...]
    capability_limit: int | None
    framing: Framing
    engine: EngineOptions


def plan_of(
    preset: Preset, choices: Choices, subject: Subject, engine: EngineOptions, framing: Framing
) -> Plan:
    """The preset with the user's choices.

    With `layers`, a piece is a layer, and only methods that act at one block take part; otherwise
    it is a seed.

    Raises:
        InputError: on methods or changes that cannot be.
    """
    parts = preset.chosen(choices.methods)
    check_changes(choices.changes, [part.config.method for part in parts])
    configs = {part.config.method: with_changes(part.config, choices.changes) for part in parts}
    pieces = [Piece(f"seed-{seed}", {"seed": seed}) for seed in choices.seeds]
    if choices.layers:
        configs = {
            name: config
            for name, config in configs.items()
            if not config.layers and name != "prompt"
        }
        if not configs:
            raise InputError("none of the methods acts at one block; name one that does, as cdas")
        seed = choices.seeds[0]
        pieces = [Piece(f"layer-{n}", {"seed": seed, "layer": n}) for n in choices.layers]
    layer = preset.layer if choices.layer is None else choices.layer
    own = preset.methods
    scored = tuple(choices.capability_multipliers)
    return Plan(
        subject=subject,
        layer=None if choices.layers else layer,
        configs=configs,
        multipliers={name: tuple(choices.multipliers) or own[name].multipliers for name in configs},
        rule=choices.rule or preset.rule,
        capability_multipliers={
            name: scored or (own[name].reported_multiplier,) for name in configs
        },
        pieces=tuple(pieces),
        answering=Answering(
            choices.new_tokens or preset.new_tokens,
            temperature=0.0,
            batch_tokens=choices.generation_batch_tokens,
        ),
        tasks=tuple(choices.tasks),
        capability_limit=choices.capability_limit,
        framing=framing,
        engine=engine,
    )


def sources_of(preset: Preset, plan: Plan) -> list[dict[str, str]]:
    """The settings and the source of each, one row each; marks those that the user has changed."""
    layers = [plan.layer] if plan.layer is not None else [p.inputs["layer"] for p in plan.pieces]
    rows = [_sourced("layer", layers, [preset.layer], preset.layer_source)]
    rows.append(_sourced("rule of clamps", plan.rule, preset.rule, preset.rule_source))
    for name, config in plan.configs.items():
        part = preset.methods[name]
        if isinstance(find_method(name), TrainedMethod):
            rows.append(_sourced(name, _in_words(config), _in_words(part.config), part.source))
        else:
            rows.append({"setting": name, "value": "nothing is trained", "source": part.source})
        used, own = plan.multipliers[name], part.multipliers
        rows.append(_sourced(f"{name} multipliers", used, own, part.factor_source))
    return rows


def _sourced(setting: str, used: Sequence[Any], own: Sequence[Any], source: str) -> dict[str, str]:
    """A setting; a value of the user's own has another source."""
    given = source if list(used) == list(own) else f"changed by hand; {source}"
    if isinstance(used, str):
        return {"setting": setting, "value": used, "source": given}
    value = " ".join(f"{one:.4g}" for one in used)
    return {"setting": setting, "value": value, "source": given}


def _in_words(config: TrainingConfig) -> str:
    layers = f", layers {' '.join(map(str, config.layers))}" if config.layers else ""
    return (
        f"learning rate {config.learning_rate:g}, batch {config.batch_size}, {config.epochs} "
        f"epochs, rank {config.rank}, {config.max_response_tokens} response tokens{layers}"
    )
