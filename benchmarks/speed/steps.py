"""Training steps: seconds, memory and FLOPs of each implementation, on the same rows."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Cost, cost_of
from concept_das.data import DIRECTIONS, EncodedQuadruple
from concept_das.scoring import batches
from concept_das.training import Losses
from interventions import DistributedInterchangeIntervention


@dataclass(frozen=True)
class StepCost:
    """Medians over steps.

    Attributes:
        seconds: per step, both directions, forward and backward.
        peak_bytes: largest growth of memory in a step.
        flops: of matrix products in one step.
    """

    seconds: float
    peak_bytes: int
    flops: int


def one_step(
    losses: Losses,
    intervention: DistributedInterchangeIntervention,
    rows: Sequence[EncodedQuadruple],
) -> None:
    """Both directions, forward and backward; the optimizer's share is nothing."""
    intervention.zero_grad()
    for direction in DIRECTIONS:
        losses.loss(rows, direction).backward()


def median_step(
    losses: Losses,
    intervention: DistributedInterchangeIntervention,
    rows: Sequence[EncodedQuadruple],
    *,
    batch_size: int,
    steps: int,
    device: torch.device,
) -> StepCost:
    """Median cost of a step. Every batch is run once before, which also fills caches."""
    chunks = list(batches(rows, batch_size))[:steps]
    for chunk in chunks:
        one_step(losses, intervention, chunk)
    costs: list[Cost] = [cost_of(_step(losses, intervention, chunk), device) for chunk in chunks]
    with FlopCounterMode(display=False) as counter:
        one_step(losses, intervention, chunks[0])
    return StepCost(
        statistics.median(cost.seconds for cost in costs),
        int(statistics.median(cost.peak_bytes for cost in costs)),
        counter.get_total_flops(),
    )


def _step(
    losses: Losses,
    intervention: DistributedInterchangeIntervention,
    chunk: Sequence[EncodedQuadruple],
) -> Callable[[], None]:
    return lambda: one_step(losses, intervention, chunk)
