"""Several methods on the same rows, in the same engine, under the same measurements."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from concept_das.artifacts import Artifact, ModelIdentity
from concept_das.chats import ChatFormat
from concept_das.data import DIRECTIONS, Direction, Quadruple, data_hash, split_quadruples
from concept_das.errors import InputError
from concept_das.evaluation import evaluate, mean_with_interval, unrelated_turns
from concept_das.files import write_atomically
from concept_das.fluency import distinct_pairs, log_likelihoods
from concept_das.generation import generate_responses
from concept_das.losses import DEFAULT_ENGINE, EngineOptions
from concept_das.methods import Method, TrainedMethod, find_method
from concept_das.models import LoadedModel
from concept_das.pipeline import ConceptRows, encode_for, train_vectors, with_metrics
from concept_das.recipe import TrainingConfig
from concept_das.steering import Steering

log = logging.getLogger(__name__)


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
        for name in ("seeds", "multipliers"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"give at least one of the {name}, and each of them once")
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
    splits = {number: _split(rows, plan) for number, rows in concepts.items()}
    for config in configs:
        _check_layers(loaded, find_method(config.method), plan.layer, config)
    cells = [
        _Cell(out, number, config, plan, _signature(loaded, config, plan, *splits[number]))
        for number in splits
        for config in configs
    ]
    for cell in cells:
        cell.finished()  # refuses results of other options
    for cell in cells:
        missing = [seed for seed in cell.seeds if seed not in cell.finished()]
        if missing:
            log.info("%s, concept %d, seeds %s", cell.config.method, cell.concept_id, missing)
            _run(loaded, chat, cell, missing, *splits[cell.concept_id], engine)
    return pd.concat(
        [table for cell in cells for table in cell.finished().values()], ignore_index=True
    )


def read_answers(out: Path) -> pd.DataFrame:
    """Every answer that a comparison generated: method, concept, direction, instruction, text."""
    found = [
        pd.read_parquet(path) for path in sorted(out.glob("concept-*/*/seed-*/answers.parquet"))
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


@dataclass(frozen=True)
class _Cell:
    """A method on a concept."""

    out: Path
    concept_id: int
    config: TrainingConfig
    plan: ComparisonPlan
    signature: str

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.plan.seeds if find_method(self.config.method).draws else self.plan.seeds[:1]

    def folder(self, seed: int) -> Path:
        return self.out / f"concept-{self.concept_id}" / self.config.method / f"seed-{seed}"

    def finished(self) -> dict[int, pd.DataFrame]:
        """The measurements of every finished seed."""
        tables = {}
        for seed in self.seeds:
            path = self.folder(seed) / "done.json"
            if not path.exists():
                continue
            if json.loads(path.read_text())["signature"] != self.signature:
                raise InputError(
                    f"{self.folder(seed)} holds results of other data or options; delete it or "
                    "choose another folder"
                )
            tables[seed] = pd.read_csv(self.folder(seed) / "table.csv")
        return tables


def _split(
    rows: Sequence[Quadruple], plan: ComparisonPlan
) -> tuple[list[Quadruple], list[Quadruple]]:
    """Training rows and held-out rows."""
    kept, held = split_quadruples(rows, plan.heldout, plan.split_seed)
    if plan.rows is not None and plan.rows < len(kept):
        _, kept = split_quadruples(kept, plan.rows, plan.split_seed)
    return kept, held


def _check_layers(loaded: LoadedModel, method: Method, layer: int, config: TrainingConfig) -> None:
    if isinstance(method, TrainedMethod):
        method.sites(loaded.model, layer, config)


def _signature(
    loaded: LoadedModel,
    config: TrainingConfig,
    plan: ComparisonPlan,
    kept: Sequence[Quadruple],
    held: Sequence[Quadruple],
) -> str:
    """What must be the same for finished work to be of this comparison."""
    measured = {name: value for name, value in vars(plan).items() if name != "seeds"}
    parts = [
        {**vars(config), "seed": None},
        measured,
        data_hash(kept),
        data_hash(held),
        ModelIdentity.of(loaded.model).fingerprint,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _run(
    loaded: LoadedModel,
    chat: ChatFormat,
    cell: _Cell,
    seeds: Sequence[int],
    kept: list[Quadruple],
    held: list[Quadruple],
    engine: EngineOptions,
) -> None:
    """Train the seeds of a cell together, then measure each."""
    start = time.monotonic()
    trained = train_vectors(
        loaded,
        chat,
        [ConceptRows(kept, (), cell.folder(seed) / "progress", seed=seed) for seed in seeds],
        cell.plan.layer,
        cell.config,
        engine=engine,
    )
    seconds = (time.monotonic() - start) / len(seeds)
    for seed, one in zip(seeds, trained, strict=True):
        folder = cell.folder(seed)
        table = _measure(loaded, chat, one.vector, cell, seed, held)
        first: dict[str, Any] = {
            "method": cell.config.method,
            "concept_id": cell.concept_id,
            "concept": one.vector.concept,
            "seed": seed,
            "rank": one.vector.rank,
            "layers": " ".join(map(str, one.vector.layers)),
            "parameters": one.vector.parameters,
        }
        for position, (name, value) in enumerate(first.items()):
            table.insert(position, name, value)
        table["seconds"] = round(seconds, 2)
        at_1 = table[table["multiplier"] == 1.0]
        measured = {} if at_1.empty else at_1.iloc[0, len(first) :].to_dict()
        metrics = {str(name): float(value) for name, value in measured.items()}
        with_metrics(one.vector, metrics).save(folder / "vector")
        write_atomically(folder / "table.csv", table.to_csv(index=False).encode())
        done = json.dumps({"signature": cell.signature})
        write_atomically(folder / "done.json", done.encode())
        (folder / "evaluation.partial.json").unlink(missing_ok=True)


def _measure(
    loaded: LoadedModel,
    chat: ChatFormat,
    vector: Artifact,
    cell: _Cell,
    seed: int,
    held: list[Quadruple],
) -> pd.DataFrame:
    """One row per multiplier."""
    plan, folder = cell.plan, cell.folder(seed)
    multipliers = (1.0,) if vector.is_text else plan.multipliers
    result = evaluate(
        loaded.model,
        chat,
        vector,
        encode_for(loaded, chat, held, cell.config),
        multipliers=multipliers,
        unrelated=unrelated_turns(chat, plan.unrelated),
        partial=folder / "evaluation.partial.json",
    )
    if not plan.generations:
        return result.table
    answers = _answers(loaded, chat, vector, multipliers, held[: plan.generations], plan)
    answers.insert(0, "method", cell.config.method)
    answers.insert(1, "concept_id", cell.concept_id)
    answers.insert(2, "seed", seed)
    write_atomically(folder / "answers.parquet", answers.to_parquet(index=False))
    return result.table.merge(_fluency(answers), on="multiplier")


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
