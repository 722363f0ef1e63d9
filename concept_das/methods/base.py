"""The classes that methods derive from."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.chat_format import ChatFormat
from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.methods.recipes import method_defaults
from concept_das.methods.settings import TrainingConfig
from concept_das.methods.terms import Term, weighted_terms
from concept_das.methods.token_objective import TokenObjective
from concept_das.models.blocks import Site, find_site
from concept_das.models.loading import LoadedModel
from concept_das.steering.artifact import Artifact
from concept_das.steering.positions import Span, parse_positions
from concept_das.steering.vector import DirectionAtSite, Operation, SteeringVector
from concept_das.words import DIRECTIONS, Direction
from interventions.partition import PartitionedSubspace
from objectives.names import Reduction


@dataclass(frozen=True)
class Fit:
    """One concept to fit a method to.

    Attributes:
        layers: the blocks to act at, 0-based, from the lowest.
        rows: the training quadruples.
        common: the fields that every `Artifact` has, as keyword arguments.
    """

    loaded: LoadedModel
    chat: ChatFormat
    layers: tuple[int, ...]
    rows: Sequence[Quadruple]
    config: TrainingConfig
    common: dict[str, Any]

    @property
    def model(self) -> PreTrainedModel:
        """The model to steer."""
        return self.loaded.model

    @property
    def layer(self) -> int:
        """The block of a method that acts at one."""
        return self.layers[0]

    @cached_property
    def encoded(self) -> list[EncodedQuadruple]:
        """The training quadruples as token ids."""
        return self.loaded.encode(self.chat, self.rows, self.config.max_response_tokens)


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
        is_served: true if vLLM can apply what it makes: vectors and texts.
        package, install: an optional package that it needs, and how to get it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    steering: ClassVar[str]
    directions: ClassVar[tuple[Direction, ...]] = DIRECTIONS
    columns: ClassVar[tuple[str, ...]] = ("negative_output", "positive_output")
    defaults: ClassVar[Mapping[str, Any]] = {}
    draws: ClassVar[bool] = True
    is_served: ClassVar[bool] = False
    package: ClassVar[str] = ""
    install: ClassVar[str] = ""

    def check_installed(self) -> None:
        """Make sure that the method's optional package is there.

        Raises:
            InputError: naming it and the way to install it.
        """
        if self.package and importlib.util.find_spec(self.package) is None:
            raise InputError(f"{self.name} needs {self.package}; {self.install}")

    def check_one_layer(self, layers: Sequence[int]) -> None:
        """Make sure that a method that acts at one block is given one.

        Raises:
            InputError: if it is given several.
        """
        if len(layers) > 1:
            raise InputError(f"{self.name} acts at one layer; give --layer and no --layers")

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

    def sites(
        self, model: PreTrainedModel, layers: Sequence[int], config: TrainingConfig
    ) -> list[Site]:
        """The sites at which hidden states are edited; by default there can be only one.

        Args:
            layers: the blocks to act at, 0-based, from the lowest.

        Raises:
            InputError: if the method cannot act there.
        """
        self.check_one_layer(layers)
        return [find_site(model, layers[0])]

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

    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[EditedPass]:
        """The edited passes of a batch in a direction; by default each row's interchange."""
        return [getattr(row, direction) for row in rows]

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """The loss of a batch, as a sum; by default each direction's mean over the batch.

        Args:
            rng: for methods that draw factors.
        """
        return [
            term
            for direction in self.directions
            for term in weighted_terms(self.runs(rows, direction), direction, reduction)
        ]

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
    is_served = True

    def sites(
        self, model: PreTrainedModel, layers: Sequence[int], config: TrainingConfig
    ) -> list[Site]:
        """Every block that is given."""
        return [find_site(model, layer) for layer in layers]

    @abstractmethod
    def interventions(self, width: int, rank: int) -> Mapping[EditName, PartitionedSubspace]:
        """New interventions for one site, by the edit they make; they may share a weight."""

    @abstractmethod
    def factors_at(
        self, task: Fit, sites: Sequence[Site], trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> Iterable[tuple[Float[Tensor, "rank"], Float[Tensor, "rank"]]]:
        """The factors of each site at multiplier 1: of suppression, and of elicitation."""

    def artifact(
        self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> SteeringVector:
        """The directions of each site, with their factors."""
        sites = self.sites(task.model, task.layers, task.config)
        factors = self.factors_at(task, sites, trained)
        return SteeringVector(
            sites=[
                DirectionAtSite(directions_of(at_site), *negative_and_positive, site.layer)
                for site, at_site, negative_and_positive in zip(
                    sites, trained, factors, strict=True
                )
            ],
            operation=self.operation,
            positions=task.config.positions or self.positions,
            **task.common,
        )


def directions_of(at_site: Mapping[EditName, nn.Module]) -> Float[Tensor, "rank dim"]:
    """The directions that a site's interventions share."""
    intervention = next(iter(at_site.values()))
    assert isinstance(intervention, PartitionedSubspace)
    return intervention.weight.detach().cpu().clone()


def learned_factor(intervention: nn.Module) -> nn.Parameter:
    """The factor of an intervention that is trained with its directions."""
    factor = intervention.factor
    assert isinstance(factor, nn.Parameter)
    return factor
