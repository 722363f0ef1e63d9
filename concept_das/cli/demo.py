"""`concept-das demo`."""

import logging
import time
from pathlib import Path

from concept_das.cli.options import ModelOptions
from concept_das.training.tracking import TrackingMode, check_tracking

log = logging.getLogger(__name__)


def demo(
    out: Path,
    loading: ModelOptions,
    concept: str = "Talk like a pirate",
    layer: int | None = None,
    wandb: TrackingMode = "off",
) -> None:
    """Make data, train, evaluate and write a report, end to end.

    Args:
        out: folder of the run; report.html and metrics.json are written there.
        concept: the concept as an imperative in plain words.
        layer: one decoder block to steer at, 0-based; eight over the depth if not given.
        wandb: auto, online, offline or off.
    """
    from concept_das.experiments.demo import run

    start = time.monotonic()
    check_tracking(wandb)
    loaded = loading.load()
    report = run(loaded, out, concept=concept, layer=layer, wandb=wandb)
    log.info("%.0f seconds; open %s", time.monotonic() - start, report.resolve())
