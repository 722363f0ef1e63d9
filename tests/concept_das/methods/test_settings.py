from typing import Any

import pytest

from concept_das.errors import InputError
from concept_das.methods.settings import TrainingConfig
from tests.concept_das.helpers import (
    unchecked,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1; it must be at least 1"),
        ({"max_response_tokens": 0}, "max_response_tokens is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be above 0"),
        ({"gradient_clip": -1.0}, "gradient_clip is -1.0; it must be above 0"),
        ({"reduction": "sum"}, "reduction is 'sum'; choose one of sequence, token"),
        ({"patience": -1}, "patience is -1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ],
)
def test_unusable_configurations(options: dict[str, Any], message: str) -> None:
    with unchecked(), pytest.raises(InputError, match=message):
        TrainingConfig(**options)
