"""The classes that methods derive from, and the parts that several methods share."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.chat_format import ChatFormat, Turn
from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.methods.recipes import method_defaults
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import Site, find_site
from concept_das.steering.artifact import Artifact
from concept_das.steering.factors import Latents, measure_latents_at
from concept_das.steering.positions import Span, parse_positions
from concept_das.steering.vector import DirectionAtSite, Operation, SteeringVector
from concept_das.words import DIRECTIONS, Direction
from interventions.partition import PartitionedSubspace
from objectives import Response, token_cross_entropy, token_weights
from objectives.names import Reduction
from objectives.projected import TokenLoss, cross_entropy_with_gradient

# (student logits `[tokens, vocab]`, teacher logits, labels `[tokens]`) -> one loss per token
PlainTokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

# (student's hidden states `[sites, tokens, dim]`, the teacher's) -> one loss per token
StatesLoss = Callable[[Tensor, Tensor], Tensor]

# (token losses of each edited pass, log p of each reference's response under the untouched model)
# -> the term's share of the batch's loss
TermLoss = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


@dataclass(frozen=True)
class TokenObjective:
    """The loss of a response token.

    Attributes:
        plain: computes it from logits.
        with_gradient: computes it from log-probabilities, with its gradient in closed form.
        has_teacher: true if the loss uses the teacher's distribution.
        states: computes it from hidden states instead, those after the edit at every site.
    """

    plain: PlainTokenLoss
    with_gradient: TokenLoss
    has_teacher: bool = True
    states: StatesLoss | None = None

    @classmethod
    def of_states(cls, states: StatesLoss) -> "TokenObjective":
        """A loss of hidden states at the tokens that predict the response."""

        def unused(*_: Any) -> Any:
            raise AssertionError("this loss is computed from hidden states")

        return cls(unused, unused, has_teacher=True, states=states)


@dataclass(frozen=True)
class Term:
    """One summand of a batch's loss, made of one row.

    Attributes:
        runs: the edited forward passes it needs.
        loss: computes the term from them; includes the row's share in the mean over the batch.
        direction: the name it is reported under.
        row: the row's number, for messages.
        references: turns for which it needs the likelihood under the untouched model.
    """

    runs: tuple[EditedPass, ...]
    loss: TermLoss
    direction: Direction
    row: int
    references: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Fit:
    """One concept to fit a method to, at one layer.

    Attributes:
        layer: block index, 0-based; negative counts from the end.
        rows, encoded: the training quadruples, as text and as token ids.
        common: the fields that every `Artifact` has, as keyword arguments.
    """

    model: PreTrainedModel
    chat: ChatFormat
    layer: int
    rows: Sequence[Quadruple]
    encoded: Sequence[EncodedQuadruple]
    config: TrainingConfig
    common: dict[str, Any]


Job = Fit  # the name in the first release


class Method(ABC):
    """A method learns from quadruples and returns an artifact that steers.

    Attributes:
        name, summary: for the command line; the summary is one line.
        steering: how it steers, in a few words.
        directions: the directions it can steer in.
        columns: the columns of the data it uses, beside the two inputs.
        defaults: hyper-parameters of a method from outside, where they differ from CDAS's; this
            project's are in `recipes/defaults.yaml`.
        draws: true if a seed changes the result.
        package, install: an optional package that it needs, and how to get it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    steering: ClassVar[str]
    directions: ClassVar[tuple[Direction, ...]] = DIRECTIONS
    columns: ClassVar[tuple[str, ...]] = ("negative_output", "positive_output")
    defaults: ClassVar[Mapping[str, Any]] = {}
    draws: ClassVar[bool] = True
    package: ClassVar[str] = ""
    install: ClassVar[str] = ""

    def check_installed(self) -> None:
        """Make sure that the method's optional package is there.

        Raises:
            InputError: naming it and the way to install it.
        """
        if self.package and importlib.util.find_spec(self.package) is None:
            raise InputError(f"{self.name} needs {self.package}; {self.install}")

    def config(self, **changed: Any) -> TrainingConfig:
        """The method's own hyper-parameters, but for those given.

        Raises:
            InputError: if one of them cannot be.
        """
        own = {**method_defaults(self.name), **self.defaults}
        return TrainingConfig(method=self.name, **{**own, **changed})


