"""Train one method at several layers with several ranks, to choose among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from concept_das.data.chat_format import ChatFormat
from concept_das.data.quadruples import Quadruple, data_hash
from concept_das.errors import InputError
from concept_das.experiments.grid import Cell, GridPlan, run_cells
from concept_das.methods import TrainedMethod
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import fingerprint_of
from concept_das.training.options import DEFAULT_ENGINE, EngineOptions
from concept_das.training.vectors import place


@dataclass(frozen=True, kw_only=True)
class SweepPlan(GridPlan):
    """The layers and ranks to try, and how each is measured.

    Attributes:
        layers: blocks, 0-based; negative ones count from the end.
        ranks: numbers of directions.
        seeds: one training each, of every pair of a layer and a rank.
    """

    layers: tuple[int, ...]
    ranks: tuple[int, ...]
    seeds: tuple[int, ...] = (42,)

    def __post_init__(self) -> None:
        self.check_lists("layers", "ranks")
        super().__post_init__()
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

    Finished work stays in `out` and is not done again, even if layers, ranks or seeds are added:
    layer-L/rank-K/seed-N holds the vector and the measurements (`table.csv`).

    Args:
        rows: of one concept.
        config: hyper-parameters of the method; layer, rank and seed come from the plan.

    Returns:
        One row per layer (0-based), rank, seed and multiplier.

    Raises:
        InputError: before any training, if the rows, the recipe or the plan cannot be used, or
            `out` holds results of other options.
    """
    numbers = sorted({row.concept_id for row in rows})
    if len(numbers) > 1:
        raise InputError(f"the rows are of {len(numbers)} concepts; choose one, e.g. {numbers[0]}")
    kept, held = plan.split(rows)
    identity = [
        [data_hash(kept), data_hash(held), ModelIdentity.of(loaded.model).fingerprint],
        [chat.system, chat.source_token, list(chat.prefix), *chat.template.given.items()],
        [plan.multipliers, plan.unrelated],
    ]
    cells = [
        Cell(
            name=f"{one.method}, layer {layers[0]}, rank {one.rank}",
            parent=out / f"layer-{layers[0]}" / f"rank-{one.rank}",
            concept_id=numbers[0],
            label=one.method,
            config=one,
            layers=layers,
            rows=kept,
            heldout=held,
            response_tokens=one.max_response_tokens,
            plan=plan,
            signature=fingerprint_of([{**one.record(), "seed": None}, layers[0], *identity]),
        )
        for layers, one in _grid(loaded, config, plan)
    ]
    table = run_cells(loaded, chat, cells, engine).astype({"layers": int})
    table = table.rename(columns={"layers": "layer"})
    first = ["layer", "rank", "seed", "multiplier"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def _grid(
    loaded: LoadedModel, config: TrainingConfig, plan: SweepPlan
) -> list[tuple[tuple[int, ...], TrainingConfig]]:
    """Pairs of a block, in a tuple, and the recipe for it with a rank.

    Raises:
        InputError: if the model or the method cannot have such a layer or rank.
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
        place(loaded.model, [layer], replace(config, rank=rank, layers=()))
        for layer in layers
        for rank in plan.ranks
    ]
    for blocks, one in grid:
        if len(method.sites(loaded.model, blocks, one)) > 1:  # it has its own conditions too
            raise InputError(f"{method.name} acts at every block; sweep a method that has a layer")
    return grid
