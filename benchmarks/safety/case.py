"""A safety-relevant behaviour as a benchmark: what is asked, counted and compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from concept_das.words import Direction

# (an answer, the untouched model's answer to the same prompt) -> whether it counts
Counts = Callable[[str, str], bool]

# A judge's word on an answer; None if it could not be read.
Verdict = bool | None


class Judge(Protocol):
    """A model that says of each answer whether it shows the behaviour."""

    @property
    def description(self) -> dict[str, Any]: ...  # noqa: D102

    @property
    def together(self) -> int: ...  # noqa: D102

    def verdicts(self, replies: Sequence[tuple[str, str]]) -> list[Verdict]: ...  # noqa: D102


@dataclass(frozen=True)
class RateOf:
    """A share of answers.

    Attributes:
        name: of the table's column.
        direction: the answers are steered this way.
        prompts: name of the set of prompts that they answer.
        counts: which of them are counted.
        verdict: count the answers of which the judge says this, in place of `counts`; those
            without a verdict are left out.
    """

    name: str
    direction: Direction
    prompts: str
    counts: Counts
    verdict: Verdict = None


@dataclass(frozen=True)
class DivergenceOf:
    """A mean of `benchmarks.safety.measures` over the prompts of two sets, paired by their numbers.

    Attributes:
        name: of the table's column.
        direction: of the steering.
        prompts: set of the steered model's prompts.
        reference: set of the untouched model's.
        over_response: whether it is also taken over the untouched model's answers to the reference
            prompts, in a column `NAME_response`.
    """

    name: str
    direction: Direction
    prompts: str
    reference: str
    over_response: bool = False


@dataclass(frozen=True)
class Trade:
    """A panel of the report's figures: a rate, and the divergence that is its price."""

    rate: str
    divergence: str


@dataclass(frozen=True)
class Case:
    """One behaviour.

    Attributes:
        name: of the benchmark.
        title: of the report.
        rates, divergences: what is measured; the answers needed follow from the rates.
        trades: what the figures show.
        explained: every column in words.
        sections: the columns of the report's tables, by heading.
        beside: columns that stand beside the published numbers.
        notes: what a reader must know, one sentence each or few.
        judge: of the rates that have a verdict.
    """

    name: str
    title: str
    rates: tuple[RateOf, ...]
    divergences: tuple[DivergenceOf, ...]
    trades: tuple[Trade, ...]
    explained: Mapping[str, str]
    sections: Mapping[str, tuple[str, ...]]
    beside: tuple[str, ...]
    notes: tuple[str, ...] = ()
    judge: Judge | None = None

    def asks(self, directions: tuple[Direction, ...]) -> list[tuple[Direction, str]]:
        """The directions and sets of prompts that the rates need answers of, each once."""
        pairs = [(one.direction, one.prompts) for one in self.rates if one.direction in directions]
        return list(dict.fromkeys(pairs))