class FittedMethod(Method):
    """A method that needs no training loop."""

    draws = False

    @abstractmethod
    def fit(self, task: Fit) -> Artifact:
        """Make the artifact that steers.

        Raises:
            InputError: if the data do not allow it.
        """


class TrainedMethod(Method):
    """A method that learns by gradient.

    Attributes:
        objective: the loss of a response token.
        positions: the tokens that are edited, unless the hyper-parameters name others.
        unit_norm: true if directions are brought back to orthonormal rows after each step.
        trains_alone: true if only one concept can be in the model at a time.
        shares_prefix: true if the template prefix is left unedited, so that its keys and values
            are the same for every row.
    """

    objective: ClassVar[TokenObjective]
    positions: ClassVar[str] = "all"
    unit_norm: ClassVar[bool] = False
    trains_alone: ClassVar[bool] = False
    shares_prefix: ClassVar[bool] = True

    def sites(self, model: PreTrainedModel, layer: int, config: TrainingConfig) -> list[Site]:
        """The sites at which hidden states are edited.

        Raises:
            InputError: if there is no such layer.
        """
        if config.layers:
            raise InputError(f"{self.name} acts at one layer; give --layer and no --layers")
        return [find_site(model, layer)]

    def interventions(self, width: int, rank: int) -> Mapping[EditName, nn.Module]:
        """New pyvene interventions for one site, by the edit they make; they may share parameters.

        A method overrides this, or `build` if its sites differ.

        Args:
            width: size of the hidden states.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither interventions nor build")

    def build(
        self, model: PreTrainedModel, sites: Sequence[Site], config: TrainingConfig
    ) -> list[Mapping[EditName, nn.Module]]:
        """New interventions for every site, by the edit they make, each on its site's device."""
        built: list[Mapping[EditName, nn.Module]] = []
        for site in sites:
            device = next(site.module(model).parameters()).device
            at_site = self.interventions(site.width, config.rank)
            built.append({edit: one.to(device) for edit, one in at_site.items()})
        return built

    def span(self, positions: str | None) -> Span:
        """The tokens that are edited.

        Args:
            positions: those of the hyper-parameters; None for the method's own.

        Raises:
            InputError: if there are no such positions, or the method cannot edit them.
        """
        return parse_positions(positions or self.positions)

    def rows(
        self, rows: Sequence[EncodedQuadruple], config: TrainingConfig
    ) -> Sequence[EncodedQuadruple]:
        """The rows that are trained on: all of them as they are, unless a method changes some."""
        return rows

    def begin(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        rows: Sequence[EncodedQuadruple],
        built: Sequence[Mapping[EditName, nn.Module]],
    ) -> None:
        """Set what new interventions start from and only the data can tell; nothing by default."""

    def installed(
        self, model: PreTrainedModel, built: Sequence[Mapping[EditName, nn.Module]]
    ) -> AbstractContextManager[None]:
        """Put into the model, within the `with` block, what must be there while it trains."""
        return nullcontext()

    @abstractmethod
    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """The loss of a batch, as a sum.

        Args:
            rng: for methods that draw factors.
        """

    @abstractmethod
    def artifact(self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]) -> Artifact:
        """Make the artifact that steers from the trained interventions of each site."""


SiteMethod = TrainedMethod  # the name in the first release


