"""Rates, intervals and the harmonic mean."""

import math
from itertools import product
from statistics import harmonic_mean as reference

import numpy as np
import pytest
from scipy import stats

from concept_das.errors import InputError
from concept_das.evaluation.intervals import bootstrap_interval, harmonic_mean, rate


def test_the_interval_is_wilsons() -> None:
    found = rate(["yes", "no", "yes", "yes", "no", "yes", "yes", "yes", "no", "yes"], "yes".__eq__)
    n, p, z = 10, 0.7, 1.959964
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found.count, found.total, found.value) == (7, 10, 0.7)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-5)


def test_none_of_a_few_still_leaves_room() -> None:
    found = rate(["a", "b"], "c".__eq__)
    assert (found.value, found.low) == (0, 0)
    assert 0.5 < found.high < 1


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no texts"):
        rate([], bool)


def test_the_bootstrap_is_scipys() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 30))

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(a.mean(axis=axis) / (2 + b.mean(axis=axis)))

    expected = stats.bootstrap(
        (x, y),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert bootstrap_interval(ratio, x, y) == pytest.approx((expected.low, expected.high))
    assert np.isnan(bootstrap_interval(ratio, x[:1], y[:1])).all()


def test_the_harmonic_mean_of_every_combination_of_ratings() -> None:
    ratings = list(product((0, 1, 2), repeat=3))
    expected = [reference(values) for values in ratings]
    assert harmonic_mean(*np.array(ratings).T) == pytest.approx(expected)
    assert float(harmonic_mean(1, 2, 2)) == pytest.approx(1.5)
    assert math.isnan(harmonic_mean(0, math.nan, 2))
