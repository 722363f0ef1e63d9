"""The options of every command: their parsers, defaults and help."""

import argparse
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from concept_das.cli import parser as cli
from concept_das.cli.configs import method_of, underscored
from concept_das.cli.parser import COMMANDS, _groups, build_parser, main
from concept_das.methods.registry import METHODS


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every parser of the command line, by the words that lead to it."""

    def below(words: str, parser: Any) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        yield words, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word in action.choices:
                    yield from below(f"{words} {word}".strip(), action._name_parser_map[word])

    return dict(below("", build_parser()))


def test_every_command_has_a_parser() -> None:
    assert set(parsers()) == {"", "data", *COMMANDS}


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_has_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = parsers()[words]
    options = [action for action in parser._actions if action.option_strings]
    assert len(options) > 1
    for action in options:
        assert action.help, f"{action.option_strings} of {words} has no help"
    assert parser.description
    with pytest.raises(SystemExit) as caught:
        main([*words.split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for action in options:
        assert action.option_strings[-1] in text


def test_the_program_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for words in COMMANDS:
        assert words.split()[0] in text


@pytest.mark.parametrize("words", COMMANDS)
def test_switches_need_no_value(words: str) -> None:
    parser = parsers()[words]
    commands = [COMMANDS[words], *_groups(COMMANDS[words]).values()]
    annotated = {
        name: parameter.default
        for command in commands
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.annotation is bool
    }
    assert {a.dest for a in parser._actions if a.nargs == "?"} == set(annotated)
    required = [
        f"{underscored(action.option_strings[-1])}={'gguf' if action.dest == 'format' else 1}"
        for action in parser._actions
        if action.required
    ]
    for action in (action for action in parser._actions if action.dest in annotated):
        option = underscored(action.option_strings[-1])
        for given, expected in (
            ([option], True),
            ([f"{option}=true"], True),
            ([option, "true"], True),
            ([f"{option}=false"], False),
            ([], annotated[action.dest]),
        ):
            for arguments in ([*required, *given], [*given, *required]):
                assert parser.parse_args(arguments)[action.dest] is expected


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--data=x", "--out=y", "--layer=one"],
        ["train", "--data=x", "--out=y", "--layer=1", "--wings=2"],
        ["steer", "--vector=v", "--direction=up"],
    ],
    ids=" ".join,
)
def test_unusable_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_module_is_a_program(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["concept-das", "methods"])
    assert cli.main() == 0
    assert "cdas" in capsys.readouterr().out


def defaults_of(arguments: list[str]) -> Any:
    required = ["--data", "rows.parquet", "--out", "out", "--layer", "1"]
    parser = build_parser(method_of([*arguments, *required]), only="train")
    return parser.parse_args(["train", *arguments, *required]).train


def test_a_method_brings_its_own_hyper_parameters(tmp_path: Path) -> None:
    for name, method in METHODS.items():
        options = defaults_of(["--method", name])
        for key, value in {**vars(method.config())}.items():
            assert options[key] == value, (name, key)
    assert defaults_of([]).method == "cdas"
    assert defaults_of(["--method=reps", "--epochs", "3"]).epochs == 3
    assert defaults_of(["--method=reps"]).batch_size == METHODS["reps"].config().batch_size
    parser = build_parser("lora", only="sweep")
    required = ["--data", "a", "--out", "b", "--layers", "[1]", "--ranks", "[2]"]
    assert parser.parse_args(["sweep", *required]).sweep.learning_rate == 9e-4
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: lang\nlearning_rate: 0.5\n")
    options = defaults_of(["--config", str(recipe)])
    assert (options.method, options.learning_rate, options.epochs) == ("lang", 0.5, 6)


def test_unknown_methods_stop_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--data", "none", "--out", "none", "--layer", "1", "--method", "magic"]
    assert main(arguments) == 2
    assert "unknown method 'magic'; choose one of cdas" in capsys.readouterr().err
