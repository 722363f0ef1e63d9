"""Train and measure a grid of vectors, each in its own folder, so that finished work is kept."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from concept_das.data.chat_format import ChatFormat
from concept_das.data.files import write_table
from concept_das.data.quadruples import Quadruple, choose_quadruples, split_quadruples
from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate, unrelated_turns
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import write_atomically
from concept_das.steering.artifact import Artifact
from concept_das.training.concept import ConceptRows
from concept_das.training.options import EngineOptions
from concept_das.training.vectors import train_vectors
from concept_das.words import DIRECTIONS

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """The trainings of a grid's cells, and how they are measured.

    Attributes:
        seeds: one training each; a method that draws nothing is fitted once, with the first seed.
        heldout: rows held out per concept, the same for every cell.
        rows: training rows per concept, of those not held out; all of them if None.
        multipliers: strengths to measure at, without unit.
        unrelated: number of shipped turns that the side effect is measured on.
        split_seed: of the choice of the rows.

    Raises:
        InputError: if a list is empty or names something twice, or `rows` is below 1.
    """

    seeds: tuple[int, ...] = (42, 43, 44)
    heldout: int = 12
    rows: int | None = None
    multipliers: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    unrelated: int = 8
    split_seed: int = 42

    def __post_init__(self) -> None:
        self.check_lists("seeds", "multipliers")
        if self.rows is not None and self.rows < 1:
            raise InputError(f"rows is {self.rows}; train on at least one")

    def check_lists(self, *names: str) -> None:
        """Raise an InputError if a list is empty or holds a value twice."""
        for name in names:
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(f"give at least one of the {name}, and each of them once")

    def split(self, rows: Sequence[Quadruple]) -> tuple[list[Quadruple], list[Quadruple]]:
        """Choose the training rows and the held-out rows of a concept.

        Raises:
            InputError: if no training row would be left.
        """
        kept, held = split_quadruples(rows, self.heldout, self.split_seed)
        if self.rows is not None and self.rows < len(kept):
            kept = choose_quadruples(kept, self.rows, self.split_seed)
        return kept, held


@dataclass(frozen=True)
class Cell:
    """One method on one concept, at one or several blocks, with some seeds.

    Attributes:
        name: for messages.
        parent: holds a folder for each seed, seed-N.
        concept_id: number of the concept.
        label: the method's name in the tables; another where a method is there in several forms.
        layers: the blocks to act at, 0-based.
        rows, heldout: quadruples to train on, and to measure on.
        response_tokens: held-out responses are cut to this many tokens when they are scored.
        signature: fingerprint of all that finished work depends on.
    """

    name: str
    parent: Path
    concept_id: int
    label: str
    config: TrainingConfig
    layers: tuple[int, ...]
    rows: Sequence[Quadruple]
    heldout: Sequence[Quadruple]
    response_tokens: int
    plan: GridPlan
    signature: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are trained."""
        seeds = self.plan.seeds
        return seeds if find_method(self.config.method).draws else seeds[:1]

    def folder(self, seed: int) -> Path:
        """The folder of a seed's vector and measurements."""
        return self.parent / f"seed-{seed}"

    def finished(self) -> dict[int, pd.DataFrame]:
        """The measurements of every finished seed.

        Raises:
            InputError: if a folder holds results of other data or options.
        """
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
            # A single block would be read as a number, beside methods without any as 1.0.
            tables[seed] = pd.read_csv(self.folder(seed) / "table.csv", dtype={"layers": str})
        return tables


# From cell, vector, seed and multipliers to more measurements, one row per multiplier.
Measurement = Callable[[Cell, Artifact, int, Sequence[float]], pd.DataFrame]


def run_cells(
    loaded: LoadedModel,
    chat: ChatFormat,
    cells: Sequence[Cell],
    engine: EngineOptions,
    measurement: Measurement | None = None,
) -> pd.DataFrame:
    """Train and measure every seed of every cell that is not finished.

    A finished folder holds the vector, its measurements (`table.csv`) and the cell's signature
    (`done.json`). Interrupted training and evaluation continue where they stopped.

    Args:
        measurement: measures more than recovery, divergence and side effect.

    Returns:
        One row per cell, seed and multiplier.

    Raises:
        InputError: before any training, if a folder holds results of other data or options.
    """
    for cell in cells:
        cell.finished()
    for cell in cells:
        finished = cell.finished()
        missing = [seed for seed in cell.seeds if seed not in finished]
        if missing:
            log.info("%s, seeds %s", cell.name, missing)
            _run(loaded, chat, cell, missing, engine, measurement)
    return pd.concat(
        [table for cell in cells for table in cell.finished().values()], ignore_index=True
    )


def _run(
    loaded: LoadedModel,
    chat: ChatFormat,
    cell: Cell,
    seeds: Sequence[int],
    engine: EngineOptions,
    measurement: Measurement | None,
) -> None:
    """Train the seeds of a cell together, then measure each."""
    trained = train_vectors(
        loaded,
        chat,
        [ConceptRows(cell.rows, (), cell.folder(seed) / "progress", seed=seed) for seed in seeds],
        cell.layers,
        cell.config,
        engine=engine,
    )
    for seed, one in zip(seeds, trained, strict=True):
        folder = cell.folder(seed)
        table = _measure(loaded, chat, one.vector, cell, seed, measurement)
        first: dict[str, Any] = {
            "method": cell.label,
            "concept_id": cell.concept_id,
            "concept": one.vector.concept,
            "seed": seed,
            "rank": one.vector.rank,
            "layers": " ".join(map(str, one.vector.layers)),
            "parameters": one.vector.parameters,
        }
        for position, (name, value) in enumerate(first.items()):
            table.insert(position, name, value)
        table["seconds"] = round(one.seconds, 2)
        at_1 = table[table["multiplier"] == 1.0]
        measured = {} if at_1.empty else at_1.iloc[0, len(first) :].to_dict()
        metrics = {str(name): float(value) for name, value in measured.items()}
        replace(one.vector, metrics=metrics).save(folder / "vector")
        write_table(folder / "table.csv", table)
        done = json.dumps({"signature": cell.signature})
        write_atomically(folder / "done.json", done.encode())
        (folder / "evaluation.partial.json").unlink(missing_ok=True)


def _measure(
    loaded: LoadedModel,
    chat: ChatFormat,
    vector: Artifact,
    cell: Cell,
    seed: int,
    measurement: Measurement | None,
) -> pd.DataFrame:
    """One row per multiplier."""
    multipliers = (1.0,) if vector.is_text else cell.plan.multipliers
    evaluation = evaluate(
        loaded.model,
        chat,
        vector,
        loaded.encode(chat, cell.heldout, cell.response_tokens),
        multipliers=multipliers,
        unrelated=unrelated_turns(chat, cell.plan.unrelated),
        partial=cell.folder(seed) / "evaluation.partial.json",
    )
    table = evaluation.table
    for direction in DIRECTIONS:
        for name, value in evaluation.fair(direction).items():
            table[f"{name}_fair"] = value
    if measurement is None:
        return table
    return table.merge(measurement(cell, vector, seed, multipliers), on="multiplier")
