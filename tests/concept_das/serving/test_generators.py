"""A server's answers are those of the model itself, and its failures are one sentence."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from concept_das.errors import InputError, OutsideError
from concept_das.serving.generators import generator_of
from concept_das.serving.remote import Remote
from concept_das.steering.artifact import Artifact
from concept_das.steering.entries import Steering, Together
from concept_das.steering.generation import generate_responses
from concept_das.training.vectors import train_vector
from tests.benchmarks.judges.server import Reply, Served, error
from tests.concept_das.helpers import (
    ROWS,
    random_vector,
    tiny_chat,
    tiny_config,
    tiny_loaded,
    vector_at,
)
from tests.served import serving_vectors

LOADED = tiny_loaded()
CHAT = tiny_chat()
TEXTS = [row.negative_input for row in ROWS]
ONE = random_vector(LOADED.model)
SEVERAL = vector_at(LOADED.model, (0, 2), positions="p2+s2")
STEERING = [
    Steering(ONE, "elicit", 1.5),
    None,
    Steering(SEVERAL, "suppress"),
    Steering(ONE, "suppress", 0.5, "interpolate"),
    Steering(ONE, factor=torch.tensor([3.0])),
]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folders = {"one": ONE.save(tmp_path / "one"), "several": SEVERAL.save(tmp_path / "several")}
    with serving_vectors(LOADED, folders) as server:
        yield server


def answers(generator: Any = None, **options: Any) -> list[str]:
    options = {"steering": STEERING, "max_new_tokens": 6, **options}
    model = LOADED.model if generator is None else None
    return generate_responses(model, CHAT, TEXTS, generator=generator, **options)


def trained(method: str) -> Artifact:
    config = tiny_config(method, epochs=1, batch_size=5)
    return train_vector(LOADED, CHAT, ROWS, [], 1, config).vector


def impatient(served: Served, **changes: Any) -> Remote:
    return replace(Remote(served.url), max_retries=0, **changes)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_greedy_answers_are_the_models_own(served: Served, positions: str) -> None:
    expected = answers(positions=positions)
    assert answers(Remote(served.url), positions=positions) == expected
    assert len(set(expected)) > 1


def test_a_row_is_sampled_by_its_own_seed(served: Served) -> None:
    sampling = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 3, "keys": [4, 4, 5, 6, 7]}
    assert answers(Remote(served.url), **sampling) == answers(**sampling)
    seeds = {request["prompt"][-1]: request["seed"] for request in served.requests}
    assert len(seeds) <= len({request["seed"] for request in served.requests}) == 4


def test_the_server_gets_tokens_and_names_and_none_of_its_own_defaults(served: Served) -> None:
    answers(Remote(served.url), positions="generated")
    sent = {tuple(request.pop("prompt")): request for request in served.requests}
    assert set(sent) == {CHAT.prompt(text).ids for text in TEXTS}
    plain = sent[CHAT.prompt(TEXTS[1]).ids]
    assert "vllm_xargs" not in plain
    assert {name: plain[name] for name in ("top_k", "top_p", "min_p", "repetition_penalty")} == {
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    named = sent[CHAT.prompt(TEXTS[2]).ids]["vllm_xargs"]
    assert named["steering_vector"] == "several"
    assert named["steering_positions"] == "generated"


def test_a_steering_prompt_changes_the_prompt_alone(served: Served) -> None:
    text = trained("prompt")
    assert answers(Remote(served.url), steering=text) == answers(steering=text)
    assert not any("vllm_xargs" in request for request in served.requests)


def test_a_vector_is_found_by_its_content_whatever_it_is_called(served: Served) -> None:
    renamed = replace(ONE, concept="another", metrics={"recovery": 1.0})
    assert answers(Remote(served.url), steering=renamed) == answers(steering=ONE)


def test_a_vector_that_is_not_served_is_refused_before_any_work(served: Served) -> None:
    other = random_vector(LOADED.model, seed=1, concept="trees")
    with pytest.raises(InputError, match=r"does not serve .* 'trees' .*one, several.* --vector"):
        answers(Remote(served.url), steering=[ONE, None, other, None, None])
    assert served.requests == []


def test_what_vllm_cannot_apply_is_refused_before_any_work(served: Served) -> None:
    with pytest.raises(InputError, match="with one vector; for several at once"):
        answers(Remote(served.url), steering=Together(ONE, random_vector(LOADED.model, seed=1)))
    with pytest.raises(InputError, match="cannot apply what loreft learns"):
        answers(Remote(served.url), steering=trained("loreft"))
    assert served.requests == []


@pytest.mark.parametrize("fault", ["500", "400", "cut", "timeout"])
def test_a_failure_is_one_sentence_and_loses_nothing(served: Served, fault: str) -> None:
    reply = {
        "500": error(500),
        "400": error(400),
        "cut": Reply(cut=True),
        "timeout": Reply(hold=True),
    }[fault]
    answer, asked = served.otherwise, TEXTS[-1]
    prompt = list(CHAT.prompt(asked).ids)
    served.otherwise = lambda request: reply if request["prompt"] == prompt else answer(request)
    kept: dict[int, str] = {}

    def keep(indices: list[int], texts: list[str]) -> None:
        kept.update(zip(indices, texts, strict=True))

    patience = {"timeout": 2.0} if fault == "timeout" else {}
    with pytest.raises((InputError, OutsideError), match=served.url) as raised:
        answers(impatient(served, **patience), on_batch=keep)
    assert "\n" not in str(raised.value)
    assert kept == dict(enumerate(answers()[:-1]))


def test_no_server_is_one_sentence(served: Served) -> None:
    away = replace(impatient(served), url="http://127.0.0.1:9/v1")
    with pytest.raises(OutsideError, match=r"127.0.0.1:9/v1 cannot be reached"):
        answers(away)


def test_a_server_of_another_kind_is_told(served: Served) -> None:
    served.otherwise = lambda _request: Reply(body=b'{"choices": [{"text": "hello"}]}')
    with pytest.raises(InputError, match="gives no token ids"):
        answers(impatient(served), steering=None)
    del served.pages["/v1/vectors"]
    with pytest.raises(InputError, match="concept-das serve"):
        answers(impatient(served))


def test_a_generator_is_known_by_its_name() -> None:
    assert generator_of("hf", "a/b") is None
    assert generator_of("http://localhost:8000/v1", "a/b") == Remote("http://localhost:8000/v1")
    with pytest.raises(
        InputError, match="unknown generator 'vlm'; choose hf, vllm, or the address"
    ):
        generator_of("vlm", "a/b")
