"""The paper's training recipe: learn directions whose interchange carries a concept both ways."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from concept_das.data import DIRECTIONS, Direction, EncodedQuadruple
from concept_das.engine import ReplayError, ReplayLosses
from concept_das.errors import InputError, TrainingError
from concept_das.methods import find_method
from concept_das.plain import PyveneLosses
from concept_das.progress import Progress, resume, run_identity, save
from concept_das.scoring import batches
from concept_das.sites import Site
from concept_das.tracking import NoTracker, Tracker
from interventions import DistributedInterchangeIntervention
from objectives import REDUCTIONS
from objectives.reduction import Reduction

Engine = Literal["auto", "pyvene"]


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingConfig:
    """Hyper-parameters. The defaults are the paper's for Gemma-2-2B-it on AxBench.

    Attributes:
        method: name of the objective; `concept-das methods` lists them.
        rank: number of directions (1 in the paper).
        learning_rate: AdamW, decayed linearly to 0 without warm-up (0.04; the release's configs use
            0.02 to 0.08 depending on the model).
        epochs: passes over the training rows (18).
        batch_size: quadruples per step; each is used in both directions (8).
        max_response_tokens: responses are cut to this many tokens (128).
        gradient_clip: largest gradient norm (1.0).
        weight_decay: AdamW's (0).
        reduction: `sequence` averages over each response's tokens first, as the paper writes it;
            `token` pools the batch's tokens, as the authors' code does.
        seed: of the initial direction and of the order of rows (42).
        patience: stop after this many epochs without a better held-out loss and keep the best
            direction; 0 trains all epochs and keeps the last.
    """

    method: str = "cdas"
    rank: int = 1
    learning_rate: float = 0.04
    epochs: int = 18
    batch_size: int = 8
    max_response_tokens: int = 128
    gradient_clip: float = 1.0
    weight_decay: float = 0.0
    reduction: Reduction = "sequence"
    seed: int = 42
    patience: int = 0

    def __post_init__(self) -> None:
        find_method(self.method)
        for name in ("rank", "epochs", "batch_size", "max_response_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("patience", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.reduction not in REDUCTIONS:
            raise InputError(
                f"unknown reduction {self.reduction!r}; choose one of {', '.join(REDUCTIONS)}"
            )


@dataclass
class TrainingResult:
    """A trained direction and how it came about.

    Attributes:
        weight: `[rank, dim]` float32, orthonormal rows.
        history: one record per step (`loss_elicit`, `loss_suppress`, `gradient_norm`, ...) and per
            epoch (`heldout_elicit`, `heldout_suppress`).
        best_epoch: the epoch the weight is from, counted from 1.
    """

    weight: Float[Tensor, "rank dim"]
    history: list[dict[str, float]]
    best_epoch: int


@runtime_checkable
class Losses(Protocol):
    """What the loop needs from an implementation of the training losses."""

    def loss(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> Float[Tensor, ""]:
        """The loss of a batch in one direction, with its graph to the intervention's weight."""


def train_direction(
    model: PreTrainedModel,
    site: Site,
    rows: Sequence[EncodedQuadruple],
    config: TrainingConfig,
    *,
    pad_id: int,
    heldout: Sequence[EncodedQuadruple] = (),
    tracker: Tracker | None = None,
    checkpoint: Path | None = None,
    engine: Engine = "auto",
) -> TrainingResult:
    """Learn the directions of one concept at one site.

    Minimises D+ + D- (the mean over rows of each) with AdamW, retracting the rows to an
    orthonormal set after every step. The model is frozen; the direction is float32.

    Args:
        rows: encoded training quadruples.
        heldout: rows for the held-out loss, computed once an epoch; needed for `patience`.
        checkpoint: folder to save progress in after every epoch. If it already holds progress of
            the same run, training goes on from there and ends with the same direction.
        engine: `auto` replays cached hidden states where the model allows it (`concept_das.engine`)
            and uses pyvene where not; `pyvene` always runs the whole model (`concept_das.plain`).
            Both give the same losses and gradients.

    Raises:
        InputError: if there is nothing to train on, or early stopping has no held-out rows.
        TrainingError: if a loss or gradient is NaN or Inf; the message names step and batch.
    """
    if not rows:
        raise InputError("there are no training rows")
    if config.patience and not heldout:
        raise InputError("early stopping (patience) needs held-out rows; hold some out")
    if config.rank > site.width:
        raise InputError(f"rank {config.rank} exceeds the model's width {site.width}")
    tracker = tracker or NoTracker()
    torch.manual_seed(config.seed)
    intervention = DistributedInterchangeIntervention(
        embed_dim=site.width, low_rank_dimension=config.rank
    ).to(_site_device(model, site))
    weight = intervention.weight
    optimizer = torch.optim.AdamW([weight], config.learning_rate, weight_decay=config.weight_decay)
    steps_per_epoch = math.ceil(len(rows) / config.batch_size)
    total = config.epochs * steps_per_epoch

    with _frozen(model):
        losses = build_losses(model, site, intervention, config, pad_id, rows, engine)
        state = Progress(start=weight.detach().clone(), best=weight.detach().clone())
        run = run_identity(model, site, rows, heldout, asdict(config))
        if checkpoint is not None:
            resume(checkpoint, state, weight, optimizer, run)
        with tqdm(total=total, initial=state.step, desc=f"train {config.method}") as bar:
            while state.epoch < config.epochs and not _is_stale(state, config):
                order = np.random.default_rng([config.seed, state.epoch]).permutation(len(rows))
                for chunk in batches(order.tolist(), config.batch_size):
                    for group in optimizer.param_groups:
                        group["lr"] = config.learning_rate * (1 - state.step / total)
                    record = _step(
                        losses, [rows[i] for i in chunk], chunk, state, optimizer, config
                    )
                    intervention.retract()
                    record["drift"] = subspace_distance(state.start, weight.detach())
                    state.step += 1
                    _report(state, record, bar, tracker)
                state.epoch += 1
                if heldout:
                    _report(state, heldout_loss(losses, heldout, config.batch_size), bar, tracker)
                _keep_best(state, weight, config, bool(heldout))
                if checkpoint is not None:
                    save(checkpoint, state, weight, optimizer, run)
    if _is_stale(state, config):
        log.info("stopped early after epoch %d; best was %d", state.epoch, state.best_epoch)
    return TrainingResult(state.best.cpu().clone(), state.history, state.best_epoch)


