"""Several methods on the same rows, in the same engine, under the same measurements."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from concept_das.data.chat_format import ChatFormat
from concept_das.data.quadruples import DIRECTIONS, Direction, Quadruple, data_hash
from concept_das.errors import InputError
from concept_das.evaluation.fluency import distinct_pairs, log_likelihoods
from concept_das.evaluation.intervals import mean_with_interval
from concept_das.experiments.grid import Cell, check_once, run_cells, split_rows
from concept_das.methods import Method, TrainedMethod, find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import fingerprint_of, write_atomically
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering
from concept_das.steering.generation import generate_responses
from concept_das.training.batch_loss import DEFAULT_ENGINE, EngineOptions


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared, and how it is measured.

    Attributes:
        layer: block of the methods that act at one, 0-based.
        seeds: one training each; a method that draws nothing is fitted once, under the first.
        heldout: rows held out per concept, the same for every method and seed.
        rows: training rows per concept, of those not held out; all of them if None.
        multipliers: strengths, without unit.
        unrelated: shipped turns that the side effect is measured on.
        generations: held-out instructions answered at every multiplier; 0 for none.
        new_tokens: length of these answers.
        split_seed: of the choice of the rows.
    """

    layer: int
    seeds: tuple[int, ...] = (42, 43, 44)
    heldout: int = 12
    rows: int | None = None
    multipliers: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    unrelated: int = 8
    generations: int = 4
    new_tokens: int = 32
    split_seed: int = 42

    def __post_init__(self) -> None:
        check_once(self, "seeds", "multipliers")
        if self.rows is not None and self.rows < 1:
            raise InputError(f"rows is {self.rows}; train on at least one")


def compare(
    loaded: LoadedModel,
    chat: ChatFormat,
    concepts: Mapping[int, Sequence[Quadruple]],
    configs: Sequence[TrainingConfig],
    plan: ComparisonPlan,
    out: Path,
    *,
    engine: EngineOptions = DEFAULT_ENGINE,
) -> pd.DataFrame:
    """Train and measure every method on every concept, with every seed.

    What is finished stays in `out` and is not done again: a folder for each concept, method and
    seed with the vector, the measurements (`table.csv`), and the answers (`answers.parquet`).

    Args:
        concepts: rows of each concept, by its number.
        configs: one for each method.

    Returns:
        One row per method, concept, seed and multiplier.

    Raises:
        InputError: before any training, if the rows or the plan cannot be used, or `out` holds
            results of other options.
    """
    splits = {
        number: split_rows(rows, plan.heldout, plan.rows, plan.split_seed)
        for number, rows in concepts.items()
    }
    for config in configs:
        _check_layers(loaded, find_method(config.method), plan.layer, config)
    cells = [
        _cell(loaded, chat, number, kept, held, config, plan, out)
        for number, (kept, held) in splits.items()
        for config in configs
    ]
    generate = partial(_generate, loaded, chat, plan) if plan.generations else None
    table = run_cells(loaded, chat, cells, engine, generate)
    # One block is read as a number and several as text, which wandb takes in no column together.
    return table.assign(layers=table["layers"].astype(str))


