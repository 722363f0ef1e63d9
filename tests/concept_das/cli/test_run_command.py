"""A typed function as a command of its own."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from concept_das.cli.parser import run_command
from concept_das.errors import InputError, UnfinishedError

calls: list[tuple[object, ...]] = []


@dataclass(frozen=True)
class Group:
    """Some options.

    Args:
        batch_size: rows.
        together: at once.
    """

    batch_size: int = 4
    together: int = 2


def greet(name: str, group: Group, dry_run: bool = False, out: Path = Path("runs")) -> None:
    """Greet somebody.

    Args:
        name: whom.
        dry_run: say it only.
        out: where to.
    """
    if name == "nobody":
        raise InputError("nobody cannot be greeted; name somebody")
    if name == "absent":
        raise UnfinishedError("the endpoint failed on 1 of 2 questions; run again to ask those")
    if name == "late":
        raise KeyboardInterrupt
    calls.append((name, group, dry_run, out))


def test_flags_come_from_the_signature_with_dashes_or_underscores() -> None:
    calls.clear()
    arguments = ["--name", "Ann", "--batch-size=8", "--dry-run", "--out", "x"]
    assert run_command(greet, arguments, "greet") == 0
    assert run_command(greet, ["--name=Bob", "--batch_size", "2"], "greet") == 0
    assert calls == [
        ("Ann", Group(8), True, Path("x")),
        ("Bob", Group(2), False, Path("runs")),
    ]


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("nobody", 2, "greet: nobody cannot be greeted; name somebody\n"),
        (
            "absent",
            2,
            "greet: the endpoint failed on 1 of 2 questions; run again to ask those\n",
        ),
        ("late", 130, "greet: interrupted; the same command goes on from here\n"),
    ],
)
def test_errors_are_one_line_under_the_commands_name(name, code, message, capsys) -> None:
    assert run_command(greet, ["--name", name], "greet") == code
    assert capsys.readouterr().err == message


def test_the_help_is_the_docstring(capsys) -> None:
    with pytest.raises(SystemExit):
        run_command(greet, ["--help"], "greet")
    text = capsys.readouterr().out
    assert "usage: greet" in text
    assert "say it only" in text
    assert "rows" in text


def test_an_option_without_use_is_no_flag_and_keeps_its_default(capsys) -> None:
    calls.clear()
    assert run_command(greet, ["--name=Ann"], "greet", without=frozenset({"together"})) == 0
    assert calls[0][1] == Group(4, 2)
    with pytest.raises(SystemExit):
        run_command(greet, ["--name=Ann", "--together=3"], "greet", frozenset({"together"}))
    assert "--together" in capsys.readouterr().err
