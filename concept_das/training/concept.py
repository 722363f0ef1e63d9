"""One concept's way through training: its directions, optimizer, order of rows, best epoch."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditName, EncodedQuadruple
from concept_das.data.quadruples import Quadruple
from concept_das.errors import TrainingError
from concept_das.methods import Term
from concept_das.methods.base import directions_of
from concept_das.methods.registry import trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import Site
from concept_das.training.checkpoint import Progress, resume, run_identity, save
from concept_das.training.teacher import Teacher
from concept_das.training.tracking import NoTracker, Tracker
from concept_das.words import Direction
from interventions import orthonormal_rows
from interventions.partition import PartitionedSubspace

log = logging.getLogger(__name__)

Row = TypeVar("Row", Quadruple, EncodedQuadruple)


@dataclass(frozen=True)
class ConceptRows(Generic[Row]):
    """A concept to train: its rows as text for `train_vectors`, encoded for `train_directions`.

    Attributes:
        rows: training quadruples.
        heldout: rows for the held-out loss, computed once an epoch; needed for early stopping.
        checkpoint: folder to save progress in after every epoch. If it already holds progress of
            the same run, training goes on from there and ends with the same direction.
        tracker: receives the numbers of every step.
        seed: in place of the recipe's.
        name: of the concept, for messages where several are trained.
        on_epoch: called after each epoch with the numbers of its last step and, if there are
            held-out rows, their loss; if it returns true, the training ends there.
    """

    rows: Sequence[Row]
    heldout: Sequence[Row] = ()
    checkpoint: Path | None = None
    tracker: Tracker = field(default_factory=NoTracker)
    seed: int | None = None
    name: str = ""
    on_epoch: Callable[[Mapping[str, float]], object] | None = None


TrainingTask = ConceptRows[EncodedQuadruple]


@dataclass
class TrainingResult:
    """Trained interventions, and what was recorded while they were trained.

    Attributes:
        interventions: of each site, from the lowest block to the highest, by edit.
        history: one record per step (`loss_elicit`, `loss_suppress`, `gradient_norm`, ...) and per
            epoch (`heldout_elicit`, `heldout_suppress`).
        best_epoch: the epoch the weights are from, counted from 1.
        earlier_seconds: spent by earlier parts of the training, which were interrupted.
    """

    interventions: list[Mapping[EditName, nn.Module]]
    history: list[dict[str, float]]
    best_epoch: int
    earlier_seconds: float = 0.0

    @property
    def weights(self) -> Float[Tensor, "sites rank dim"]:
        """The directions at each site; orthonormal rows where the method keeps unit norm."""
        return torch.stack([directions_of(at_site) for at_site in self.interventions])

    @property
    def weight(self) -> Float[Tensor, "rank dim"]:
        """The directions of a run at one site."""
        if len(self.interventions) > 1:
            raise ValueError(f"the run has {len(self.interventions)} sites; use weights")
        return self.weights[0]


class ConceptRun:
    """The state of one concept's training; the gradients come from outside.

    Attributes:
        interventions: for each site, from the lowest block to the highest, by edit.
        turns: true if only directions are learned; how far they turn is then reported as drift.
        state: everything that changes in a step; saved after each epoch.
        total: number of steps of the whole run.
    """

    def __init__(
        self,
        task: TrainingTask,
        config: TrainingConfig,
        model: PreTrainedModel,
        sites: Sequence[Site],
        teacher: Teacher | None = None,
    ) -> None:
        if task.seed is not None:
            config = replace(config, seed=task.seed)
        self.task = task
        self.config = config
        self.method = trained_method(config.method)
        rate = config.learning_rate
        with torch.random.fork_rng(devices=[]):  # the user's own draws go on as they were
            torch.default_generator.manual_seed(config.seed)
            self.interventions = self.method.build(model, sites, config)
        self.identity = run_identity(
            model,
            sites,
            task.rows,
            task.heldout,
            {**config.record(), **({} if teacher is None else {"teacher": teacher.name})},
            self.method,
            self.interventions,
        )
        every = [one for at_site in self.interventions for one in at_site.values()]
        # Edits of a site may share parameters.
        self.parameters = list(dict.fromkeys(p for one in every for p in one.parameters()))
        factors = {
            parameter
            for one in every
            for name, parameter in one.named_parameters()
            if name == "factor"
        }
        # Only directions are clipped: the gradient of a factor is of another size (PrOSV).
        self.clipped = [p for p in self.parameters if p not in factors]
        self.turns = not factors and all(isinstance(one, PartitionedSubspace) for one in every)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p], "peak": config.factor_learning_rate if p in factors else rate}
                for p in self.parameters
            ],
            rate,
            weight_decay=config.weight_decay,
        )
        self.method.begin(model, sites, task.rows, self.interventions)
        self.steps_per_epoch = math.ceil(len(task.rows) / config.batch_size)
        self.total = config.epochs * self.steps_per_epoch
        self._stopped = False
        self.state = Progress(start=self._weights(), best=self._weights())
        if task.checkpoint is not None:
            resume(task.checkpoint, self.state, self.parameters, self.optimizer, self.identity)
        self.earlier_seconds = self.state.seconds

    @property
    def finished(self) -> bool:
        """True once all epochs are done, the held-out loss has stopped falling, or it was told."""
        return self._stopped or self.state.epoch >= self.config.epochs or self._is_stale()

    def terms(self) -> list[Term]:
        """The next step's loss; which rows it is made of depends on seed, epoch and step alone."""
        order = np.random.default_rng([self.config.seed, self.state.epoch])
        start = self.state.step % self.steps_per_epoch * self.config.batch_size
        chosen = order.permutation(len(self.task.rows))[start : start + self.config.batch_size]
        draws = np.random.default_rng([self.config.seed, self.state.epoch, self.state.step])
        rows = [self.task.rows[i] for i in chosen]
        terms = self.method.terms(rows, self.config.reduction, draws)
        return [replace(term, row=int(chosen[term.row])) for term in terms]

    def heldout_terms(self) -> list[Term]:
        """The held-out loss; the same at every epoch."""
        draws = np.random.default_rng([self.config.seed, len(self.task.heldout)])
        return self.method.terms(self.task.heldout, self.config.reduction, draws)

    def step(self, losses: Mapping[Direction, float]) -> None:
        """One AdamW step with the gradients that are there, and back to orthonormal rows.

        Raises:
            TrainingError: if the gradient or the directions cannot be used.
        """
        left = 1 - self.state.step / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * left
        norm = torch.nn.utils.clip_grad_norm_(self.clipped, self.config.gradient_clip)
        if not bool(torch.isfinite(norm)):
            raise TrainingError(
                f"the gradient is NaN or Inf {self.where()}; load the model in float32"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.method.unit_norm:
            self._retract()
        self.state.step += 1
        values = {
            "loss": sum(losses.values()),
            **{f"loss_{direction}": value for direction, value in losses.items()},
            "gradient_norm": float(norm),
            "learning_rate": self.config.learning_rate * left,
        }
        if self.turns:
            values["drift"] = max(
                subspace_distance(*map(orthonormal_rows, pair))
                for pair in zip(self.state.start, self._weights(), strict=True)
            )
        self.record(values)

    def _retract(self) -> None:
        try:
            for at_site in self.interventions:
                intervention = next(iter(at_site.values()))
                assert isinstance(intervention, PartitionedSubspace)
                intervention.retract()
        except ValueError as error:
            raise TrainingError(f"{error} ({self.where()})") from error

    @property
    def at_epoch_end(self) -> bool:
        """True right after the epoch's last step."""
        return self.state.step % self.steps_per_epoch == 0

    def end_epoch(self, heldout: Mapping[Direction, float] | None) -> None:
        """Note the held-out loss, keep the best directions, save progress.

        Args:
            heldout: per direction; None if there are no held-out rows.
        """
        self.state.epoch += 1
        loss = -math.inf
        if heldout is not None:
            loss = sum(heldout.values())
            means = {f"heldout_{direction}": value for direction, value in heldout.items()}
            self.record({"heldout_loss": loss, **means})
        if not self.config.patience or loss < self.state.best_loss:
            self.state.best = self._weights()
            self.state.best_epoch = self.state.epoch
            self.state.best_loss = loss
        if self.task.checkpoint is not None:
            save(self.task.checkpoint, self.state, self.parameters, self.optimizer, self.identity)
        if self.task.on_epoch is not None:
            last = self.state.history[-2:] if heldout is not None else self.state.history[-1:]
            numbers = {name: value for record in last for name, value in record.items()}
            self._stopped = bool(self.task.on_epoch({**numbers, "epoch": float(self.state.epoch)}))

    def record(self, values: Mapping[str, float]) -> None:
        """Add to the history and the tracker."""
        numbers = {"step": float(self.state.step), "epoch": float(self.state.epoch), **values}
        self.state.history.append(numbers)
        self.task.tracker.log(numbers, self.state.step)

    def result(self) -> TrainingResult:
        """The interventions of the best epoch, with the history."""
        if self._is_stale():
            log.info(
                "%sstopped early after epoch %d; best was %d",
                f"{self.task.name}: " if self.task.name else "",
                self.state.epoch,
                self.state.best_epoch,
            )
        with torch.no_grad():
            for parameter, best in zip(self.parameters, self.state.best, strict=True):
                parameter.copy_(best)
        return TrainingResult(
            self.interventions, self.state.history, self.state.best_epoch, self.earlier_seconds
        )

    def where(self) -> str:
        """The current step, for messages."""
        of = f" of {self.task.name}" if self.task.name else ""
        return f"at step {self.state.step + 1} (epoch {self.state.epoch + 1}){of}"

    def _weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def _is_stale(self) -> bool:
        waited = self.state.epoch - self.state.best_epoch
        return bool(self.config.patience) and waited >= self.config.patience


def subspace_distance(first: Float[Tensor, "rank dim"], second: Float[Tensor, "rank dim"]) -> float:
    """Distance of two orthonormal sets: 0 for the same subspace, 1 for orthogonal ones.

    sqrt(1 - |A B^T|_F^2 / rank); the sine of the angle at rank 1.
    """
    overlap = float((first @ second.T).pow(2).sum()) / first.shape[0]
    return math.sqrt(max(0.0, 1.0 - overlap))
