"""Training steps: seconds, memory and FLOPs of each implementation, on the same rows."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyvene as pv
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.release_loop import release_loss
from benchmarks.speed.timing import peak_bytes_of, seconds_of
from concept_das.data.batches import batches
from concept_das.data.encoding import EditName, EncodedQuadruple
from concept_das.methods import Term
from concept_das.methods.registry import trained_method
from concept_das.models.blocks import Site, find_site
from concept_das.models.loading import LoadedModel
from concept_das.training.batch_loss import sum_losses
from concept_das.training.loop import build_losses
from concept_das.training.options import EngineOptions
from concept_das.words import DIRECTIONS
from interventions import DistributedInterchangeIntervention
from interventions.partition import PartitionedSubspace

# Forward and backward of a batch, both directions; gives the loss.
Step = Callable[[Sequence[EncodedQuadruple]], float]


@dataclass(frozen=True)
class StepCost:
    """Medians over steps.

    Attributes:
        seconds: per step, both directions, forward and backward.
        peak_bytes: the most that a step's tensors took, caches not counted.
        flops: of matrix products in one step.
        loss: of the first batch, to see that both ways compute the same.
    """

    seconds: float
    peak_bytes: int
    flops: int
    loss: float


def new_intervention(loaded: LoadedModel, site: Site) -> DistributedInterchangeIntervention:
    """A random direction, always the same."""
    torch.manual_seed(0)
    return DistributedInterchangeIntervention(embed_dim=site.width).to(loaded.device)


def engine_step(
    loaded: LoadedModel,
    layer: int,
    rows: Sequence[EncodedQuadruple],
    options: EngineOptions,
) -> Step:
    """The engine's step, with everything that is constant about the rows cached."""
    step = concepts_step(loaded, layer, [rows], options)
    return lambda batch: step([batch])


def concepts_step(
    loaded: LoadedModel,
    layer: int,
    concepts: Sequence[Sequence[EncodedQuadruple]],
    options: EngineOptions,
) -> Callable[[Sequence[Sequence[EncodedQuadruple]]], float]:
    """The engine's step of several concepts at once, given a batch of each one's rows."""
    site = find_site(loaded.model, layer)
    loaded.model.requires_grad_(False)
    interventions = [new_intervention(loaded, site) for _ in concepts]
    cdas = trained_method("cdas")

    def terms(batch: Sequence[EncodedQuadruple]) -> list[Term]:
        return cdas.terms(batch, "token", np.random.default_rng(0))

    runs = [run for rows in concepts for term in terms(rows) for run in term.runs]
    edits: list[list[Mapping[EditName, PartitionedSubspace]]] = [
        [{"interchange": intervention}] for intervention in interventions
    ]
    losses = build_losses(loaded.model, [site], edits, cdas.name, runs, options)

    def step(parts: Sequence[Sequence[EncodedQuadruple]]) -> float:
        for intervention in interventions:
            intervention.zero_grad()
        by_part = {part: terms(batch) for part, batch in enumerate(parts)}
        sums = sum_losses(losses, by_part, options.batch_tokens, backward=True)
        return sum(sum(one.values()) for one in sums.values())

    return step


def release_step(loaded: LoadedModel, layer: int) -> Step:
    """The release's step, from the same first direction: one direction after the other."""
    site = find_site(loaded.model, layer)
    loaded.model.requires_grad_(False)
    intervention = new_intervention(loaded, site)
    intervenable = pv.IntervenableModel(
        {"component": site.component, "intervention": intervention}, loaded.model
    )

    def step(batch: Sequence[EncodedQuadruple]) -> float:
        intervention.zero_grad()
        total = 0.0
        for direction in DIRECTIONS:
            pairs = [getattr(row, direction) for row in batch]
            loss = release_loss(loaded.model, intervenable, pairs)
            loss.backward()
            total += float(loss.detach())
        return total

    return step


def compare_steps(
    steps: dict[str, Step],
    rows: Sequence[EncodedQuadruple],
    *,
    batch_size: int,
    repeats: int,
    device: torch.device,
) -> dict[str, StepCost]:
    """Median cost of each way's step, the ways taking turns so that a busy machine slows all alike.

    Args:
        repeats: batches to time; the first is run before, untimed, for its FLOPs and memory.
    """
    chunks = list(batches(rows, batch_size))[:repeats]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    first: dict[str, tuple[int, int, float]] = {}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            loss = step(chunks[0])
        peak = peak_bytes_of(partial(step, chunks[0]), device)
        first[name] = peak, counter.get_total_flops(), loss
    for chunk in chunks:
        for name, step in steps.items():
            seconds[name].append(seconds_of(partial(step, chunk), device))
    return {name: StepCost(statistics.median(seconds[name]), *first[name]) for name in steps}
