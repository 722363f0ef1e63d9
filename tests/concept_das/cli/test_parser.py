"""Options reach the commands as they were typed, whatever the way they are written."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from concept_das.cli import parser as cli
from concept_das.cli.configs import arranged
from concept_das.cli.parser import COMMANDS, REPLACED, _groups, _parser_of, main
from concept_das.cli.train import train
from concept_das.methods.registry import METHODS

REQUIRED = ("--data=rows", "--out=out", "--layer=1")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The arguments that `train` is called with."""
    found: dict[str, Any] = {}

    def call(command: Any, options: Any, _without: Any) -> None:
        found.update(options)

    monkeypatch.setattr(cli, "_call", call)
    monkeypatch.chdir(tmp_path)
    return found


LORA = METHODS["lora"].config()


@pytest.mark.parametrize(
    "words",
    [
        ("--config", "FILE"),
        ("--config=FILE",),
        ("--conf=FILE",),
        ("--config", "method: lora"),
        ("--config={method: lora}",),
        ("--config=FILE", "--config=other.yaml"),
        ("--method", "lora"),
        ("--method=lora",),
        ("--meth=lora",),
        ("--method=lora", "--config=cdas.yaml"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("last", [False, True])
def test_a_method_brings_its_own_hyper_parameters_however_it_is_named(
    called: dict[str, Any], words: tuple[str, ...], last: bool
) -> None:
    Path("my.yaml").write_text("method: lora\n")
    Path("other.yaml").write_text("epochs: 6\n")
    Path("cdas.yaml").write_text("method: cdas\n")
    given = [word.replace("FILE", "my.yaml") for word in words]
    assert main(["train", *((*REQUIRED, *given) if last else (*given, *REQUIRED))]) == 0
    for name, value in vars(LORA).items():
        expected = 6 if name == "epochs" and "other" in words[-1] else value
        assert called[name] == expected, name


@pytest.mark.parametrize(
    "words", [("--config", "RECIPE"), ("--config=RECIPE",), ("--conf=RECIPE",)]
)
def test_a_recipe_is_found_in_one_word_or_two(
    called: dict[str, Any], words: tuple[str, ...]
) -> None:
    given = [word.replace("RECIPE", "gemma-2-2b-axbench-l10") for word in words]
    Path("gemma-2-2b-axbench-l10").mkdir()  # a folder of that name is no file of options
    assert main(["train", *given, "--data=d", "--out=o", "--method=reps"]) == 0
    assert (called["method"], called["layer"], called["model"]) == (
        *("reps", 10),
        "google/gemma-2-2b-it",
    )


def test_an_option_wins_over_a_config_on_either_side(called: dict[str, Any]) -> None:
    Path("my.yaml").write_text("epochs: 6\n")
    for words in (("--epochs=3", "--config=my.yaml"), ("--config", "my.yaml", "--epochs=3")):
        assert main(["train", *REQUIRED, *words]) == 0
        assert called["epochs"] == 3


def test_words_are_arranged_behind_their_command() -> None:
    assert arranged(["data", "make", "--a-b=1", "--config=x"]) == [
        *("data", "make", "--config", "x", "--a_b=1")
    ]
    assert arranged(["train", "--config"]) == ["train", "--config"]
    assert arranged(["compare", "--methods=cdas", "--concept-id", "3"]) == [
        *("compare", "--methods=cdas", "--concept_id", "3")
    ]


TEXTS = (
    "# Be brief",
    "null",
    "~",
    "&a",
    "1e5",
    "[1]",
    "{a: 1}",
    "a: b",
    "a # b",
    "true",
    " x ",
    "",
)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_text_option_stays_as_it_is_typed(words: str) -> None:
    parser = _parser_of(COMMANDS[words], REPLACED.get(COMMANDS[words], frozenset()))
    required = [
        f"{action.option_strings[-1].replace('-', '_').replace('__', '--', 1)}="
        f"{'gguf' if action.dest == 'format' else 1}"
        for action in parser._actions
        if action.required
    ]
    kinds = {
        name: str if "str" in str(parameter.annotation) else Path
        for command in (COMMANDS[words], *_groups(COMMANDS[words]).values())
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.annotation in (str, str | None, Path, Path | None)
    }
    for text in TEXTS:
        found = parser.parse_args([*required, *(f"--{name}={text}" for name in kinds)])
        assert {name: found[name] for name in kinds} == {n: k(text) for n, k in kinds.items()}


PARSER = _parser_of(train)
SIGNS = "#~!&*{}[]:-,'\"%@`|>?= \n\t0123456789eE._xnulltrueYESo\x85\u2028"


@given(st.text() | st.text(alphabet=SIGNS))
@settings(max_examples=50, deadline=None)
@example("?")
@example("\x85")
@example("1e5")
@example("null")
def test_a_config_that_is_written_is_read_again(text: str) -> None:
    assume(text != "--")  # which argparse drops
    options = PARSER.parse_args([*REQUIRED, f"--revision={text}", f"--system={text}"])
    written = PARSER.dump(options)
    again = PARSER.parse_args(["--config", written])
    assert (again.revision, again.system) == (text, text)
    assert yaml.safe_load(written)["system"] == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file FILE; give a yaml file, or one of the recipes checkpoint-"),
        ("epochs: [3", "FILE cannot be read as yaml: while parsing a flow sequence"),
        ("\ttab: 1", "FILE cannot be read as yaml: "),
        ("- epochs", "FILE holds no options; write one a line, NAME: VALUE"),
        ("", "FILE holds no options"),
        (b"\xff\xfe\x00", "FILE cannot be read as yaml: 'utf-8' codec"),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_config_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str, joined: bool
) -> None:
    file = tmp_path / "my.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    given = [f"--config={file}"] if joined else ["--config", str(file)]
    assert main(["train", *REQUIRED, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"concept-das: {message.replace('FILE', str(file))}")
