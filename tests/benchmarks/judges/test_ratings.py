from itertools import product
from statistics import harmonic_mean as reference
from typing import Any

import pytest

from benchmarks.judges.ratings import Rating
from concept_das.errors import InputError


def test_the_score_is_the_harmonic_mean_for_every_combination() -> None:
    for values in product(range(3), repeat=3):
        assert Rating(*values).score() == pytest.approx(reference(values))
        concept, instruct, fluency = values
        suppressed = Rating(*values).score(suppression=True)
        assert suppressed == pytest.approx(reference([2 - concept, instruct, fluency]))


@pytest.mark.parametrize("values", [(None, 2, 2), (2, None, 0), (0, 0, None), (None, None, None)])
@pytest.mark.parametrize("suppression", [False, True])
def test_a_missing_rating_makes_the_score_missing_and_not_zero(
    values: Any, suppression: bool
) -> None:
    assert Rating(*values).score(suppression=suppression) is None


@pytest.mark.parametrize("value", [-1, 3, 1.5, "2", float("nan")])
def test_a_rating_off_the_scale_is_rejected(value: Any) -> None:
    with pytest.raises(InputError, match="instruct"):
        Rating(0, value, 1)
