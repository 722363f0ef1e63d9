"""The vectors that an engine serves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from concept_das import InputError, VectorMismatchError
from concept_das.models.identity import ModelIdentity
from concept_das.serving.catalogue import Catalogue, engine_arguments
from concept_das.serving.request import SteeringRequest
from tests.concept_das.helpers import random_vector, vector_at
from tests.concept_das.steering.test_artifact import trained
from tests.tiny import tiny_model


def test_vectors_are_named_at_start(tmp_path: Path) -> None:
    model = tiny_model()
    random_vector(model).save(tmp_path / "one")
    vector_at(model, (0, 2)).save(tmp_path / "two")
    arguments = engine_arguments({"a": tmp_path / "one", "b.2": tmp_path / "two"})
    catalogue = Catalogue.of(arguments["additional_config"])
    assert [row["name"] for row in catalogue.described()] == ["a", "b.2"]
    assert catalogue.described()[1]["layers"] == [0, 2]
    assert json.dumps(catalogue.described())
    assert catalogue.steering(SteeringRequest("a")).vector.layers == (1,)
    with pytest.raises(InputError, match="no vector 'c' here; known: a, b.2"):
        catalogue.steering(SteeringRequest("c"))


def test_an_engine_without_vectors_knows_none() -> None:
    for config in ({}, {"other": 1}, None):
        catalogue = Catalogue.of(config)
        with pytest.raises(InputError, match="started without vectors"):
            catalogue.digest(SteeringRequest("a"), 5)


@pytest.mark.parametrize("own", [1, {}, {"vectors": ["a"]}, {"vectors": {}, "more": 1}])
def test_a_configuration_that_means_nothing_is_refused(own: object) -> None:
    with pytest.raises(InputError, match="give"):
        Catalogue.of({"concept_das": own})


def test_the_digest_is_of_what_the_edits_do(tmp_path: Path) -> None:
    model = tiny_model()
    vector = random_vector(model)
    vector.save(tmp_path / "a")
    replace(vector, concept="another word for it").save(tmp_path / "b")
    replace(vector, positions="prompt").save(tmp_path / "c")
    random_vector(model, seed=1).save(tmp_path / "d")
    catalogue = Catalogue.read({name: tmp_path / name for name in "abcd"})
    requests = [
        *(SteeringRequest(name) for name in "acd"),
        SteeringRequest("a", "suppress"),
        SteeringRequest("a", multiplier=2.0),
        SteeringRequest("a", rule="interpolate"),
        SteeringRequest("a", positions="generated"),
        SteeringRequest("a", factor=(1.0,)),
    ]
    digests = {(i, catalogue.digest(request, 5)) for i, request in enumerate(requests)}
    assert len({digest for _, digest in digests}) == len(requests)
    assert catalogue.digest(SteeringRequest("b"), 5) == catalogue.digest(SteeringRequest("a"), 5)
    # A token of the prompt may be generated in a request with a shorter one.
    longer = {(i, catalogue.digest(request, 6)) for i, request in enumerate(requests)}
    assert {i for i, _ in digests - longer} == {1, 6}


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    trained("loreft").save(tmp_path)
    with pytest.raises(InputError, match="steers by 'loreft'.*serve a vector that clamps or adds"):
        Catalogue.read({"a": tmp_path})
    with pytest.raises(InputError, match="holds no vector"):
        Catalogue.read({"a": tmp_path / "nowhere"})
    with pytest.raises(InputError, match="no name for a served vector"):
        Catalogue.read({"a b": tmp_path})


def test_a_vector_of_another_model_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    random_vector(model).save(tmp_path)
    catalogue = Catalogue.read({"a": tmp_path})
    catalogue.check_model(ModelIdentity.of(model))
    other = ModelIdentity.of(tiny_model(seed=1))
    with pytest.raises(VectorMismatchError, match="the vector a belongs to"):
        catalogue.check_model(other)
    config = engine_arguments({"a": tmp_path}, allow_other_weights=True)["additional_config"]
    Catalogue.of(config).check_model(other)
    unknown = replace(other, fingerprint="")
    catalogue.check_model(unknown)
    with pytest.raises(VectorMismatchError):
        catalogue.check_model(replace(unknown, n_layers=7))
