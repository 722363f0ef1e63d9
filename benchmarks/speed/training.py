"""Seconds to the same held-out loss: the engine beside the release's loop and pyreft's trainer.

CDAS by the authors' loop, by the engine at the same block, and by the engine across blocks; LoReFT
by pyreft's own trainer and by the engine. All see the same rows in batches of the same size. The
held-out loss is measured after every epoch, where the clock of the peers stands still; the engine's
goes on.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyvene as pv
import torch
from datasets import Dataset
from matplotlib.figure import Figure

from benchmarks.speed.release_loop import release_loss
from concept_das.data.encoding import EncodedQuadruple
from concept_das.methods.registry import trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site, spread_blocks
from concept_das.models.loading import LoadedModel
from concept_das.reports.figures import figure_png
from concept_das.runs.files import write_atomically
from concept_das.training.concept import ConceptRun, TrainingTask
from concept_das.training.loop import all_runs, build_losses, heldout_loss, train_directions
from concept_das.words import DIRECTIONS

ENDS = 5
"""LoReFT edits so many tokens at either end of the prompt."""

Note = Callable[[float, float], None]
"""Takes seconds of training so far, and the held-out loss."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """All that a way of training is given, the same for each."""

    loaded: LoadedModel
    layers: Sequence[int]
    rows: Sequence[EncodedQuadruple]
    heldout: Sequence[EncodedQuadruple]
    config: TrainingConfig


class Clock:
    """Seconds of work; of the processor where the model is on one, whatever else runs there."""

    def __init__(self, device: torch.device) -> None:
        self.now = time.process_time if device.type == "cpu" else time.perf_counter
        self.start = self.now()
        self.away = 0.0

    @property
    def seconds(self) -> float:
        """Without the pauses."""
        return self.now() - self.start - self.away

    def paused(self, call: Callable[[], float]) -> float:
        """Call, with the clock standing still."""
        since = self.now()
        value = call()
        self.away += self.now() - since
        return value


def by_engine(work: Work, note: Note) -> None:
    """This project's training, from the first cached state on."""
    loaded, config = work.loaded, work.config
    clock = Clock(loaded.device)

    def on_epoch(record: Mapping[str, float]) -> None:
        note(clock.seconds, record["heldout_loss"])

    task = TrainingTask(work.rows, work.heldout, on_epoch=on_epoch)
    sites = trained_method(config.method).sites(loaded.model, work.layers, config)
    train_directions(loaded.model, sites, [task], config)


def by_release(work: Work, note: Note) -> None:
    """The authors' passes with the same optimizer and order of rows, at one block."""
    model, config = work.loaded.model, work.config
    site = find_site(model, work.layers[0])
    model.requires_grad_(False)
    run = ConceptRun(TrainingTask(work.rows, work.heldout), config, model, [site])
    losses = build_losses(model, [site], [run.interventions], config.method, all_runs([run]))
    intervention = run.interventions[0]["interchange"]
    intervenable = pv.IntervenableModel(
        {"component": site.component, "intervention": intervention}, model
    )
    intervention.requires_grad_(True)

    def measured() -> float:
        return sum(heldout_loss(losses, run.heldout_terms(), 2048).values())

    clock = Clock(work.loaded.device)
    while not run.finished:
        chosen = dict.fromkeys(term.row for term in run.terms())
        values = {}
        for direction in DIRECTIONS:
            pairs = [getattr(work.rows[i], direction) for i in chosen]
            loss = release_loss(model, intervenable, pairs)
            loss.backward()
            values[direction] = float(loss.detach())
        run.step(values)
        if run.at_epoch_end:
            run.end_epoch(None)
            note(clock.seconds, clock.paused(measured))


