"""What a judge is asked and what it says: three ratings of a response, and their score.

The scale and the score are AxBench's (arXiv 2501.17148): 0, 1 or 2 for the concept's presence, the
relatedness to the original instruction, and the fluency; their harmonic mean, from 0 to 2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import pandas as pd

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
        instruction: what the user asked, without any steering prompt.
        response: what the steered model answered.
        concept: what it was steered towards or away from, in words.
    """

    instruction: str
    response: str
    concept: str


@dataclass(frozen=True)
class Rating:
    """A judge's three ratings, each 0, 1, 2, or None where the judge gave none.

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


class Judge(Protocol):
    """Rates responses.

    Attributes:
        name: says which judge it was, in tables: `api gpt-4o-mini`, for instance.
        kind: ratings of different kinds are not comparable.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> Kind: ...  # noqa: D102

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order."""
        ...


def ratings_table(
    judge: Judge, items: Sequence[Item], ratings: Sequence[Rating], *, suppression: bool = False
) -> pd.DataFrame:
    """One row per item: its texts, the ratings, the score, and who judged. Missing is NaN."""
    records = [
        {
            "judge_kind": judge.kind,
            "judge": judge.name,
            "instruction": item.instruction,
            "response": item.response,
            "item_concept": item.concept,
            **{f"rating_{question}": getattr(rating, question) for question in QUESTIONS},
            "score": rating.score(suppression=suppression),
        }
        for item, rating in zip(items, ratings, strict=True)
    ]
    table = pd.DataFrame(records)
    numbers = [f"rating_{question}" for question in QUESTIONS] + ["score"]
    return table.astype({name: float for name in numbers if name in table.columns})


def one_judge(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join tables of ratings that one judge made.

    Raises:
        InputError: if a table does not say who judged, or they are of different judges.
    """
    kept = [table for table in tables if len(table)]
    if not kept:
        raise InputError("there are no ratings to join; run the judge first")
    for table in kept:
        if not {"judge_kind", "judge"} <= set(table.columns):
            raise InputError("a table of ratings has no columns judge_kind and judge; judge again")
    joined = pd.concat(kept, ignore_index=True)
    if joined[["judge_kind", "judge"]].isna().to_numpy().any():
        raise InputError("a row of ratings does not say who judged; judge again")
    judges = sorted({f"{kind}: {name}" for kind, name in _pairs(joined)})
    if len(judges) > 1:
        raise InputError(
            f"ratings of different judges do not belong in one table ({'; '.join(judges)}); "
            "make one table for each"
        )
    return joined


def _pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["judge_kind"], table["judge"], strict=True))
