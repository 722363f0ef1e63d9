"""The entries of a call that steers: for each row one vector and its strength, several, or none."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.chat_format import Prompt
from concept_das.errors import InputError
from concept_das.models.blocks import Site, find_site
from concept_das.steering.artifact import Artifact
from concept_das.steering.conditions import Condition
from concept_das.steering.positions import EVERYWHERE, Span
from concept_das.steering.vector import SteeringVector
from concept_das.words import Direction, Rule

log = logging.getLogger(__name__)

OVERLAP_TO_WARN = 0.3
"""Largest cosine between the directions of two vectors without a warning. Directions that have
nothing to do with each other stay below it: at rank 4 in 576 dimensions chance gives 0.17."""

OVERLAP_TO_REFUSE = 0.99
"""Largest cosine (8 degrees) at which two clamps still act on different directions."""


@dataclass(frozen=True)
class RowEdit:
    """The edit that a vector makes to one row at one site.

    Attributes:
        weight: the directions.
        target: the coordinates to clamp to, or the amounts to add.
        clamps: true if it clamps, false if it adds.
        span: the tokens that are edited.
        when: the condition, if any, under which the row is edited.
    """

    weight: Float[Tensor, "rank dim"]
    target: Float[Tensor, "rank"]
    clamps: bool
    span: Span = EVERYWHERE
    when: Condition | None = None


@dataclass(frozen=True)
class Steering:
    """A vector or other artifact to steer with, and its strength.

    Attributes:
        vector: the artifact that a method made.
        multiplier, rule: see `SteeringVector.target`; a learned edit and an adapter are scaled by
            the multiplier.
        factor: `[rank]` coordinates to use instead of a vector's measured factor.
        when: steer only the rows whose prompt meets this condition; all if None.
    """

    vector: Artifact
    direction: Direction = "elicit"
    multiplier: float = 1.0
    rule: Rule = "paper"
    factor: Tensor | None = None
    when: Condition | None = None

    def __post_init__(self) -> None:
        """Refuse strengths that mean nothing.

        Raises:
            InputError: if the multiplier is no finite number, or stands beside a factor.
        """
        if not isinstance(self.multiplier, (int, float)) or not math.isfinite(self.multiplier):
            raise InputError(f"multiplier is {self.multiplier!r}; give a finite number")
        if self.factor is not None and self.multiplier != 1.0:
            raise InputError("factor and multiplier are both given; scale the factor itself")

    @property
    def parts(self) -> tuple["Steering", ...]:
        """All that steers the row: this alone."""
        return (self,)

    @property
    def vectors(self) -> tuple[Artifact, ...]:
        """All that must fit the model and its chat format: the artifact, and its condition's."""
        return (self.vector,) if self.when is None else (self.vector, self.when.vector)

    def target(self, index: int = 0) -> Float[Tensor, "rank"]:
        """The coordinates that a vector is to clamp to, or the amounts to add, at one of its sites.

        Raises:
            InputError: on an unknown direction or rule; if `factor` has another rank, or is given
                for a vector with several sites.
        """
        assert isinstance(self.vector, SteeringVector)
        if self.factor is not None:
            rank = self.vector.weight.shape[0]
            if self.factor.numel() != rank:
                raise InputError(f"factor has shape {tuple(self.factor.shape)}; expected ({rank},)")
            return self.factor.float().reshape(rank)
        return self.vector.targets(self.direction, self.multiplier, self.rule)[index]

    def edits(self, model: PreTrainedModel) -> dict[Site, RowEdit]:
        """The edit that a vector makes to a row at each of its sites."""
        assert isinstance(self.vector, SteeringVector)
        clamps = self.vector.operation == "clamp"
        return {
            find_site(model, at.layer): RowEdit(
                at.weight, self.target(index), clamps, self.vector.span, self.when
            )
            for index, at in enumerate(self.vector.sites)
        }

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt to give to the model: another one if this steers with text."""
        return self.vector.prompt(prompt, self.direction)

    def check(self) -> None:
        """Make sure that it can be applied.

        Raises:
            InputError: on an unknown rule, a direction it cannot steer in, a factor of other rank.
        """
        self.vector.check_direction(self.direction)
        if isinstance(self.vector, SteeringVector):
            self.target()
        elif self.factor is not None or self.rule != "paper":
            raise InputError(
                f"{self.vector.method} has no factors; give a multiplier only, and rule paper"
            )
        if self.when is not None and self.vector.is_text:
            raise InputError(
                "a steering prompt is put into the text before a condition can be read; choose the "
                "prompts by the condition's holds"
            )


@dataclass(frozen=True, init=False)
class Together:
    """Several vectors, or other artifacts, that steer one row at once.

        steer(model, Together(pirate, formal.at(1.5, "suppress")))

    At a block that several of them edit, each edit is computed from the hidden state before any of
    them, and the changes are added. So their order does not matter, and vectors with orthogonal
    directions act as if each were alone. Where directions overlap, each moves the others'
    coordinates by the cosine times its own change; see `overlap`.

    Attributes:
        parts: what steers the row; a bare vector elicits at multiplier 1.
    """

    parts: tuple[Steering, ...]

    def __init__(self, *entries: "Artifact | Steering | Together") -> None:
        """Put them together.

        Raises:
            InputError: if nothing is given, or two vectors clamp along the same direction.
        """
        if not entries:
            raise InputError("Together() holds nothing; give it the vectors to steer a row with")
        parts = tuple(part for entry in entries for part in parts_of(entry))
        object.__setattr__(self, "parts", parts)
        for (i, a), (j, b) in combinations(enumerate(parts), 2):
            cosine = overlap(a.vector, b.vector)
            if cosine <= OVERLAP_TO_WARN:
                continue
            names = f"{_named(a, i)} and {_named(b, j)}"
            clamps = all(getattr(p.vector, "operation", "") == "clamp" for p in (a, b))
            if clamps and cosine > OVERLAP_TO_REFUSE:
                raise InputError(
                    f"{names} clamp along the same direction, to targets that contradict each "
                    "other; leave one out"
                )
            log.warning(
                "%s have overlapping directions (largest cosine %.2f): each moves the other's "
                "coordinates by up to that share of its own change",
                names,
                cosine,
            )

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt to give to the model: another one if some of it steers with text."""
        return reduce(lambda changed, part: part.prompt(changed), self.parts, prompt)

    @property
    def overlap(self) -> float:
        """The largest overlap of any two of its vectors, see `overlap`."""
        pairs = combinations((part.vector for part in self.parts), 2)
        return max((overlap(a, b) for a, b in pairs), default=0.0)