def build_losses(
    model: PreTrainedModel,
    site: Site,
    intervention: DistributedInterchangeIntervention,
    config: TrainingConfig,
    pad_id: int,
    rows: Sequence[EncodedQuadruple],
    engine: Engine = "auto",
) -> Losses:
    """The training losses of an intervention, by the chosen engine.

    Args:
        rows: the training rows; the replay is tried on the first ones.
    """
    method = find_method(config.method)
    if engine == "auto":
        try:
            return ReplayLosses(model, site, intervention, method, config.reduction, pad_id, rows)
        except ReplayError as reason:
            log.warning("training by pyvene: this model cannot be replayed (%s)", reason)
    elif engine != "pyvene":
        raise InputError(f"unknown engine {engine!r}; choose auto or pyvene")
    return PyveneLosses(model, site, intervention, method, config.reduction, pad_id)


def _step(
    losses: Losses,
    rows: Sequence[EncodedQuadruple],
    indices: Sequence[int],
    state: Progress,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
) -> dict[str, float]:
    """One optimizer step over both directions."""
    optimizer.zero_grad()
    record: dict[str, float] = {}
    where = f"at step {state.step + 1} (epoch {state.epoch + 1}), training rows {list(indices)}"
    for direction in DIRECTIONS:
        loss = losses.loss(rows, direction)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the {direction} loss is {float(loss.detach())} {where}; load the model in "
                "float32 or inspect these rows"
            )
        loss.backward()  # one direction's graph at a time
        record[f"loss_{direction}"] = float(loss.detach())
    weights = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(weights, config.gradient_clip)
    if not bool(torch.isfinite(norm)):
        raise TrainingError(f"the gradient is NaN or Inf {where}; load the model in float32")
    optimizer.step()
    return {
        "loss": sum(record.values()),
        **record,
        "gradient_norm": float(norm),
        "learning_rate": optimizer.param_groups[0]["lr"],
    }


@torch.no_grad()
def heldout_loss(
    losses: Losses, rows: Sequence[EncodedQuadruple], batch_size: int
) -> dict[str, float]:
    """The training objective on held-out rows, each batch weighted by its rows."""
    sums = dict.fromkeys(DIRECTIONS, 0.0)
    for chunk in batches(rows, batch_size):
        for direction in DIRECTIONS:
            sums[direction] += float(losses.loss(chunk, direction)) * len(chunk)
    means = {f"heldout_{name}": value / len(rows) for name, value in sums.items()}
    return {"heldout_loss": sum(means.values()), **means}


def subspace_distance(first: Float[Tensor, "rank dim"], second: Float[Tensor, "rank dim"]) -> float:
    """Distance of two orthonormal sets: 0 for the same subspace, 1 for orthogonal ones.

    sqrt(1 - |A B^T|_F^2 / rank); the sine of the angle at rank 1.
    """
    overlap = float((first @ second.T).pow(2).sum()) / first.shape[0]
    return math.sqrt(max(0.0, 1.0 - overlap))


def _report(state: Progress, record: dict[str, float], bar: tqdm, tracker: Tracker) -> None:
    record = {"step": float(state.step), "epoch": float(state.epoch), **record}
    state.history.append(record)
    tracker.log(record, state.step)
    if "heldout_loss" in record:
        bar.set_postfix_str(f"held-out {record['heldout_loss']:.4f}")
    else:
        bar.set_description(f"loss {record['loss']:.4f}")
        bar.update()


def _keep_best(state: Progress, weight: Tensor, config: TrainingConfig, measured: bool) -> None:
    loss = state.history[-1]["heldout_loss"] if measured else -math.inf
    if not config.patience or loss < state.best_loss:
        state.best = weight.detach().clone()
        state.best_epoch = state.epoch
        state.best_loss = loss


def _is_stale(state: Progress, config: TrainingConfig) -> bool:
    return bool(config.patience) and state.epoch - state.best_epoch >= config.patience


def _site_device(model: PreTrainedModel, site: Site) -> torch.device:
    return next(site.module(model).parameters()).device


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without parameter gradients inside the block; restored afterwards."""
    was_training = model.training
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
