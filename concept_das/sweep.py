"""One method at every pair of a layer and a rank, on the same rows, so that one can be chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from concept_das.cells import Cell, check_once, run_cells, signature_of, split_rows
from concept_das.data.chat_format import ChatFormat
from concept_das.data.quadruples import Quadruple, data_hash
from concept_das.errors import InputError
from concept_das.methods import Method, TrainedMethod, find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.training.batch_loss import DEFAULT_ENGINE, EngineOptions


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
            signature=signature_of([{**vars(one), "seed": None}, layer, *identity]),
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
