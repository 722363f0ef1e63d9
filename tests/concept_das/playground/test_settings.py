from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from concept_das.errors import InputError
from concept_das.playground.settings import Setting, Strength

START = Setting("Hi", {"pirate": Strength(), "runs/a/vector": Strength("suppress", 0.0)})


def read(query: str) -> dict[str, str]:
    """A link's parameters, as a server decodes them."""
    return dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))


@pytest.mark.parametrize(
    "setting",
    [
        START,
        Setting(
            "Ahoy & bye? 100% “ship” #1 + 2\nsecond line",
            {"pirate": Strength("suppress", 0.7), "runs/a/vector": Strength("elicit", 2.25)},
            "p2+s2",
            100,
            0.8,
            7,
        ),
    ],
)
def test_a_link_holds_the_whole_setting(setting: Setting) -> None:
    assert START.of_query(read(setting.query)) == setting


def test_a_link_may_say_less() -> None:
    assert START.of_query({}) == START
    assert START.of_query({"prompt": "Bye", "__theme": "dark"}) == replace(START, prompt="Bye")
    other = START.of_query({"vector.runs/a/vector": "elicit 2"}).strengths
    assert other == {"pirate": Strength(multiplier=0.0), "runs/a/vector": Strength("elicit", 2.0)}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"vector.ship": "elicit 1"}, "start the playground with --vector ship"),
        ({"vector.pirate": "elicit"}, "'' for pirate; it must be a number"),
        ({"vector.pirate": "upwards 1"}, "it must be elicit or suppress and a multiplier"),
        ({"vector.pirate": "elicit 9"}, "the multiplier of pirate is 9; give 0 to 3"),
        ({"vector.pirate": "elicit nan"}, "must be a number"),
        ({"seed": "often"}, "'often' for seed; it must be a number"),
        ({"temperature": "-1"}, "the temperature is -1; give 0 to 2"),
        ({"max_new_tokens": "0"}, "the longest answer is 0; give 1 to 512"),
        ({"positions": "middle"}, "unknown positions 'middle'"),
        ({"prompt": " "}, "the prompt is empty; write one"),
    ],
)
def test_a_link_that_cannot_be_used(query: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match="^[^\n]+$") as error:
        START.of_query(query)
    assert words in str(error.value)
