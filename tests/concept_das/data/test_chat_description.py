"""A vector keeps the chat format it was trained with, and is held to it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from concept_das.cli.options import ChatOptions
from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate
from concept_das.steering.artifact import load_vector
from concept_das.steering.context import Steering
from concept_das.steering.generation import generate_responses
from tests.concept_das.helpers import encoded_rows, random_vector, tiny_chat, tiny_loaded
from tests.tiny import CHAT_TEMPLATE, tiny_model

# ChatML with today's date, and an option that writes into the model's turn.
DATED = CHAT_TEMPLATE.replace("Be kind.", "Be kind. ' + strftime_now('%d %B') + '")
THINKING = CHAT_TEMPLATE + "{% if add_generation_prompt and not think %}no{% endif %}"


def held_to(chat: ChatFormat, other: ChatFormat) -> None:
    """As a vector that is saved and read again."""
    described = json.loads(json.dumps(chat.description))
    other.check(described, chat.system, "this vector")


def test_the_same_chat_format(caplog: pytest.LogCaptureFixture) -> None:
    for options in (
        {},
        {"system": "Be brief."},
        {"chat_template": DATED},
        {"chat_template": THINKING, "think": True},
    ):
        held_to(tiny_chat(**options), tiny_chat(**options))
    tiny_chat().check(None, "Be brief.", "a vector of an earlier release")
    # Another text of the template that writes the same.
    held_to(tiny_chat(), tiny_chat(chat_template=CHAT_TEMPLATE + "{# a remark #}"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"system": "Be brief."}, "other system"),
        ({"chat_template": CHAT_TEMPLATE.replace("Be kind.", "Be very kind.")}, "other template"),
        ({"chat_template": DATED}, "other date, template"),
    ],
)
def test_a_prefix_of_another_length(options: dict[str, Any], found: str) -> None:
    length = len(tiny_chat().prefix)
    with pytest.raises(InputError, match=rf"behind a template prefix of {length} tok.*\({found}\)"):
        held_to(tiny_chat(), tiny_chat(**options))


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"system": "Be mild."}, {}, "other system"),
        ({"chat_template": THINKING, "think": True}, {"chat_template": THINKING}, "other options"),
        ({"chat_template": DATED}, {"chat_template": DATED, "date": "2024-07-27"}, "other date"),
    ],
)
def test_other_tokens(
    one: dict[str, Any], other: dict[str, Any], found: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    held_to(tiny_chat(**one), tiny_chat(**other))
    assert [r.message for r in caplog.records] == [
        f"this vector was trained with another chat format ({found})"
    ]


def test_generation_and_evaluation_hold_a_vector_to_it(tmp_path: Path) -> None:
    model, other = tiny_model(), tiny_chat(system="Answer in verse.")
    saved = random_vector(model, chat=tiny_chat().description).save(tmp_path)
    vector = load_vector(saved, model)
    for vectors in (Steering(vector), [None, Steering(vector)]):
        prompts = [other.prompt(text) for text in ("Hi", "Ho")]
        with pytest.raises(InputError, match="make the chat format that it was trained with"):
            generate_responses(model, other, prompts, steering=vectors, max_new_tokens=1)
    with pytest.raises(InputError, match="make the chat format that it was trained with"):
        evaluate(model, other, vector, encoded_rows())
    assert (
        len(
            generate_responses(
                model,
                tiny_chat(),
                [tiny_chat().prompt("Hi")],
                steering=Steering(vector),
                max_new_tokens=1,
            )
        )
        == 1
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"system": "Be brief.", "source_token": -2},
        {"chat_template": THINKING, "template_options": {"think": True}},
        {"chat_template": DATED, "date": "2026-01-31"},
    ],
)
def test_the_command_line_makes_a_vectors_own(options: dict[str, Any], tmp_path: Path) -> None:
    loaded = tiny_loaded()
    if "chat_template" in options:  # of a file
        (tmp_path / "chat.jinja").write_text(options["chat_template"], encoding="utf-8")
        options = {**options, "chat_template": str(tmp_path / "chat.jinja")}
    chat = ChatOptions(**options).of(loaded)
    vector = random_vector(
        loaded.model,
        system=chat.system,
        source_token=chat.source_token,
        chat=json.loads(json.dumps(chat.description)),
    )
    again = ChatOptions.of_vector(vector).of(loaded)
    assert again.description == chat.description
    assert (again.system, again.source_token) == (chat.system, chat.source_token)
