import pytest
import torch

from concept_das.data.batches import batches, collate
from concept_das.models.logits import (
    logits_only_at,
    mean_log_likelihood,
    response_logits,
)
from tests.concept_das.helpers import EVERY_ARCHITECTURE, encoded_rows, plain_logits
from tests.tiny import tiny_model


@EVERY_ARCHITECTURE
def test_response_logits_are_the_models(architecture: str) -> None:
    model = tiny_model(architecture)
    turns = [row.elicit.base for row in encoded_rows()]
    for side in ("left", "right"):
        found = response_logits(model, collate(turns, padding_side=side))
        for turn, logits in zip(turns, found, strict=True):
            expected = plain_logits(model, turn)
            torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-4)


class _Boom(Exception):
    pass


def test_the_head_is_left_as_it_was() -> None:
    model = tiny_model()
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.tensor([[False, True, False]])
    expected = model(ids).logits
    with logits_only_at(model, mask):
        torch.testing.assert_close(model(ids).logits[0], expected[mask])
    with pytest.raises(_Boom), logits_only_at(model, mask):
        raise _Boom
    assert torch.equal(model(ids).logits, expected)


def test_mean_log_likelihood_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
    expected = (torch.tensor(0.25).log() + torch.tensor(0.8).log()) / 2
    assert mean_log_likelihood(logits, (1, 2)) == pytest.approx(float(expected))


def test_batches_are_consecutive_and_complete() -> None:
    assert list(batches([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(batches([], 2)) == []
