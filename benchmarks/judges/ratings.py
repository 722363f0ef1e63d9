"""Three ratings of a response, and the interface of whoever rates.

The scale is AxBench's (arXiv 2501.17148): 0, 1 or 2 for the concept's presence, the relatedness to
the original instruction, and the fluency.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from concept_das.errors import InputError

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
