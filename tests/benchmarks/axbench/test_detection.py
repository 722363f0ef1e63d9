"""The largest coordinate along a direction over a text's tokens."""

import pandas as pd
import pytest
import torch

from benchmarks.axbench.detection import detection_axis, detection_scores, detectors
from benchmarks.steps import Subject
from tests.concept_das.helpers import plain_hidden, random_vector, tiny_chat, vector_at

TEXTS = pd.DataFrame(
    {
        "label": ["positive", "negative", "positive"],
        "instruction": ["Hi", "Name a long list of fruits", "Sing"],
        "response": ["Ahoy, matey, here I am!", "An apple.", "La"],
    }
)


def test_the_axis_points_towards_the_concept(subject: Subject) -> None:
    vector = random_vector(subject.loaded.model, rank=2)
    axis = detection_axis(vector)
    torch.testing.assert_close(axis.norm(), torch.tensor(1.0))
    assert float((vector.positive_factor - vector.negative_factor) @ (vector.weight @ axis)) > 0
    turned = random_vector(subject.loaded.model, rank=1)
    flipped = type(turned)(**{**vars(turned), "weight": -turned.weight})
    torch.testing.assert_close(detection_axis(flipped), -detection_axis(turned))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_those_of_each_text_alone(subject: Subject, batch_size: int) -> None:
    model, chat = subject.loaded.model, tiny_chat()
    vectors = {
        "a": random_vector(model, layer=1, seed=1),
        "b": random_vector(model, layer=1, seed=2, rank=3),
        "c": random_vector(model, layer=2, seed=3),
    }
    scores = detection_scores(subject, TEXTS, vectors, max_tokens=9, batch_size=batch_size)
    assert len(scores) == 9
    for name, vector in vectors.items():
        own = scores[scores["method"] == name]
        assert own["label"].tolist() == TEXTS["label"].tolist()
        for score, row in zip(own["score"], TEXTS.itertuples(), strict=True):
            turn = chat.prompt(row.instruction).with_response(chat.text_ids(row.response)[:9])
            hidden = plain_hidden(model, vector.layer, turn)[len(chat.prefix) :]
            assert score == pytest.approx((hidden @ detection_axis(vector)).max().item(), abs=1e-4)


def test_only_directions_detect(subject: Subject) -> None:
    vector = random_vector(subject.loaded.model)
    several = vector_at(subject.loaded.model, (1, 2))
    others = {"cdas@two": several, "loreft": object()}
    assert detectors({"cdas": vector, **others}) == {"cdas": vector}  # type: ignore[dict-item]