def _named(part: Steering, index: int) -> str:
    return f"vector {index} ({part.vector.concept or part.vector.method})"


Entry = Artifact | Steering | Together
"""Anything that can steer a row."""


def parts_of(entry: Entry | None, *strength: object) -> tuple[Steering, ...]:
    """All that steers a row, each with its strength.

    Args:
        strength: of a bare vector: direction, multiplier and rule.
    """
    if entry is None:
        return ()
    if isinstance(entry, Artifact):
        return (Steering(entry, *strength),)  # type: ignore[arg-type]
    return entry.parts


def prefix_of(parts: Sequence[Steering]) -> int:
    """Tokens at the start of a row that are not steered; 0 if nothing steers it.

    Raises:
        InputError: if the parts protect different numbers of tokens.
    """
    lengths = sorted({vector.prefix_length for part in parts for vector in part.vectors})
    if len(lengths) > 1:
        raise InputError(
            f"vectors on one row protect different template prefixes, of {lengths[0]} and "
            f"{lengths[-1]} tokens; train them with one chat format, or give steer a prefix_length"
        )
    return lengths[0] if lengths else 0


def check_in_time(parts: Sequence[Steering]) -> None:
    """Make sure that a row's conditions are read before anything of the row is changed.

    Raises:
        InputError: if something acts at a block below a condition's.
    """
    blocks = [
        # A vector changes the output of its block, where it can be read first.
        (min(part.vector.layers) - (not isinstance(part.vector, SteeringVector)), part)
        for part in parts
        if part.vector.layers
    ]
    conditions = [part.when for part in parts if part.when is not None]
    if not blocks or not conditions:
        return
    highest = max(condition.vector.layer for condition in conditions)
    first, part = min(blocks, key=lambda pair: pair[0])
    if highest > first:
        raise InputError(
            f"the condition is read at block {highest}, and {part.vector.method} steers from block "
            f"{min(part.vector.layers)} on; find one at layers=range({first + 1}), or ask the "
            "condition's holds beforehand and steer those rows"
        )


def overlap(a: Artifact, b: Artifact) -> float:
    """The largest cosine between directions of two vectors, over the blocks and tokens both edit.

    It is the cosine of the smallest principal angle between the two subspaces. 0 if they have no
    block or no tokens in common, if both add, which cannot disturb each other, or if one is no
    vector.
    """
    if not (isinstance(a, SteeringVector) and isinstance(b, SteeringVector)):
        return 0.0
    if a.operation == b.operation == "add" or not a.span.meets(b.span):
        return 0.0
    at = {site.layer: _basis(site.weight) for site in b.sites}
    cosines = [
        torch.linalg.svdvals(_basis(site.weight) @ at[site.layer].T)
        for site in a.sites
        if site.layer in at
    ]
    return min(max((float(c.max()) for c in cosines if len(c)), default=0.0), 1.0)


def _basis(weight: Float[Tensor, "rank dim"]) -> Float[Tensor, "_ dim"]:
    """Orthonormal rows that span the directions; none for directions of zeros."""
    _, sizes, rows = torch.linalg.svd(weight.float().cpu(), full_matrices=False)
    return rows[sizes > 1e-6 * sizes.max()]
