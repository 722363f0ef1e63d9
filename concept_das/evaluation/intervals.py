"""Shares of texts with their uncertainty."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from concept_das.errors import InputError


@dataclass(frozen=True)
class Rate:
    """How many of a number of texts, with a 95% Wilson score interval.

    Attributes:
        count: texts that have the property.
        total: all texts.
        low, high: bounds of the interval, between 0 and 1.
    """

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.count / self.total

    def __str__(self) -> str:
        return f"{self.value:.0%} ({self.count}/{self.total}; {self.low:.0%} to {self.high:.0%})"


def rate(texts: Iterable[str], has: Callable[[str], bool]) -> Rate:
    """The share of texts that have a property, as in `rate_of`.

    Raises:
        InputError: if there are no texts.
    """
    return rate_of([has(text) for text in texts])


def rate_of(found: Sequence[bool]) -> Rate:
    """The share of what is true.

    The interval is Wilson's (1927), which stays within 0 to 1 and has a width also where none or
    all of a few texts count.

    Raises:
        InputError: if there are no texts.
    """
    if not found:
        raise InputError("a rate was asked for of no texts; give at least one")
    interval = stats.binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    return Rate(sum(found), len(found), float(interval.low), float(interval.high))


def mean_with_interval(name: str, values: pd.Series) -> dict[str, float]:
    """Mean, `..._low` and `..._high`: a 95% percentile bootstrap interval over the values.

    Missing values are left out; with fewer than two there is no interval.
    """
    known = values.dropna().to_numpy(dtype=float)
    low = high = float("nan")
    if len(known) > 1:
        draws = np.random.default_rng(0).integers(len(known), size=(1000, len(known)))
        low, high = np.percentile(known[draws].mean(axis=1), [2.5, 97.5])
    mean = float(known.mean()) if len(known) else float("nan")
    return {name: mean, f"{name}_low": float(low), f"{name}_high": float(high)}
