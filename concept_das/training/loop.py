"""The paper's training recipe: learn directions whose interchange carries a concept both ways."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from concept_das.data.batches import batches
from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.errors import InputError, TrainingError
from concept_das.methods import Term
from concept_das.methods.registry import trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import Site, evaluating
from concept_das.models.replay import ReplayError
from concept_das.training.batch_loss import Losses, NotFiniteError, sum_losses
from concept_das.training.concept import ConceptRun, TrainingResult, TrainingTask
from concept_das.training.options import DEFAULT_ENGINE, EngineOptions
from concept_das.training.pyvene_engine import PyveneLosses
from concept_das.training.replay_engine import ReplayLosses
from concept_das.training.state_cache import CacheBudget
from concept_das.training.teacher import Teacher
from concept_das.training.tracking import NoTracker, Tracker
from concept_das.words import Direction

log = logging.getLogger(__name__)


def train_direction(
    model: PreTrainedModel,
    site: Site,
    rows: Sequence[EncodedQuadruple],
    config: TrainingConfig,
    *,
    pad_id: int = 0,  # of the first release; it has no effect
    heldout: Sequence[EncodedQuadruple] = (),
    tracker: Tracker | None = None,
    checkpoint: Path | None = None,
    engine: EngineOptions = DEFAULT_ENGINE,
) -> TrainingResult:
    """Learn the directions of one concept at one site; see `train_directions`."""
    task = TrainingTask(rows, heldout, checkpoint=checkpoint, tracker=tracker or NoTracker())
    (result,) = train_directions(model, [site], [task], config, engine=engine)
    return result


def train_directions(
    model: PreTrainedModel,
    sites: Sequence[Site],
    tasks: Sequence[TrainingTask],
    config: TrainingConfig,
    *,
    pad_id: int = 0,  # of the first release; it has no effect
    engine: EngineOptions = DEFAULT_ENGINE,
    teacher: Teacher | None = None,
) -> list[TrainingResult]:
    """Learn the directions of several concepts, several of them at once.

    Minimises the method's loss (for CDAS D+ + D-, each the mean over rows) with AdamW, retracting
    the rows to an orthonormal set after every step where the method wants it. The model is frozen;
    the directions are float32. A concept's result is that of training it alone, up to the rounding
    of a batch of other shape.

    Args:
        sites: the places to intervene at, all in the same run, each with its own directions.
        tasks: one per concept.
        teacher: the distribution to learn from, in place of the model's own on the source prompt.

    Raises:
        InputError: if there is nothing to train on, or early stopping has no held-out rows; if the
            method matches no distribution and a teacher is given, or progress is to be kept and the
            teacher has no name.
        TrainingError: if a loss or gradient is NaN or Inf; the message names step and row.
    """
    for task in tasks:
        of = f" of {task.name}" if task.name else ""
        if not task.rows:
            raise InputError(f"there are no training rows{of}")
        if config.patience and not task.heldout:
            raise InputError(f"early stopping (patience) needs held-out rows{of}; hold some out")
    if len({site.layer for site in sites}) < len(sites):
        raise InputError("a layer is given twice; name each once")
    sites = sorted(sites, key=lambda site: site.layer)
    for site in sites:
        if config.rank > site.width:
            raise InputError(f"rank {config.rank} exceeds the model's width {site.width}")
    if teacher is not None:
        objective = trained_method(config.method).objective
        if not objective.has_teacher or objective.states is not None:
            raise no_teacher(config.method)
        if teacher.name is None and any(task.checkpoint is not None for task in tasks):
            raise InputError(
                "progress is kept and the teacher has no name to tell it from another; give "
                "Teacher(function, name)"
            )
    results: list[TrainingResult] = []
    alone = trained_method(config.method).trains_alone
    with _frozen(model):
        for group in batches(tasks, 1 if alone else engine.together):
            results += _train_together(model, sites, group, config, engine, teacher)
    return results


def no_teacher(method: str) -> InputError:
    """The error of a method that is given a teacher and has no use for one."""
    return InputError(
        f"{method} matches no distribution and has no teacher; leave it out, or train cdas"
    )


def _train_together(
    model: PreTrainedModel,
    sites: Sequence[Site],
    tasks: Sequence[TrainingTask],
    config: TrainingConfig,
    engine: EngineOptions,
    teacher: Teacher | None = None,
) -> list[TrainingResult]:
    """Train a group of concepts in lockstep: a step holds a batch of rows of each."""
    since = time.monotonic()
    runs = [ConceptRun(task, config, model, sites, teacher) for task in tasks]
    active = {part: run for part, run in enumerate(runs) if not run.finished}
    with ExitStack() as stack:
        for run in active.values():
            stack.enter_context(run.method.installed(model, run.interventions))
        if active:
            interventions = [run.interventions for run in runs]
            losses = build_losses(
                model,
                sites,
                interventions,
                config.method,
                all_runs(active.values()),
                engine,
                config.positions,
                teacher,
            )
        bar = stack.enter_context(
            tqdm(
                total=sum(run.total for run in runs),
                initial=sum(run.total if run.finished else run.state.step for run in runs),
                desc=f"train {config.method}",
            )
        )
        while active:
            _step(losses, active, engine.batch_tokens)
            bar.update(len(active))
            for part, run in active.items():
                if run.at_epoch_end:
                    heldout = None
                    if run.task.heldout:
                        terms = run.heldout_terms()
                        heldout = heldout_loss(losses, terms, engine.batch_tokens, part)
                    since = _share_time(active.values(), since)
                    run.end_epoch(heldout)
            bar.set_postfix_str(_summary([run.state.history[-1] for run in active.values()]))
            active = {part: run for part, run in active.items() if not run.finished}
    return [run.result() for run in runs]


def _share_time(runs: Collection[ConceptRun], since: float) -> float:
    """Count the time since then, an equal part for each concept, and return the time now."""
    now = time.monotonic()
    for run in runs:
        run.state.seconds += (now - since) / len(runs)
    return now


def _step(losses: Losses, runs: Mapping[int, ConceptRun], batch_tokens: int) -> None:
    """One optimizer step of every concept, over both directions."""
    terms = {part: run.terms() for part, run in runs.items()}
    try:
        sums = sum_losses(losses, terms, batch_tokens, backward=True)
    except NotFiniteError as error:
        term = error.term
        raise TrainingError(
            f"the {term.direction} loss is {error.loss} {runs[error.part].where()}, training row "
            f"{term.row}; load the model in float32 or inspect this row"
        ) from error
    for part, run in runs.items():
        run.step(sums[part])


def all_runs(concepts: Iterable[ConceptRun]) -> list[EditedPass]:
    """Every run that training the concepts will ask for, with some factor."""
    return [
        run
        for concept in concepts
        for rows in (concept.task.rows, concept.task.heldout)
        if rows
        for term in concept.method.terms(rows, concept.config.reduction, np.random.default_rng(0))
        for run in term.runs
    ]


def _summary(records: Sequence[Mapping[str, float]]) -> str:
    """The mean loss of the concepts' latest records, for the progress bar."""
    name = "heldout_loss" if "heldout_loss" in records[0] else "loss"
    values = [record[name] for record in records if name in record]
    return f"{name.replace('_', ' ')} {sum(values) / len(values):.4f}"


