import contextlib
import io
from pathlib import Path
from typing import Any

import pytest

from concept_das import ChatFormat, load_model, load_vector
from concept_das.playground.answers import Playground
from concept_das.playground.script import script_of
from concept_das.playground.settings import Setting, Strength
from tests.concept_das.helpers import random_vector, vector_at
from tests.concept_das.playground.tiny_playground import answered, setting_of
from tests.tiny import save_tiny, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and two vectors on the disk."""
    folder = tmp_path_factory.mktemp("playground")
    save_tiny(folder / "model")
    chat = ChatFormat.of(load_model(str(folder / "model")).tokenizer, system="Be brief.")
    kept: dict[str, Any] = {
        "system": "Be brief.",
        "chat": chat.description,
        "prefix_length": len(chat.prefix),
    }
    vector_at(tiny_model(), [1, 2], **kept).save(folder / "two")
    random_vector(tiny_model(), layer=2, seed=9, **kept).save(folder / "one's")
    return folder


def playground_in(folder: Path) -> Playground:
    loaded = load_model(str(folder / "model"), device="cpu")
    vectors = {n: load_vector(n, loaded) for n in (f"{folder}/two", f"{folder}/one's")}
    chat = ChatFormat.of(loaded.tokenizer, system="Be brief.")
    return Playground(loaded, chat, vectors, {"device": "cpu"})


def printed(program: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(program, {})
    return out.getvalue().removesuffix("\n")


@pytest.mark.parametrize(
    ("multipliers", "options"),
    [
        ((1.0,), {}),
        ((1.0, 2.5), {"prompt": 'Say "it\'s" \\ twice\nplease', "positions": "prompt"}),
        ((0.0, 0.3), {"temperature": 1.3, "seed": 5}),
        ((0.0,), {}),
    ],
)
def test_the_code_makes_the_same_answers(
    folder: Path, multipliers: tuple[float, ...], options: dict[str, Any]
) -> None:
    playground = playground_in(folder)
    setting = setting_of(playground, *multipliers, **options)
    pair = answered(playground, setting)
    program = script_of(playground, setting)
    texts = [playground.text(pair.unsteered), playground.text(pair.steered)]
    assert printed(program) == "\n\n".join(texts)
    assert (texts[0] == texts[1]) is not any(multipliers)


def test_the_code_holds_no_more_than_it_needs(folder: Path) -> None:
    playground = playground_in(folder)
    name = f"{folder}/two"
    setting = Setting(
        "Hi", {name: Strength("suppress", 0.5), f"{folder}/one's": Strength("elicit", 0.0)}
    )
    program = script_of(playground, setting)
    assert program.count("load_vector(") == 1
    assert "Together" not in program
    assert "seed" not in program
    assert "Steering(vector, 'suppress', 0.5)" in program
