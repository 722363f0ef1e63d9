"""Rates, means and ratios with 95% intervals, tests of differences, the harmonic mean of ratings.

A unit is whatever was drawn independently: a row, a text, a concept. Intervals of means are
Student's, as percentiles of a bootstrap are too narrow for few units; simulations in the tests hold
their coverage. Tests flip signs and need no distribution.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from concept_das.errors import InputError

Numbers = NDArray[np.float64]

# With fewer units no two-sided sign-flip test can reach 0.05: the least p of 5 is 2 / 2**5.
FEWEST_FOR_P = 6

# Random sign flips where not all 2**units are tried: beyond 13 units.
_FLIPS = 9999


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


def mean_interval(values: Numbers) -> tuple[float, float]:
    """Student's 95% interval of a mean over units; NaN for fewer than two."""
    from scipy import stats

    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def mean_with_interval(
    name: str,
    values: "pd.Series | Numbers",
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> dict[str, float]:
    """Mean, `..._low` and `..._high`: Student's 95% interval over units.

    Missing values are left out. With fewer than two values the interval is NaN.

    Args:
        within: the least and the largest value that there can be, where the interval is cut.
    """
    known = pd.Series(values).dropna().to_numpy(dtype=float)
    low, high = np.clip(mean_interval(known), *within)
    mean = float(known.mean()) if len(known) else float("nan")
    return {name: mean, f"{name}_low": float(low), f"{name}_high": float(high)}


def ratio_interval(numerator: Numbers, denominator: Numbers) -> tuple[float, float]:
    """Fieller's (1954) 95% interval of the ratio of two means over the same units.

    It is Student's interval of a mean, carried over to ratios. NaN where the interval of the
    denominator's mean holds 0, as every ratio is possible then, and for fewer than two units.
    """
    from scipy import stats

    if len(denominator) < 2:
        return float("nan"), float("nan")
    t2 = stats.t.ppf(0.975, len(denominator) - 1) ** 2
    (above, both), (_, below) = t2 * np.cov(numerator, denominator) / len(denominator)
    top, bottom = float(numerator.mean()), float(denominator.mean())
    # The ratios r at which numerator - r * denominator could have the mean 0.
    square, linear, constant = bottom**2 - below, top * bottom - both, top**2 - above
    if square <= 0:
        return float("nan"), float("nan")
    half = np.sqrt(max(0.0, linear**2 - square * constant)) / square
    return float(linear / square - half), float(linear / square + half)


def sign_flip_p(differences: Numbers) -> float:
    """Two-sided p of the hypothesis that paired differences are as likely negative as positive.

    The share of sign flips whose mean is at least as far from 0. Up to 13 units all flips are
    tried; beyond that 9,999 random ones (fixed seed) and the differences as they are. Missing
    differences are left out.

    Returns:
        NaN for fewer than `FEWEST_FOR_P` units; see `p_text`.
    """
    from scipy import stats

    known = np.asarray(differences, dtype=float)
    known = known[~np.isnan(known)]
    if len(known) < FEWEST_FOR_P:
        return float("nan")
    found = stats.permutation_test(
        (known,),
        lambda values, axis: values.mean(axis=axis),
        permutation_type="samples",
        n_resamples=_FLIPS,
        random_state=0,
    )
    return float(found.pvalue)


def holm(ps: Sequence[float] | Numbers) -> Numbers:
    """p-values corrected for their number by Holm's (1979) step-down rule.

    NaN, where there was no test, stays NaN and does not count.
    """
    found = np.asarray(ps, dtype=float)
    order = np.argsort(found)[: int((~np.isnan(found)).sum())]
    corrected = np.full(len(found), np.nan)
    steps = found[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


def p_text(p: float) -> str:
    """A p-value as shown in tables; `too few` for NaN, as too few units were there to test."""
    if np.isnan(p):
        return "too few"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def harmonic_mean(*ratings: Numbers | NDArray[np.integer] | float | int) -> Numbers:
    """Harmonic mean of ratings that are not negative, elementwise.

    It is NaN if any rating is missing, else 0 if any rating is 0. A missing rating comes first:
    if zeros of incomplete ratings were kept, a mean over responses would be too low.
    """
    stacked = np.stack(np.broadcast_arrays(*(np.asarray(r, dtype=float) for r in ratings)))
    with np.errstate(divide="ignore"):
        return np.asarray(len(stacked) / (1 / stacked).sum(axis=0))
