import threading
from itertools import pairwise
from typing import Any

import pytest
from torch import Tensor

from concept_das import generate_responses
from concept_das.errors import InputError
from concept_das.steering.context import Steering, Together
from tests.concept_das.helpers import random_vector, tiny_loaded
from tests.concept_das.playground.tiny_playground import answered, setting_of, tiny_playground


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "p2+s2"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_answers_are_those_of_generate_responses(positions: str, temperature: float) -> None:
    playground = tiny_playground()
    options: dict[str, Any] = {"positions": positions, "temperature": temperature, "seed": 3}
    pair = answered(playground, setting_of(playground, 1.5, **options))
    vector = playground.vectors["two"]
    expected = generate_responses(
        playground.loaded,
        playground.chat,
        ["Hi there"] * 2,
        steering=[None, Steering(vector, "elicit", 1.5)],
        max_new_tokens=8,
        keys=[0, 0],
        **options,
    )
    assert [playground.text(pair.unsteered), playground.text(pair.steered)] == expected
    assert pair.unsteered != pair.steered


def test_several_vectors_steer_at_once() -> None:
    playground = tiny_playground()
    pair = answered(playground, setting_of(playground, 1.0, 2.0))
    both = Together(
        *(
            Steering(v, "elicit", m)
            for v, m in zip(playground.vectors.values(), (1.0, 2.0), strict=True)
        )
    )
    (expected,) = generate_responses(
        playground.loaded, playground.chat, ["Hi there"], steering=[both], max_new_tokens=8
    )
    assert playground.text(pair.steered) == expected
    alone = answered(playground, setting_of(playground, 1.0))
    assert pair.steered != alone.steered


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_steered_at_multiplier_0(temperature: float) -> None:
    playground = tiny_playground()
    pair = answered(playground, setting_of(playground, temperature=temperature))
    assert pair.steered == pair.unsteered != ()


def test_answers_grow_by_a_token_at_a_time() -> None:
    playground = tiny_playground()
    pairs = [*playground.answers(setting_of(playground, 1.0))]
    assert pairs[0].unsteered == pairs[0].steered == ()
    for row in ("unsteered", "steered"):
        texts = [getattr(pair, row) for pair in pairs]
        assert all(b[: len(a)] == a and len(b) <= len(a) + 1 for a, b in pairwise(texts))
    assert len(pairs) == 9


def test_an_answer_ends_where_the_model_ends_it() -> None:
    playground = tiny_playground()
    whole = answered(playground, setting_of(playground, 1.0))
    playground.loaded.model.generation_config.eos_token_id = [whole.steered[3], 0]
    ended = answered(playground, setting_of(playground, 1.0))
    assert ended.steered == whole.steered[: whole.steered.index(whole.steered[3])]


def test_stopping_keeps_what_is_there() -> None:
    playground = tiny_playground()
    steps, asked = [], setting_of(playground, 1.0, max_new_tokens=400)
    for pair in playground.answers(asked):
        steps.append(pair)
        if len(steps) == 3:
            playground.stop()
    assert 2 <= len(steps[-1].steered) < 400


def test_an_abandoned_answer_makes_room_for_the_next() -> None:
    """A page that is closed never asks for the rest."""
    playground = tiny_playground()
    left = playground.answers(setting_of(playground, 1.0, max_new_tokens=400))
    next(left)
    next(left)
    before = threading.active_count()
    assert len(answered(playground, setting_of(playground, 1.0)).steered) == 8
    assert threading.active_count() < before
    following = playground.answers(setting_of(playground, 1.0))
    first = [next(following), next(following)]
    left.close()
    assert len([*first, *following]) == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": " \n"}, "the prompt is empty; write one"),
        ({"prompt": "a" * 600}, "shorten it, or ask for a shorter answer"),
        ({"positions": "here"}, "unknown positions 'here'"),
        ({"temperature": -1.0}, "the temperature is -1"),
        ({"max_new_tokens": 0}, "the longest answer is 0"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_sentence(
    options: dict[str, Any], words: str
) -> None:
    playground = tiny_playground()
    with pytest.raises(InputError, match="^[^\n]+$") as error:
        next(playground.answers(setting_of(playground, **options)))
    assert words in str(error.value)
    assert answered(playground, setting_of(playground)).steered


def test_vectors_that_contradict_each_other() -> None:
    loaded = tiny_loaded()
    playground = tiny_playground(a=random_vector(loaded.model), b=random_vector(loaded.model))
    with pytest.raises(InputError, match="clamp along the same direction"):
        next(playground.answers(setting_of(playground, 1.0, 2.0)))


def test_an_error_of_the_model_is_raised_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    playground = tiny_playground()

    def fail(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(playground.loaded.model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        answered(playground, setting_of(playground, 1.0))