def by_pyreft(work: Work, note: Note) -> None:
    """pyreft's trainer; it needs the transformers that pyreft pins."""
    import pyreft
    import transformers

    loaded, layers, config = work.loaded, work.layers, work.config
    width = loaded.model.config.hidden_size
    torch.manual_seed(config.seed)
    loaded.model.requires_grad_(False)
    reft = pyreft.get_reft_model(
        loaded.model,
        pyreft.ReftConfig(
            representations=[
                {
                    "layer": layer,
                    "component": "block_output",
                    "low_rank_dimension": config.rank,
                    "intervention": pyreft.LoreftIntervention(
                        embed_dim=width, low_rank_dimension=config.rank, dtype=torch.float32
                    ),
                }
                for layer in layers
            ]
        ),
    )
    collate = pyreft.ReftDataCollator(
        transformers.DataCollatorForSeq2Seq(loaded.tokenizer, padding="longest")
    )
    clock = Clock(loaded.device)

    class Noting(transformers.TrainerCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            note(clock.seconds, clock.paused(measured))

    with tempfile.TemporaryDirectory() as scratch:
        trainer = pyreft.ReftTrainerForCausalLM(
            model=reft,
            tokenizer=loaded.tokenizer,
            train_dataset=Dataset.from_list([_example(row, len(layers)) for row in work.rows]),
            data_collator=collate,
            callbacks=[Noting()],
            args=transformers.TrainingArguments(
                scratch,
                num_train_epochs=config.epochs,
                per_device_train_batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                max_grad_norm=config.gradient_clip,
                lr_scheduler_type="linear",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                remove_unused_columns=False,
                use_cpu=loaded.device.type == "cpu",
                seed=config.seed,
            ),
        )
        held = collate([_example(row, len(layers)) for row in work.heldout])

        @torch.no_grad()
        def measured() -> float:
            return float(
                trainer.compute_loss(reft, {k: v.to(loaded.device) for k, v in held.items()})
            )

        trainer.train()


def _example(row: EncodedQuadruple, blocks: int) -> dict[str, Any]:
    """A row as pyreft's trainer takes it, with the tokens that this project's LoReFT edits."""
    turn = row.elicit.base
    prompt, ids = turn.prompt, [*turn.ids]
    first, stop = prompt.prefix_length, len(prompt.ids)
    places = [*range(first, min(first + ENDS, stop)), *range(max(first, stop - ENDS), stop)]
    places += [places[-1]] * (2 * ENDS - len(places))
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [-100] * stop + ids[stop:],
        "intervention_locations": [places] * blocks,
    }


def compare_training(
    loaded: LoadedModel,
    layer: int,
    rows: Sequence[EncodedQuadruple],
    heldout: Sequence[EncodedQuadruple],
    *,
    epochs: int = 6,
) -> pd.DataFrame:
    """One row for each way and epoch: `method, way, epoch, seconds, heldout_loss`.

    A way that cannot run with the installed packages is left out, with a warning.
    """
    cdas = TrainingConfig(epochs=epochs, batch_size=8, learning_rate=0.02, reduction="token")
    loreft = replace(cdas, method="loreft", rank=4, learning_rate=0.004)
    one = Work(loaded, (layer,), rows, heldout, cdas)
    count = find_site(loaded.model, 0).n_layers
    spread = replace(one, layers=spread_blocks(count))
    sixths = sorted({i * count // 6 for i in range(1, 5)})
    several = Work(loaded, sixths, rows, heldout, loreft)
    ways: dict[tuple[str, str], tuple[Callable[[Work, Note], None], Work]] = {
        ("cdas", "release's loop, one block"): (by_release, one),
        ("cdas", "engine, one block"): (by_engine, one),
        ("cdas", "engine, spread"): (by_engine, spread),
        ("loreft", "pyreft's trainer"): (by_pyreft, several),
        ("loreft", "engine"): (by_engine, several),
    }
    found: list[dict[str, Any]] = []
    for (method, way), (run, work) in ways.items():
        curve: list[dict[str, Any]] = []

        def note(seconds: float, loss: float, curve: list[Any] = curve, way: str = way) -> None:
            epoch = {"epoch": len(curve) + 1, "seconds": seconds, "heldout_loss": loss}
            curve.append(epoch)
            log.info("%s: %s", way, epoch)

        try:
            run(work, note)
        except (ImportError, TypeError) as error:
            log.warning("%s is left out: %s", way, error)
            continue
        found += [{"method": method, "way": way, **epoch} for epoch in curve]
    return pd.DataFrame(found)


def to_equal_loss(frame: pd.DataFrame) -> pd.DataFrame:
    """The first epoch of each way at which the loss is one that all ways of the method reach.

    Returns:
        `method, way, epoch, seconds, heldout_loss, target`.
    """
    rows = []
    for _, of_method in frame.groupby("method", sort=False):
        target = of_method.groupby("way")["heldout_loss"].min().max()
        for _, curve in of_method.groupby("way", sort=False):
            first = curve[curve["heldout_loss"] <= target].iloc[0]
            rows.append({**first.to_dict(), "target": target})
    return pd.DataFrame(rows)


def plot_training(frame: pd.DataFrame, path: Path) -> None:
    """Held-out loss against seconds."""
    methods = list(frame["method"].unique())
    figure = Figure(figsize=(5.2 * len(methods), 3.6), layout="tight", dpi=130)
    axes = figure.subplots(1, len(methods), squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        for way, curve in frame[frame["method"] == method].groupby("way", sort=False):
            axis.plot(curve["seconds"], curve["heldout_loss"], "o-", label=way)
        axis.set_xlim(left=0)
        axis.set_title(method)
        axis.set_xlabel("seconds of work")
        axis.set_ylabel("held-out loss, nats per token")
        axis.legend(frameon=False)
    write_atomically(path, figure_png(figure))