def read_answers(out: Path) -> pd.DataFrame:
    """Every answer that a comparison generated: method, concept, direction, instruction, text."""
    found = [
        pd.read_parquet(path) for path in sorted(out.glob("concept-*/*/seed-*/answers.parquet"))
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _cell(
    loaded: LoadedModel,
    chat: ChatFormat,
    concept_id: int,
    kept: Sequence[Quadruple],
    held: Sequence[Quadruple],
    config: TrainingConfig,
    plan: ComparisonPlan,
    out: Path,
) -> Cell:
    """A method on a concept."""
    return Cell(
        name=f"{config.method}, concept {concept_id}",
        parent=out / f"concept-{concept_id}" / config.method,
        concept_id=concept_id,
        config=config,
        layer=plan.layer,
        all_seeds=plan.seeds,
        rows=kept,
        heldout=held,
        multipliers=plan.multipliers,
        unrelated=plan.unrelated,
        signature=_signature(loaded, chat, config, plan, kept, held),
    )


def _check_layers(loaded: LoadedModel, method: Method, layer: int, config: TrainingConfig) -> None:
    if isinstance(method, TrainedMethod):
        method.sites(loaded.model, layer, config)


def _signature(
    loaded: LoadedModel,
    chat: ChatFormat,
    config: TrainingConfig,
    plan: ComparisonPlan,
    kept: Sequence[Quadruple],
    held: Sequence[Quadruple],
) -> str:
    """What must be the same for finished work to be of this comparison."""
    measured = {name: value for name, value in vars(plan).items() if name != "seeds"}
    return fingerprint_of(
        [
            {**vars(config), "seed": None},
            measured,
            data_hash(kept),
            data_hash(held),
            ModelIdentity.of(loaded.model).fingerprint,
            [chat.system, chat.source_token, list(chat.prefix)],
        ]
    )


def _generate(
    loaded: LoadedModel,
    chat: ChatFormat,
    plan: ComparisonPlan,
    cell: Cell,
    vector: Artifact,
    seed: int,
    multipliers: Sequence[float],
) -> pd.DataFrame:
    """Keep a cell's answers in its folder; how fluent they are, one row per multiplier."""
    rows = cell.heldout[: plan.generations]
    answers = _answers(loaded, chat, vector, multipliers, rows, plan)
    answers.insert(0, "method", cell.config.method)
    answers.insert(1, "concept_id", cell.concept_id)
    answers.insert(2, "seed", seed)
    write_atomically(cell.folder(seed) / "answers.parquet", answers.to_parquet(index=False))
    return _fluency(answers)


def _answers(
    loaded: LoadedModel,
    chat: ChatFormat,
    vector: Artifact,
    multipliers: Sequence[float],
    rows: Sequence[Quadruple],
    plan: ComparisonPlan,
) -> pd.DataFrame:
    """Steered greedy answers to held-out instructions, and what the unsteered model makes of them.

    Elicitation steers on the neutral instruction, suppression on the concept prompt.
    """
    asked: list[dict[str, Any]] = [
        {
            "concept": vector.concept,
            "direction": direction,
            "multiplier": multiplier,
            "instruction": row.negative_input if direction == "elicit" else row.positive_input,
        }
        for direction in vector.directions
        for multiplier in multipliers
        for row in rows
    ]
    texts = generate_responses(
        loaded.model,
        chat,
        [chat.prompt(a["instruction"]) for a in asked],
        steering=[Steering(vector, a["direction"], a["multiplier"]) for a in asked],
        max_new_tokens=plan.new_tokens,
    )
    with_text = [i for i, text in enumerate(texts) if chat.text_ids(text)]
    pairs = [(asked[i]["instruction"], texts[i]) for i in with_text]
    likelihood: dict[int, float] = {}
    if pairs:
        values = log_likelihoods(loaded.model, chat, pairs, max_tokens=plan.new_tokens)
        likelihood = dict(zip(with_text, values, strict=True))
    frame = pd.DataFrame(asked)
    frame["text"] = texts
    frame["log_likelihood"] = [likelihood.get(i, float("nan")) for i in range(len(texts))]
    frame["repetition"] = [
        1 - distinct_pairs(chat.text_ids(text)) if i in likelihood else float("nan")
        for i, text in enumerate(texts)
    ]
    return frame


def _fluency(answers: pd.DataFrame) -> pd.DataFrame:
    """Repetition and perplexity by multiplier and direction, with 95% bootstrap intervals.

    Repetition is the share of pairs of neighbouring tokens that occurred before. Perplexity is the
    unsteered model's, of the answer to the instruction that it answers: exp of the mean negative
    log-likelihood per token, averaged over answers before the exponential.
    """

    def records() -> Iterator[dict[str, Any]]:
        for multiplier, group in answers.groupby("multiplier"):
            record: dict[str, Any] = {"multiplier": multiplier}
            for direction in DIRECTIONS:
                own = group[group["direction"] == direction]
                record |= mean_with_interval(f"repetition_{direction}", own["repetition"])
                record |= _perplexity(direction, own["log_likelihood"])
            yield record

    return pd.DataFrame(records())


def _perplexity(direction: Direction, log_likelihood: pd.Series) -> dict[str, float]:
    losses = mean_with_interval(f"perplexity_{direction}", -log_likelihood)
    return {name: math.exp(value) for name, value in losses.items()}


@dataclass(frozen=True)
class SweepPlan:
    """What is tried, and how it is measured.

    Attributes:
        layers: blocks, 0-based; negative ones count from the end.
        ranks: numbers of directions.
        seeds: one training each, of every pair of a layer and a rank.
        heldout: rows held out, the same for all.
        rows: training rows, of those not held out; all of them if None.
        multipliers: strengths, without unit.
        unrelated: shipped turns that the side effect is measured on.
        split_seed: of the choice of the rows.
    """

    layers: tuple[int, ...]
    ranks: tuple[int, ...]
    seeds: tuple[int, ...] = (42,)
    heldout: int = 12
    rows: int | None = None
    multipliers: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    unrelated: int = 8
    split_seed: int = 42

    def __post_init__(self) -> None:
        check_once(self, "layers", "ranks", "seeds", "multipliers")
        if self.rows is not None and self.rows < 1:
            raise InputError(f"rows is {self.rows}; train on at least one")
        if self.heldout < 1:
            raise InputError(f"heldout is {self.heldout}; hold out at least one row to measure on")


def sweep(
    loaded: LoadedModel,
    chat: ChatFormat,
    rows: Sequence[Quadruple],
    config: TrainingConfig,
    plan: SweepPlan,
    out: Path,
    *,
    engine: EngineOptions = DEFAULT_ENGINE,
) -> pd.DataFrame:
    """Train and measure one method at every layer, with every rank and seed.

    What is finished stays in `out` and is not done again, also when layers, ranks or seeds are
    added: layer-L/rank-K/seed-N holds the vector and the measurements (`table.csv`).

    Args:
        rows: of one concept.
        config: of the method; layer, rank and seed are the plan's.

    Returns:
        One row per layer (0-based), rank, seed and multiplier.

    Raises:
        InputError: before any training, if the rows, the recipe or the plan cannot be used, or
            `out` holds results of other options.
    """
    numbers = sorted({row.concept_id for row in rows})
    if len(numbers) > 1:
        raise InputError(f"the rows are of {len(numbers)} concepts; choose one, e.g. {numbers[0]}")
    kept, held = split_rows(rows, plan.heldout, plan.rows, plan.split_seed)
    identity = [
        [data_hash(kept), data_hash(held), ModelIdentity.of(loaded.model).fingerprint],
        [chat.system, chat.source_token, list(chat.prefix)],
        [plan.multipliers, plan.unrelated],
    ]
    cells = [
        Cell(
            name=f"{one.method}, layer {layer}, rank {one.rank}",
            parent=out / f"layer-{layer}" / f"rank-{one.rank}",
            concept_id=numbers[0],
            config=one,
            layer=layer,
            all_seeds=plan.seeds,
            rows=kept,
            heldout=held,
            multipliers=plan.multipliers,
            unrelated=plan.unrelated,
            signature=fingerprint_of([{**vars(one), "seed": None}, layer, *identity]),
        )
        for layer, one in _grid(loaded, config, plan)
    ]
    table = run_cells(loaded, chat, cells, engine).rename(columns={"layers": "layer"})
    first = ["layer", "rank", "seed", "multiplier"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def _grid(
    loaded: LoadedModel, config: TrainingConfig, plan: SweepPlan
) -> list[tuple[int, TrainingConfig]]:
    """Every layer, counted from the first, with the recipe of every rank.

    Raises:
        InputError: if a layer or a rank is not possible, or the method has none.
    """
    method = find_method(config.method)
    if not isinstance(method, TrainedMethod):
        raise InputError(
            f"{method.name} is not trained and has no rank to choose; sweep another method "
            "(`concept-das methods`)"
        )
    if config.patience:
        raise InputError(
            f"patience is {config.patience}, but the held-out rows are for measuring only; sweep "
            "with 0"
        )
    sites = [find_site(loaded.model, layer) for layer in plan.layers]
    layers = [site.layer for site in sites]
    for given, layer in zip(plan.layers, layers, strict=True):
        if layers.count(layer) > 1 and given < 0:
            raise InputError(f"layer {given} is layer {layer}, which is given too; keep one")
    for rank in plan.ranks:
        if rank > sites[0].width:
            raise InputError(f"rank {rank} exceeds the model's width {sites[0].width}")
    grid = [
        (layer, _recipe_at(method, config, layer, rank)) for layer in layers for rank in plan.ranks
    ]
    for layer, one in grid:
        method.sites(loaded.model, layer, one)  # the method's own conditions
    return grid


def _recipe_at(method: Method, config: TrainingConfig, layer: int, rank: int) -> TrainingConfig:
    acts_at_several = bool(method.config().layers)
    return replace(config, rank=rank, layers=(layer,) if acts_at_several else ())
