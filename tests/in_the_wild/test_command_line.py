"""Options as people type them: what reaches the command, or one sentence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from concept_das.cli import parser as cli
from concept_das.cli.parser import main
from tests.in_the_wild.rows import Refused, check_sentence

TRAIN = "train --data=rows --out=out --layer=1"
STEER = "steer --vector=v"
LORA = {"method": "lora", "learning_rate": 9e-4, "rank": 4}


@dataclass(frozen=True)
class Typed:
    """A command with options, and what comes out of them.

    Attributes:
        command: words with spaces between.
        options: each one word, with whatever signs.
        files: written before, by name.
        comes_out: options that the command gets, or `Refused`.
    """

    command: str
    options: tuple[str, ...]
    comes_out: dict[str, Any] | Refused
    files: tuple[tuple[str, str], ...] = ()


def text(option: str, value: str, command: str = TRAIN) -> Typed:
    """An option of text, which stays as it is."""
    return Typed(command, (f"--{option.replace('_', '-')}", value), {option: value})


LORA_FILE = (("my.yaml", "method: lora\n"),)
REVISION = (("my.yaml", "revision: '1e5'\nsystem: '# Be brief'\n"),)

ROWS = (
    # Text that yaml reads as something else.
    *(text("system", value) for value in ("# Be brief", "null", "~", "Null", "&a", "*a", "!b")),
    *(text("system", value) for value in ("[1]", "{a: 1}", "a: b", "'a'", '"a"', "true", "12")),
    *(text("system", value) for value in ("", " a ", "a\nb", "- a", "%YAML", "@a", "`a`", "= a")),
    *(text("prompt", value, STEER) for value in ("# Write a haiku", "null", "~", "yes", "1_0")),
    *(text("revision", value) for value in ("1e5", "123", "0x1f", "2024-01-01", "1:30", "null")),
    text("device", "null"),
    text("model", "~"),
    Typed(STEER, ("--file=# a.txt",), {"file": Path("# a.txt")}),
    Typed(STEER, ("--file=~",), {"file": Path("~")}),
    Typed(STEER, ("--out", "null"), {"out": Path("null")}),
    Typed(
        "data make --concept=a --out=b", ("--instructions=null",), {"instructions": Path("null")}
    ),
    Typed(
        TRAIN,
        ('--template-options={"a": "12", "b": "false", "c": false, "d": 1, "e": "null"}',),
        {"template_options": {"a": "12", "b": "false", "c": False, "d": 1, "e": "null"}},
    ),
    text("date", "2024-07-26"),
    text("chat_template", "null"),
    # Text of a yaml file.
    Typed(TRAIN, ("--config=my.yaml",), {"revision": "1e5", "system": "# Be brief"}, REVISION),
    Typed(TRAIN, ("--config=my.yaml",), {"system": None}, (("my.yaml", "system: null\n"),)),
    # The method, whose hyper-parameters are the defaults; more ways to name it are tried in
    # tests/concept_das/cli/test_parser.py.
    Typed(TRAIN, ("--config=my.json",), LORA, (("my.json", '{"method": "lora"}'),)),
    Typed("train --config=my.yaml --data=a --out=b --layer=1", (), LORA, LORA_FILE),
    Typed(
        "sweep --data=a --out=b --layers=[1] --ranks=[1]",
        ("--config=my.yaml",),
        {"method": "lora", "learning_rate": 9e-4},
        LORA_FILE,
    ),
    Typed(
        TRAIN,
        ("--config=my.yaml",),
        Refused("unknown method 'magic'; choose"),
        (("my.yaml", "method: magic"),),
    ),
    Typed(TRAIN, ("--config=.",), Refused("there is no file .; give a yaml file")),
)


@pytest.mark.parametrize(
    "typed", ROWS, ids=lambda one: " ".join((*one.command.split()[:1], *one.options))
)
def test_options(
    typed: Typed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    monkeypatch.setattr(cli, "_call", lambda _command, options, _without: found.update(options))
    for name, content in typed.files:
        Path(name).write_text(content)
    code = main([*typed.command.split(), *typed.options])
    if isinstance(typed.comes_out, Refused):
        assert code == 2
        (line,) = capsys.readouterr().err.splitlines()
        check_sentence(line, typed.comes_out, tmp_path)
        return
    assert code == 0
    assert {name: found[name] for name in typed.comes_out} == typed.comes_out
