"""The command `play`, without a browser; that is `tests/concept_das/playground/test_browser.py`."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from concept_das.cli import play as command
from concept_das.cli.configs import gathered
from concept_das.cli.parser import build_parser, main
from concept_das.playground import page
from concept_das.playground.answers import Playground
from tests.concept_das.cli.world import error_of


class Served:
    """A page that notes how it is served."""

    def __init__(self) -> None:
        self.playgrounds: list[Playground] = []
        self.options: dict[str, Any] = {}
        self.taken = False

    def build(self, playground: Playground) -> "Served":
        self.playgrounds.append(playground)
        return self

    def launch(self, **options: Any) -> tuple[None, str, None]:
        if self.taken:
            raise OSError("Cannot find empty port in range: 7860-7860.")
        self.options = options
        return None, "http://127.0.0.1:7860/", None

    def block_thread(self) -> None:
        """It is ended at once."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    served = Served()
    monkeypatch.setattr(command, "find_spec", lambda _: True)
    monkeypatch.setattr(page, "build", served.build)
    monkeypatch.setattr(page, "launch_options", dict)
    return served


def test_playing_with_a_vector(
    run: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", "--vector", f"{run}/vector", "--device=cpu", "--port=7861"]) == 0
    assert "The playground is at http://127.0.0.1:7860/" in capsys.readouterr().out
    (playground,) = served.playgrounds
    assert list(playground.vectors) == [f"{run}/vector"]
    assert playground.loading == {"device": "cpu"}
    assert served.options["server_port"] == 7861


def test_vectors_are_named_one_after_the_other() -> None:
    def vectors(*words: str) -> Any:
        return build_parser(only="play").parse_args(["play", *words]).play.vector

    assert vectors() == ["pirate"]
    assert vectors("--vector", "a/b", "null", "--port", "3") == ["a/b", "null"]
    assert vectors("--vector=a") == ["a"]
    assert vectors(*gathered(["play", "--vector", "a", "--vector", "b"])[1:]) == ["a", "b"]


def test_what_cannot_be_played_with(
    run: Path,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["play", "--device=cpu", "--vector", f"{run}/vector"]
    assert "is named twice" in error_of([*words, f"{run}/vector"], capsys)
    assert "holds no vector" in error_of([*words, f"{run}/no-vector"], capsys)
    served.taken = True
    assert "give another --port" in error_of([*words, "--port=7860"], capsys)
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert "run `pip install concept-das[play]`" in error_of(words, capsys)


def test_the_page_loads_gradio_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    with pytest.raises(AttributeError):
        page.launch_options()
