"""`concept-das train`, `methods` and `demo`."""

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

import concept_das.demo
from concept_das.commands.rows import write_rows
from concept_das.data import read_quadruples, split_quadruples
from concept_das.errors import InputError
from concept_das.methods import METHODS
from concept_das.options import ChatOptions, ModelOptions
from concept_das.pipeline import train_vector
from concept_das.tracking import TrackingMode, open_tracker
from concept_das.training import Engine, TrainingConfig
from concept_das.vectors import write_atomically

log = logging.getLogger(__name__)


def train(
    data: str,
    out: Path,
    layer: int,
    loading: ModelOptions,
    chat: ChatOptions,
    training: TrainingConfig,
    heldout: int = 16,
    concept_id: int | None = None,
    engine: Engine = "auto",
    wandb: TrackingMode = "auto",
) -> None:
    """Train a steering vector and measure its factors.

    Args:
        data: .parquet, .csv, .jsonl or .json file, or hub id of a data set.
        out: folder of the run. An interrupted run goes on when the command is given again.
        layer: decoder block whose output is intervened on, 0-based; negative counts from the end.
        heldout: number of rows held out, chosen by the seed; they are kept in the run's folder.
        concept_id: use only this concept's rows.
        engine: auto (replay cached hidden states where the model allows it) or pyvene (run the
            whole model every step); same result.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """
    rows = read_quadruples(data, concept_id=concept_id)
    concepts = sorted({row.concept_id for row in rows})
    if len(concepts) > 1:
        raise InputError(f"{data} holds concepts {concepts}; choose one with --concept_id")
    kept, held = split_quadruples(rows, heldout, training.seed)
    loaded = loading.load()
    chat_format = chat.of(loaded)
    write_rows(out / "train.parquet", kept)
    if held:
        write_rows(out / "heldout.parquet", held)
    tracker = open_tracker(
        wandb,
        name=out.name,
        config={
            "data": data,
            "layer": layer,
            **asdict(loading),
            **asdict(chat),
            **asdict(training),
        },
        folder=out,
    )
    try:
        trained = train_vector(
            loaded,
            chat_format,
            kept,
            held,
            layer,
            training,
            tracker=tracker,
            checkpoint=out / "progress",
            engine=engine,
        )
    finally:
        tracker.finish()
    trained.vector.save(out / "vector")
    history = "\n".join(json.dumps(record) for record in trained.training.history)
    write_atomically(out / "history.jsonl", f"{history}\n".encode())
    log.info("vector saved in %s; now: concept-das evaluate --vector %s", *[out / "vector"] * 2)


def methods() -> None:
    """List the methods that can be trained."""
    for method in METHODS.values():
        print(f"{method.name:<20} {method.summary}")


def demo(
    out: Path,
    loading: ModelOptions,
    concept: str = "Talk like a pirate",
    layer: int = 15,
    wandb: TrackingMode = "off",
) -> None:
    """Make data, train, evaluate and write a report, end to end.

    Args:
        out: folder of the run; report.html and metrics.json are written there.
        concept: the concept as an imperative in plain words.
        layer: decoder block to steer at, 0-based.
        wandb: auto, online, offline or off.
    """
    start = time.monotonic()
    loaded = loading.load()
    report = concept_das.demo.run(loaded, out, concept=concept, layer=layer, wandb=wandb)
    log.info("%.0f seconds; open %s", time.monotonic() - start, report.resolve())
