"""A request's steering, as it travels to vLLM."""

from typing import Any

import pytest
import torch

from concept_das import InputError, Steering, Together
from concept_das.serving.request import SteeringRequest
from tests.concept_das.helpers import random_vector
from tests.tiny import tiny_model


def test_both_forms_say_the_same() -> None:
    request = SteeringRequest("pirate", "suppress", 1.5, "interpolate", "p2+s2")
    assert SteeringRequest.of(request.extra_args()) == request
    assert SteeringRequest.of(request.xargs()) == request
    assert all(isinstance(value, (str, float, list)) for value in request.xargs().values())


def test_other_arguments_are_not_its_own() -> None:
    assert SteeringRequest.of(None) is None
    assert SteeringRequest.of({"session_id": "a"}) is None
    assert SteeringRequest.of({"steering_vector": "a", "session_id": "b"}) == SteeringRequest("a")


def test_it_asks_for_the_steering_that_it_was_made_of() -> None:
    vector = random_vector(tiny_model(), rank=2)
    given = Steering(vector, "suppress", 2.0, "interpolate")
    assert SteeringRequest.for_steering(given, "a").steering(vector) == given
    factor = torch.tensor([1.5, -2.0])
    request = SteeringRequest.for_steering(Steering(vector, factor=factor), "a", "prompt")
    assert request.positions == "prompt"
    read = SteeringRequest.of(request.xargs())
    assert read is not None
    assert torch.equal(read.steering(vector).target(), factor)


def test_what_no_request_can_say_is_refused() -> None:
    vector = random_vector(tiny_model(), operation="add")
    assert SteeringRequest.for_steering(vector, "a") == SteeringRequest("a")
    with pytest.raises(InputError, match="with one vector; for several at once"):
        SteeringRequest.for_steering(Together(vector, vector), "a")


@pytest.mark.parametrize(
    ("extra_args", "reason"),
    [
        ({"steering": "pirate"}, "give an object"),
        ({"steering": {}}, "names no vector"),
        ({"steering_multiplier": 2}, "names no vector"),
        ({"steering": {"vector": "a"}, "steering_vector": "a"}, "both as an object"),
        ({"steering": {"vector": "a", "strength": 2}}, "unknown word 'strength'"),
        ({"steering": {"vector": ["a"]}}, "give a text"),
        ({"steering": {"vector": "a", "direction": "up"}}, "choose elicit or suppress"),
        ({"steering": {"vector": "a", "rule": "law"}}, "choose paper or interpolate"),
        ({"steering": {"vector": "a", "multiplier": "2"}}, "give a finite number"),
        ({"steering": {"vector": "a", "multiplier": True}}, "give a finite number"),
        ({"steering": {"vector": "a", "multiplier": float("nan")}}, "give a finite number"),
        ({"steering": {"vector": "a", "positions": "here"}}, "unknown positions"),
        ({"steering": {"vector": "a", "factor": "1"}}, "give a list of numbers"),
        ({"steering": {"vector": "a", "factor": [None]}}, "give a finite number"),
    ],
)
def test_what_means_nothing_is_refused(extra_args: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        SteeringRequest.of(extra_args)


def test_what_the_vector_cannot_do_is_refused() -> None:
    added = random_vector(tiny_model(), operation="add")
    with pytest.raises(InputError, match="give rule paper"):
        SteeringRequest("a", rule="interpolate").steering(added)
    with pytest.raises(InputError, match="expected \\(1,\\)"):
        SteeringRequest("a", factor=(1.0, 2.0)).steering(added)
