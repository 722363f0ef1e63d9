from dataclasses import replace
from typing import Any

import pytest
import torch

from concept_das import steer
from concept_das.models.blocks import capture, find_site
from concept_das.playground.reading import coordinates_of, pieces_of, places_of, read
from concept_das.steering.context import Together
from concept_das.steering.vector import SteeringVector
from interventions import coordinates
from objectives import jensen_shannon
from tests.concept_das.helpers import random_vector, tiny_loaded, unchecked, vector_at
from tests.concept_das.playground.tiny_playground import answered, setting_of, tiny_playground


def test_coordinates_are_0_and_1_at_the_factors_of_a_vector_that_clamps() -> None:
    model = tiny_loaded().model
    vector = vector_at(model, [1, 2])
    ends = {
        at.layer: torch.stack([at.negative_factor, at.positive_factor]) @ at.weight
        for at in vector.sites
    }
    for values in coordinates_of(vector, ends).values():
        torch.testing.assert_close(values, torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)


def test_the_coordinate_of_all_blocks_is_a_weighted_mean() -> None:
    model = tiny_loaded().model
    vector = vector_at(model, [1, 2])
    hidden = {layer: torch.randn(5, 16) for layer in vector.layers}
    found = coordinates_of(vector, hidden)
    weights = [(s.positive_factor - s.negative_factor).square().sum() for s in vector.sites]
    mean = (weights[0] * found[1] + weights[1] * found[2]) / sum(weights)
    torch.testing.assert_close(found[None], mean)


def test_coordinates_of_a_vector_that_adds_are_those_of_the_hidden_state() -> None:
    vector = random_vector(tiny_loaded().model, operation="add")
    hidden = torch.randn(5, 16)
    along = coordinates(hidden, vector.weight)[:, 0]
    torch.testing.assert_close(coordinates_of(vector, {1: hidden})[None], along)
    same = replace(vector, operation="clamp", negative_factor=vector.positive_factor)
    assert bool(coordinates_of(same, {1: hidden})[None].isfinite().all())


@pytest.mark.parametrize("options", [{}, {"positions": "prompt"}, {"positions": "s2"}])
def test_a_reading_by_hand(options: dict[str, Any]) -> None:
    playground = tiny_playground()
    setting = setting_of(playground, 1.0, 2.0, **options)
    pair = answered(playground, setting)
    reading = read(playground, setting, pair)
    assert "".join(reading.prompt.pieces) == "Hi there"
    assert "".join(reading.steered.pieces) == playground.loaded.tokenizer.decode(pair.steered)
    assert list(reading.steered.coordinates) == [
        ("two", 1),
        ("two", 2),
        ("two", None),
        ("one", 2),
        ("one", None),
    ]
    model, start = playground.loaded.model, len(pair.prompt.ids)
    ids = torch.tensor([pair.prompt.ids + pair.steered])
    vector = playground.vectors["one"]
    assert isinstance(vector, SteeringVector)
    with torch.no_grad():
        with capture(model, find_site(model, 2)) as seen:
            untouched = model(ids).logits[0, start - 1 : -1]
        expected = coordinates_of(vector, {2: seen[0][0]})[None]
    for text, part in (
        (reading.prompt, slice(pair.prompt.prefix_length, pair.prompt.prefix_length + 8)),
        (reading.steered, slice(start, None)),
    ):
        torch.testing.assert_close(torch.tensor(text.coordinates["one", None]), expected[part])
    both = Together(*playground.steering(setting))
    with torch.no_grad(), steer(model, both, positions=setting.positions, prompt_lengths=[start]):
        steered = model(ids).logits[0, start - 1 : -1]
    found = torch.tensor([change.divergence for change in reading.changes])
    torch.testing.assert_close(found, jensen_shannon(steered, untouched), atol=1e-5, rtol=1e-4)
    # Decoding is greedy, so the likeliest token is the one that was written.
    assert [c.steered[0] for c in reading.changes] == [c.piece for c in reading.changes]
    best = untouched.softmax(-1).max(-1)
    assert [c.unsteered[1] for c in reading.changes] == pytest.approx(
        best.values.tolist(), abs=1e-5
    )


def test_nothing_differs_at_multiplier_0() -> None:
    playground = tiny_playground()
    setting = setting_of(playground)
    reading = read(playground, setting, answered(playground, setting))
    assert reading.steered == reading.unsteered
    assert all(change.divergence == 0 for change in reading.changes)
    assert all(change.steered == change.unsteered for change in reading.changes)


def test_an_empty_answer_is_read() -> None:
    playground = tiny_playground()
    setting = setting_of(playground, 1.0)
    pair = replace(answered(playground, setting), steered=(), unsteered=())
    reading = read(playground, setting, pair)
    assert reading.steered.pieces == reading.changes == ()
    assert "".join(reading.prompt.pieces) == "Hi there"


def test_places_are_of_vectors_with_coordinates() -> None:
    playground = tiny_playground()
    assert places_of(playground) == [("two", None), ("two", 1), ("two", 2), ("one", None)]


class Bytes:
    """A tokenizer of one token per byte, like those that split a character."""

    def decode(self, ids: Any, **_: Any) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def test_tokens_that_make_one_character_are_one_piece() -> None:
    text = "a € 🦜!"
    with unchecked():
        pieces = pieces_of(Bytes(), [*text.encode()])  # type: ignore[arg-type]
        cut = pieces_of(Bytes(), [*text.encode()][:-2])  # type: ignore[arg-type]
    assert pieces == [("a", 1), (" ", 1), ("€", 3), (" ", 1), ("🦜", 4), ("!", 1)]
    assert [count for _, count in cut] == [1, 1, 3, 1, 3]
