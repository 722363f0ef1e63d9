import pytest
import torch

from concept_das.data.chat_format import Turn
from concept_das.evaluation.by_strength import ReplayedLogits, WholeModelLogits, steered_logits
from concept_das.steering.context import Steering
from concept_das.words import DIRECTIONS
from tests.concept_das.helpers import EVERY_ARCHITECTURE, encoded_rows, random_vector, vector_at
from tests.tiny import LAYERS, tiny_model


def turns() -> list[Turn]:
    return [turn for row in encoded_rows(3) for turn in (row.elicit.base, row.elicit.source)]


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("layers", [(0,), (LAYERS - 1,), (0, 2)])
@pytest.mark.parametrize(
    ("operation", "positions"), [("clamp", "all"), ("add", "all"), ("clamp", "p2+s2")]
)
@torch.no_grad()
def test_replayed_logits_are_those_of_the_whole_model(
    architecture: str, layers: tuple[int, ...], operation: str, positions: str
) -> None:
    model = tiny_model(architecture)
    vector = vector_at(model, layers, operation=operation, positions=positions)
    replayed = ReplayedLogits(model, vector, turns()[:2])
    whole = WholeModelLogits(model)
    for steering in (None, *(Steering(vector, d, m) for d in DIRECTIONS for m in (0.5, 2.0))):
        expected = whole.of(turns(), steering)
        for rows in (turns(), turns()[::-1]):  # kept states belong to the rows asked for
            found = replayed.of(rows, steering)
            wanted = expected if rows == turns() else expected[::-1]
            for ours, theirs in zip(found, wanted, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_vector_with_another_prefix_is_not_replayed() -> None:
    """It steers template tokens, whose keys and values a replay shares."""
    model = tiny_model()
    for prefix_length, kind in ((0, WholeModelLogits), (None, ReplayedLogits)):
        own = {} if prefix_length is None else {"prefix_length": prefix_length}
        vector = random_vector(model, **own)
        assert type(steered_logits(model, vector, turns())) is kind
