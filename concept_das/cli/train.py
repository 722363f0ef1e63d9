"""`concept-das train`."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.methods.settings import TrainingConfig
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import (
    PrefixedTracker,
    TrackingMode,
    check_tracking,
    open_tracker,
)

if TYPE_CHECKING:
    from concept_das.data.quadruples import Quadruple
    from concept_das.steering.artifact import Artifact
    from concept_das.training.vectors import TrainedVector

# In a vector's recipe: the hash of the rows that were held out beside it.
HELDOUT_HASH = "heldout_hash"

log = logging.getLogger(__name__)


def train(
    data: str,
    out: Path,
    loading: ModelOptions,
    chat: ChatOptions,
    training: TrainingConfig,
    engine: EngineOptions,
    layer: int | None = None,
    heldout: int = 16,
    concept_id: int | None = None,
    wandb: TrackingMode = "auto",
) -> None:
    """Train a steering vector, or one per concept of the data, and measure the factors.

    Args:
        data: file (.parquet, .csv, .tsv, .jsonl, .json, .feather, also .gz), folder or pattern of
            files, or hub id of a data set.
        out: folder of the run. An interrupted run goes on when the command is given again. Where
            the data hold several concepts, each gets a folder inside, concept-ID.
        layer: decoder block whose output is intervened on, 0-based; negative counts from the end.
            For several blocks give --layers.
        heldout: number of rows held out per concept, chosen by the seed; they are kept in the run's
            folder.
        concept_id: use only this concept's rows.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """
    from concept_das import (
        ConceptRows,
        find_method,
        read_quadruples,
        split_quadruples,
        train_vectors,
    )
    from concept_das.data.files import by_concept

    if layer is None and not training.layers:
        raise InputError("no block is named to act at; give --layer, or several as --layers")
    find_method(training.method).check_installed()
    rows = read_quadruples(data, concept_id=concept_id)
    concepts_rows = by_concept(rows)
    several = len(concepts_rows) > 1
    folders = {number: out / f"concept-{number}" if several else out for number in concepts_rows}
    splits = {
        number: split_quadruples(of_concept, heldout, training.seed)
        for number, of_concept in concepts_rows.items()
    }
    check_tracking(wandb)
    loaded = loading.load()
    chat_format = chat.of(loaded)
    options = {"data": data, "layer": layer, **asdict(loading), **asdict(chat), **asdict(training)}
    run = open_tracker(wandb, name=out.name, config=options, folder=out)
    concepts = []
    for number, (kept, held) in splits.items():
        folder = folders[number]
        tracker = PrefixedTracker(run, folder.name) if several else run
        concepts.append(ConceptRows(kept, held, folder / "progress", tracker))
    try:
        trained = train_vectors(loaded, chat_format, concepts, layer, training, engine=engine)
    finally:
        run.finish()
    for number, one in zip(splits, trained, strict=True):
        _write(folders[number], *splits[number], one)
    log.info("now: concept-das evaluate --vector %s", next(iter(folders.values())) / "vector")


def _write(
    folder: Path, kept: "list[Quadruple]", held: "list[Quadruple]", trained: "TrainedVector"
) -> None:
    """Write what a concept's training left, all at the end: a refused run changes no file.

    The vector knows its held-out rows, so that it is measured on these and no others.
    """
    from concept_das.data.files import write_rows
    from concept_das.data.quadruples import data_hash
    from concept_das.runs.files import write_atomically
    from concept_das.steering.artifact import COMING_FILE
    from concept_das.steering.hub import DESCRIPTION_FILE

    vector = trained.vector
    if held:
        vector = replace(vector, recipe={**vector.recipe, HELDOUT_HASH: data_hash(held)})
    outdated = [] if held else ["heldout.parquet"]
    saved = _is_saved(vector, folder / "vector")
    if saved:
        log.info("%s holds this vector already", folder)
    else:  # what was measured is of another one
        outdated += ["evaluation.csv", "rows.parquet"]
        outdated += [f"vector/{name}" for name in (DESCRIPTION_FILE, COMING_FILE)]
    for name in outdated:
        (folder / name).unlink(missing_ok=True)
    if held:
        write_rows(folder / "heldout.parquet", held)
    write_rows(folder / "train.parquet", kept)
    history = "\n".join(json.dumps(record) for record in trained.history)
    write_atomically(folder / "history.jsonl", f"{history}\n".encode())
    if not saved:
        vector.save(folder / "vector")
    log.info("vector saved in %s", folder / "vector")


def _is_saved(vector: "Artifact", folder: Path) -> bool:
    """True if a folder holds the same vector, measured since or not."""
    import torch

    from concept_das import load_vector

    try:
        saved = load_vector(folder)
    except InputError:  # not there, damaged, or of a method that is not there any more
        return False
    descriptions = [json.dumps(replace(one, metrics={}).describe()) for one in (vector, saved)]
    tensors, others = vector.tensors(), saved.tensors()
    return descriptions[0] == descriptions[1] and all(
        torch.equal(value.detach().float().cpu(), others[name]) for name, value in tensors.items()
    )
