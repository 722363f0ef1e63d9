"""A safety-relevant behaviour as a benchmark: what is asked, counted and compared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.judges.refusals import RefusalJudge, Verdict
from concept_das.words import Direction

# (an answer, the untouched model's answer to the same prompt) -> whether it counts
Counts = Callable[[str, str], bool]


@dataclass(frozen=True)
class RateOf:
    """A share of answers.

    Attributes:
        name: of the table's column.
        direction: the answers are steered this way.
        prompts: name of the set of prompts that they answer.
        counts: which of them are counted.
        meaning: the column in words.
        section: heading of the report's table that has it.
        verdict: count the answers of which the judge says this, in place of `counts`; those
            without a verdict are left out.
    """

    name: str
    direction: Direction
    prompts: str
    counts: Counts
    meaning: str
    section: str = "Measured"
    verdict: Verdict = None


@dataclass(frozen=True)
class DivergenceOf:
    """A mean of `benchmarks.safety.measures` over the prompts of two sets, paired by their numbers.

    Attributes:
        name: of the table's column.
        direction: of the steering.
        prompts: set of the steered model's prompts.
        reference: set of the untouched model's.
        meaning: the column in words.
        over_response: the column `NAME_response` in words, if it is also taken over the untouched
            model's answers to the reference prompts.
        section: heading of the report's table that has it.
    """

    name: str
    direction: Direction
    prompts: str
    reference: str
    meaning: str
    over_response: str = ""
    section: str = "Measured"

    @property
    def description(self) -> dict[str, Any]:
        """The part that its values depend on, as JSON can hold it."""
        names = ("name", "direction", "prompts", "reference")
        own = {name: getattr(self, name) for name in names}
        return {**own, "over_response": bool(self.over_response)}


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
        measures: what is measured, in the order of the report; the answers needed follow from the
            rates.
        trades: what the figures show.
        beside: columns that stand beside the published numbers.
        notes: what a reader must know, one sentence each or few.
        judge: of the rates that have a verdict.
    """

    name: str
    title: str
    measures: tuple[RateOf | DivergenceOf, ...]
    trades: tuple[Trade, ...]
    beside: tuple[str, ...]
    notes: tuple[str, ...] = ()
    judge: RefusalJudge | None = None

    @property
    def rates(self) -> list[RateOf]:
        """The shares of answers."""
        return [one for one in self.measures if isinstance(one, RateOf)]

    @property
    def divergences(self) -> list[DivergenceOf]:
        """The divergences."""
        return [one for one in self.measures if isinstance(one, DivergenceOf)]

    @property
    def explained(self) -> dict[str, str]:
        """Every column in words."""
        return {name: meaning for _, name, meaning in self._columns()}

    @property
    def sections(self) -> dict[str, list[str]]:
        """The columns of the report's tables, by heading."""
        found: dict[str, list[str]] = {}
        for heading, name, _ in self._columns():
            found.setdefault(heading, []).append(name)
        return found

    def _columns(self) -> Iterator[tuple[str, str, str]]:
        """Heading, name and meaning of every column."""
        for one in self.measures:
            yield one.section, one.name, one.meaning
            if isinstance(one, DivergenceOf) and one.over_response:
                yield one.section, f"{one.name}_response", one.over_response

    def asks(self, directions: tuple[Direction, ...]) -> list[tuple[Direction, str]]:
        """The directions and sets of prompts that the rates need answers of, each once."""
        pairs = [(one.direction, one.prompts) for one in self.rates if one.direction in directions]
        return list(dict.fromkeys(pairs))
