"""Three ratings of a response, their score, and the interface of whoever rates.

The scale and the score are AxBench's (arXiv 2501.17148): 0, 1 or 2 for the concept's presence, the
relatedness to the original instruction, and the fluency; their harmonic mean, from 0 to 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from concept_das.errors import InputError
from concept_das.evaluation.intervals import harmonic_mean

Question = Literal["concept", "instruct", "fluency"]
QUESTIONS: tuple[Question, ...] = ("concept", "instruct", "fluency")

Kind = Literal["api", "local", "proxy"]

HIGHEST = 2
"""The ratings are 0, 1 and this."""


@dataclass(frozen=True)
class Item:
    """A response to be judged.

    Attributes:
        instruction: the user's request, without any steering prompt.
        response: the steered model's answer.
        concept: the one it was steered towards or away from, in words.
    """

    instruction: str
    response: str
    concept: str


@dataclass(frozen=True)
class Rating:
    """Three ratings of one response, each 0, 1, 2, or None where the judge gave none.

    Raises:
        InputError: for any other value.
    """

    concept: int | None
    instruct: int | None
    fluency: int | None

    def __post_init__(self) -> None:
        for question in QUESTIONS:
            value = getattr(self, question)
            if value is not None and value not in range(HIGHEST + 1):
                raise InputError(f"the rating {value!r} for {question} is not 0, 1, 2 or None")

    def score(self, *, suppression: bool = False) -> float | None:
        """Harmonic mean of the three, from 0 to 2; None if one of them is missing.

        Args:
            suppression: the concept should be absent; 2 - concept takes its place.
        """
        concept = self.concept
        if suppression and concept is not None:
            concept = HIGHEST - concept
        if concept is None or self.instruct is None or self.fluency is None:
            return None
        return float(harmonic_mean(concept, self.instruct, self.fluency))


EMPTY_RESPONSE = Rating(0, 0, 0)
"""Every judge rates a response without text like this, by rule and without being asked."""


class Rater(Protocol):
    """Rates responses.

    Attributes:
        name: of the judge in tables, for instance `api gpt-4o-mini`.
        kind: ratings of different kinds are not comparable.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> Kind: ...  # noqa: D102

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order."""
        ...