def build_losses(
    model: PreTrainedModel,
    sites: Sequence[Site],
    interventions: Sequence[Sequence[Mapping[EditName, nn.Module]]],
    method: str,
    runs: Sequence[EditedPass],
    engine: EngineOptions = DEFAULT_ENGINE,
    positions: str | None = None,
    teacher: Teacher | None = None,
) -> Losses:
    """The training losses of several concepts, by the chosen engine.

    Args:
        sites: from the lowest block to the highest.
        interventions: for each concept and site, by the edit they make.
        runs: all that losses will be asked for.
        positions: the tokens that are edited; the method's own if None.
        teacher: in place of the model itself on the source.
    """
    found = trained_method(method)
    span = found.span(positions)
    if engine.engine == "auto":
        device = next(sites[0].module(model).parameters()).device
        budget = CacheBudget(device, engine.cache_gb, engine.cache_folder)
        try:
            return ReplayLosses(
                model,
                sites,
                interventions,
                found,
                runs,
                span=span,
                batch_tokens=engine.batch_tokens,
                budget=budget,
                teacher=teacher,
            )
        except ReplayError as reason:
            log.warning("training by pyvene: this model cannot be replayed (%s)", reason)
    return PyveneLosses(model, sites, interventions, found, span, teacher)


def heldout_loss(
    losses: Losses, terms: Sequence[Term], batch_tokens: int, part: int = 0
) -> dict[Direction, float]:
    """The training objective on held-out rows, per direction."""
    try:
        sums = sum_losses(losses, {part: terms}, batch_tokens, backward=False)
    except NotFiniteError as error:
        raise TrainingError(
            f"the {error.term.direction} loss of held-out row {error.term.row} is {error.loss}; "
            "load the model in float32 or inspect this row"
        ) from error
    return sums[part]


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without parameter gradients inside the block; restored afterwards."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
