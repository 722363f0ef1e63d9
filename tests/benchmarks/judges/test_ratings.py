from typing import Any

import pytest

from benchmarks.judges.ratings import Rating
from concept_das.errors import InputError


@pytest.mark.parametrize("value", [-1, 3, 1.5, "2", float("nan")])
def test_a_rating_off_the_scale_is_rejected(value: Any) -> None:
    assert Rating(0, None, 2).instruct is None
    with pytest.raises(InputError, match="instruct"):
        Rating(0, value, 1)