class DirectionMethod(TrainedMethod):
    """A method whose parameters are directions at one or several sites.

    Attributes:
        operation: how they are applied, see `SteeringVector`.
    """

    operation: ClassVar[Operation]

    def sites(self, model: PreTrainedModel, layer: int, config: TrainingConfig) -> list[Site]:
        """The hyper-parameters' layers, or the given one.

        Raises:
            InputError: if the model is not that deep.
        """
        layers = blocks_of(model, config) if config.layers else [layer]
        return [find_site(model, one) for one in layers]

    @abstractmethod
    def interventions(self, width: int, rank: int) -> Mapping[EditName, PartitionedSubspace]:
        """New interventions for one site, by the edit they make; they may share a weight."""

    def factors(self, latents: Latents) -> tuple[Float[Tensor, "rank"], Float[Tensor, "rank"]]:
        """The factors at multiplier 1: of suppression, and of elicitation.

        A method overrides this, or `at_sites` if it does not measure them.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither factors nor at_sites")

    def artifact(
        self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> SteeringVector:
        """The directions, with the factors measured on the training prompts."""
        sites = self.sites(task.model, task.layer, task.config)
        return SteeringVector(
            sites=self.at_sites(task, sites, trained),
            operation=self.operation,
            positions=task.config.positions or self.positions,
            **task.common,
        )

    def at_sites(
        self, task: Fit, sites: Sequence[Site], trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> list[DirectionAtSite]:
        """The directions of each site with their factors, by default measured on the prompts."""
        weights = [directions_of(at_site) for at_site in trained]
        measured = measure_latents_at(task.model, sites, weights, task.encoded)
        return [
            DirectionAtSite(weight, *self.factors(latents), site.layer)
            for site, weight, latents in zip(sites, weights, measured, strict=True)
        ]


def blocks_of(model: PreTrainedModel, config: TrainingConfig) -> list[int]:
    """The blocks of a method that acts at several, from the lowest.

    Raises:
        InputError: if none are given, one is given twice, or the model is not that deep.
    """
    if not config.layers:
        raise InputError(f"{config.method} acts at several layers; give --layers '[5, 10]'")
    if config.layers == "spread":
        return spread_blocks(find_site(model, 0).n_layers)
    blocks = sorted(find_site(model, layer).layer for layer in config.layers)
    if len(set(blocks)) < len(blocks):
        raise InputError("a layer is given twice; name each once")
    return blocks


def spread_blocks(n_layers: int) -> list[int]:
    """Eight blocks at 20%, 30%, ... 90% of the depth; fewer where blocks would coincide.

    Of 30 blocks these are 6, 9, ... 27.
    """
    return sorted({n_layers * tenths // 10 for tenths in range(2, 10)})


def directions_of(at_site: Mapping[EditName, nn.Module]) -> Float[Tensor, "rank dim"]:
    """The directions that a site's interventions share."""
    intervention = next(iter(at_site.values()))
    assert isinstance(intervention, PartitionedSubspace)
    return intervention.weight.detach().cpu().clone()


def weighted_terms(
    runs: Sequence[EditedPass], direction: Direction, reduction: Reduction
) -> list[Term]:
    """The mean of the runs' token losses, as `objectives.reduce_tokens` takes it."""
    weights = token_weights([len(run.base.response) for run in runs], reduction)
    return [
        Term((run,), partial(_weighted_sum, weight=weight), direction, row)
        for row, (run, weight) in enumerate(zip(runs, weights, strict=True))
    ]


def _weighted_sum(values: Sequence[Tensor], _references: Sequence[float], weight: float) -> Tensor:
    return values[0].sum() * weight


def matching(
    divergence: Callable[[Tensor, Tensor], Tensor], with_gradient: TokenLoss | None = None
) -> TokenObjective:
    """The objective of matching the teacher's distribution in a divergence.

    Args:
        divergence: (student logits `[tokens, vocab]`, teacher logits) -> one value per token.
        with_gradient: the same in closed form, which takes less time and memory; by autograd if
            None.
    """

    def plain(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return divergence(student, teacher)

    def by_autograd(
        log_p: Tensor, log_q: Tensor | None, labels: Tensor, scratch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert log_q is not None
        with torch.enable_grad():
            # Log-probabilities are logits too, so this is the gradient with respect to those.
            logits = log_p.detach().clone().requires_grad_()
            values = divergence(logits, log_q)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
        return values.detach(), gradient

    return TokenObjective(plain, with_gradient or by_autograd)


def _likelihood(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return token_cross_entropy(student, labels)


LIKELIHOOD = TokenObjective(_likelihood, cross_entropy_with_gradient, has_teacher=False)


def preference_term(
    winner: EditedPass,
    loser: EditedPass,
    loss: Callable[[Response, Response], Tensor],
    direction: Direction,
    row: int,
    rows: int,
) -> Term:
    """A preference between the responses of two edited passes.

    Args:
        winner, loser: given to the loss in this order.
        loss: one of `objectives`' preference losses; its mean is taken over `rows` rows.
    """
    passes = (winner, loser)

    def share(values: Sequence[Tensor], untouched: Sequence[float]) -> Tensor:
        device = values[0].device
        responses = [
            Response(
                -value.sum().unsqueeze(0),
                torch.tensor([reference], device=device),
                torch.tensor([len(edited.base.response)], device=device),
            )
            for edited, value, reference in zip(passes, values, untouched, strict=True)
        ]
        return loss(*responses).sum() / rows

    return Term(passes, share, direction, row, (winner.base, loser.base))
