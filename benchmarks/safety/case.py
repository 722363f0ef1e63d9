"""A safety-relevant behaviour as a benchmark: what is asked, counted and compared."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.detectors.labelled import Labelled, agreement
from benchmarks.judges.refusals import RefusalJudge, Verdict
from concept_das.words import Direction

# (an answer, the untouched model's answer to the same prompt, the prompt) -> whether it counts
Counts = Callable[[str, str, str], bool]


@dataclass(frozen=True)
class Likely:
    """A floor under what a rate counts: the untouched model has to find the answer likely.

    Attributes:
        prompts: the set whose prompt, that of the same number, the untouched model reads before it.
        part: the end of a text that has to be likely.
        nats: the most surprise that passes, mean per token. SmolLM2-135M-Instruct has 0.5 to 1.2
            at its own answers, 2.7 to 4.6 at short ones that people write, and 5.8 to 10 at most
            texts whose words were shuffled.
    """

    prompts: str
    part: Callable[[str], str]
    nats: float = 5.0


@dataclass(frozen=True)
class Rule:
    """A rule that reads answers, and answers that were labelled by hand to check it by."""

    name: str
    says: Callable[[str], bool]
    labelled: Sequence[Labelled]


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
        likely: count only what the untouched model finds likely.
    """

    name: str
    direction: Direction
    prompts: str
    counts: Counts
    meaning: str
    section: str = "Measured"
    verdict: Verdict = None
    likely: Likely | None = None

    @property
    def description(self) -> list[Any]:
        """The part that its value depends on, as JSON can hold it."""
        floor = [self.likely.prompts, self.likely.nats] if self.likely else None
        return [self.name, self.direction, self.prompts, floor]


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
        rules: those that the rates count by; the judge's labelled answers are the first's.
        unjudged: warns that a real model's answers should be judged; for reports without a judge.
    """

    name: str
    title: str
    measures: tuple[RateOf | DivergenceOf, ...]
    trades: tuple[Trade, ...]
    beside: tuple[str, ...]
    notes: tuple[str, ...] = ()
    judge: RefusalJudge | None = None
    rules: tuple[Rule, ...] = ()
    unjudged: str = ""

    def agreements(self, verdicts: Sequence[Verdict] = ()) -> pd.DataFrame:
        """The agreement of rules and judge with labelled answers, one row each.

        Args:
            verdicts: the judge's on the labelled answers of the first rule; none without a judge.
        """
        rows = [
            agreement(rule.name, rule.labelled, [rule.says(one.text) for one in rule.labelled])
            for rule in self.rules
        ]
        if verdicts and self.judge is not None:
            name = f"judge {self.judge.description['model']}"
            rows.insert(0, agreement(name, self.rules[0].labelled, verdicts))
        return pd.DataFrame(rows)

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
