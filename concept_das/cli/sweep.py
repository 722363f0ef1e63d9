"""`concept-das sweep`."""

import logging
from dataclasses import asdict
from pathlib import Path

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.methods.settings import TrainingConfig
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import TrackingMode, check_tracking, open_tracker

log = logging.getLogger(__name__)


def sweep(
    data: str,
    out: Path,
    layers: list[int],
    ranks: list[int],
    loading: ModelOptions,
    chat: ChatOptions,
    training: TrainingConfig,
    engine: EngineOptions,
    seeds: list[int] = [42],  # noqa: B006 (shown in the help)
    heldout: int = 12,
    rows: int | None = None,
    multipliers: list[float] = [0.5, 1.0, 1.5, 2.0],  # noqa: B006
    unrelated: int = 8,
    concept_id: int | None = None,
    wandb: TrackingMode = "auto",
) -> None:
    """Train a method at every layer with every rank, and measure each, to choose one.

    Args:
        data: file (.parquet, .csv, .tsv, .jsonl, .json, .feather, also .gz), folder or pattern of
            files, or hub id of a data set.
        out: folder of the sweep: table.csv, summary.md, heatmap.png, and every vector. What is
            finished there is not done again, also when layers, ranks or seeds are added.
        layers: decoder blocks to steer at, 0-based; negative ones count from the end.
        ranks: numbers of directions.
        seeds: one training each, of every layer and rank.
        heldout: rows held out, the same for all.
        rows: training rows; all that are not held out if not given.
        multipliers: strengths to measure at, without unit.
        unrelated: shipped texts that the side effect is measured on.
        concept_id: use only this concept's rows.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """
    from concept_das import read_quadruples
    from concept_das.experiments.sweep import SweepPlan
    from concept_das.experiments.sweep import sweep as sweep_cells
    from concept_das.reports.results import write_sweep

    plan = SweepPlan(
        layers=tuple(layers),
        ranks=tuple(ranks),
        seeds=tuple(seeds),
        heldout=heldout,
        rows=rows,
        multipliers=tuple(multipliers),
        unrelated=unrelated,
    )
    quadruples = read_quadruples(data, concept_id=concept_id)
    check_tracking(wandb)
    loaded = loading.load()
    options = {"data": data, **asdict(loading), **asdict(chat), **asdict(training), **asdict(plan)}
    tracker = open_tracker(wandb, name=out.name, config=options, folder=out)
    try:
        table = sweep_cells(loaded, chat.of(loaded), quadruples, training, plan, out, engine=engine)
        tracker.table("sweep", list(table.columns), table.to_numpy().tolist())
    finally:
        tracker.finish()
    summary = write_sweep(out, table, f"{training.method} on {loaded.name}")
    log.info("%s", summary.read_text(encoding="utf-8"))
    log.info("heat map: %s", (out / "heatmap.png").resolve())
