"""Rates and means with 95% intervals, and the harmonic mean of ratings."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from concept_das.errors import InputError

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """The share of texts with a property, with a 95% Wilson score interval.

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
    """The share of true values.

    The interval is Wilson's (1927). It stays within 0 to 1, and it has a width even if none or all
    of a few texts count.

    Raises:
        InputError: if there are no texts.
    """
    from scipy import stats

    if not found:
        raise InputError("a rate was asked for of no texts; give at least one")
    interval = stats.binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    return Rate(sum(found), len(found), float(interval.low), float(interval.high))


def bootstrap(statistic: Callable[..., Numbers], *samples: Numbers, draws: int = 1000) -> Numbers:
    """Values of a statistic over resampled rows (fixed seed), shape `[draws]`.

    Args:
        statistic: takes one array `[draws, rows]` per sample and reduces the last axis.
        samples: arrays `[rows]`; the rows of all samples are drawn together.
    """
    rows = len(samples[0])
    chosen = np.random.default_rng(0).integers(rows, size=(draws, rows))
    return np.asarray(statistic(*(sample[chosen] for sample in samples)))


def bootstrap_interval(
    statistic: Callable[..., Numbers], *samples: Numbers, draws: int = 1000
) -> tuple[float, float]:
    """The 95% percentile interval of `bootstrap`; NaN for fewer than two rows."""
    if len(samples[0]) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(bootstrap(statistic, *samples, draws=draws), [2.5, 97.5])
    return float(low), float(high)


def mean_of_rows(rows: Numbers) -> Numbers:
    """The statistic of a bootstrapped mean: shape `[draws, rows]` to `[draws]`."""
    return np.asarray(rows.mean(axis=-1))


def mean_with_interval(
    name: str, values: "pd.Series | Numbers", draws: int = 1000
) -> dict[str, float]:
    """Mean, `..._low` and `..._high`: a 95% percentile bootstrap interval over the values.

    Missing values are left out. With fewer than two values the interval is NaN.
    """
    known = pd.Series(values).dropna().to_numpy(dtype=float)
    low, high = bootstrap_interval(mean_of_rows, known, draws=draws)
    mean = float(known.mean()) if len(known) else float("nan")
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def harmonic_mean(*ratings: Numbers | NDArray[np.integer] | float | int) -> Numbers:
    """Harmonic mean of ratings that are not negative, elementwise.

    It is NaN if any rating is missing, else 0 if any rating is 0. A missing rating comes first:
    if zeros of incomplete ratings were kept, a mean over responses would be too low.
    """
    stacked = np.stack(np.broadcast_arrays(*(np.asarray(r, dtype=float) for r in ratings)))
    with np.errstate(divide="ignore"):
        return np.asarray(len(stacked) / (1 / stacked).sum(axis=0))
