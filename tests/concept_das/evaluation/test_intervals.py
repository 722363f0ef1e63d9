"""Rates and their intervals."""

import math

import pytest

from concept_das.errors import InputError
from concept_das.evaluation.intervals import rate


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
