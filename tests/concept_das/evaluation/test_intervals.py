"""Rates, intervals and the harmonic mean."""

import math
from itertools import product
from statistics import harmonic_mean as reference

import numpy as np
import pytest
from scipy import stats

from concept_das.errors import InputError
from concept_das.evaluation import intervals
from concept_das.evaluation.intervals import (
    Numbers,
    harmonic_mean,
    holm,
    mean_interval,
    mean_with_interval,
    p_text,
    rate,
    ratio_interval,
    sign_flip_p,
)


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


def test_the_harmonic_mean_of_every_combination_of_ratings() -> None:
    ratings = list(product((0, 1, 2), repeat=3))
    expected = [reference(values) for values in ratings]
    assert harmonic_mean(*np.array(ratings).T) == pytest.approx(expected)
    assert float(harmonic_mean(1, 2, 2)) == pytest.approx(1.5)
    assert math.isnan(harmonic_mean(0, math.nan, 2))


def normal(rng: np.random.Generator, units: int) -> Numbers:
    return rng.normal(0.3, 1.0, units)


def ratings(rng: np.random.Generator, units: int) -> Numbers:
    """Means of ten ratings from 0 to 2, as a concept has them; their mean is 0.8."""
    return rng.choice([0.0, 1.0, 2.0], size=(units, 10), p=[0.4, 0.4, 0.2]).mean(axis=1)


@pytest.mark.parametrize("units", [5, 10, 24])
@pytest.mark.parametrize(("draw", "mean"), [(normal, 0.3), (ratings, 0.8)])
def test_intervals_of_means_hold_the_mean_in_95_of_100_draws(
    units: int, draw: object, mean: float
) -> None:
    rng = np.random.default_rng(units)
    found = [mean_interval(draw(rng, units)) for _ in range(1000)]  # type: ignore[operator]
    held = np.mean([low <= mean <= high for low, high in found])
    assert 0.935 < held < 0.965


@pytest.mark.parametrize("units", [5, 10, 24])
def test_intervals_of_ratios_hold_the_ratio_in_95_of_100_draws(units: int) -> None:
    """A gap of 1 nat per token and a gain of 0.6, which vary together from row to row."""
    rng = np.random.default_rng(units)
    held = []
    for _ in range(1000):
        gap = rng.normal(1.0, 0.3, units)
        low, high = ratio_interval(0.6 * gap + rng.normal(0.0, 0.2, units), gap)
        held.append(low <= 0.6 <= high)
    assert 0.935 < np.mean(held) < 0.965


@pytest.mark.parametrize("units", [5, 6, 10, 24])
def test_at_most_5_of_100_null_differences_have_a_p_below_005(
    units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if units > 13:
        monkeypatch.setattr(intervals, "_FLIPS", 499)  # for speed
    rng = np.random.default_rng(units)
    ps = [sign_flip_p(rng.normal(0.0, 1.0, units)) for _ in range(400)]
    assert np.mean(np.array(ps) < 0.05) <= 0.06  # 0.05 and the error of 400 draws
    if units >= 10:
        assert np.mean(np.array(ps) < 0.05) > 0.03  # and not for want of power


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0, 9.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((expected.low, expected.high))
    cut = mean_with_interval("x", values, within=(0.0, 7.0))
    assert cut == {"x": 4.2, "x_low": pytest.approx(expected.low), "x_high": 7.0}
    assert mean_interval(np.full(3, 2.0)) == (2.0, 2.0)
    assert np.isnan(mean_interval(values[:1])).all()


def test_the_interval_of_a_ratio_by_hand() -> None:
    """Its ends are the ratios r at which the t-test of numerator - r * denominator has p = 0.05."""
    rng = np.random.default_rng(3)
    below = rng.normal(2.0, 0.4, 8)
    above = 0.5 * below + rng.normal(0.0, 0.3, 8)
    low, high = ratio_interval(above, below)
    assert low < above.mean() / below.mean() < high
    for end in (low, high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05)


def test_a_ratio_to_what_may_be_0_has_no_interval() -> None:
    assert np.isnan(ratio_interval(np.ones(4), np.array([-1.0, 1.0, 2.0, 0.5]))).all()
    assert np.isnan(ratio_interval(np.ones(1), np.ones(1))).all()
    assert ratio_interval(np.full(3, 0.5), np.ones(3)) == pytest.approx((0.5, 0.5))


def test_sign_flips_by_hand() -> None:
    """All 64 sign patterns of six differences; missing ones do not count."""
    differences = np.array([0.5, 1.0, -0.25, 2.0, 0.75, 1.5])
    flips = np.array(list(product((1, -1), repeat=6)))
    expected = np.mean(np.abs(flips @ differences) >= abs(differences.sum()))
    assert sign_flip_p(differences) == pytest.approx(expected)
    assert sign_flip_p(np.append(differences, np.nan)) == pytest.approx(expected)
    assert sign_flip_p(np.zeros(6)) == 1.0
    assert math.isnan(sign_flip_p(differences[:5]))  # 2 / 2**5 is above 0.05


def test_p_values_as_text() -> None:
    assert [p_text(p) for p in (math.nan, 0.0002, 0.03125, 1.0)] == [
        "too few",
        "< 0.001",
        "0.031",
        "1.000",
    ]


def test_holm_by_hand() -> None:
    """The least of three p times 3, the next times 2, never less than the one before."""
    assert holm([0.03, math.nan, 0.01, 0.025]) == pytest.approx(
        [0.05, math.nan, 0.03, 0.05], nan_ok=True
    )
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0
