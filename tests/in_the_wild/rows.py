"""A row of the tables: what is tried, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from concept_das.errors import InputError


@dataclass(frozen=True)
class Refused:
    """The outcome of what cannot be used: one sentence that holds this part.

    Attributes:
        part: of the sentence; `HERE` in it is the folder that the case is in.
    """

    part: str


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        tried: in a few words.
        make: prepares it in an empty folder and returns what is given to the library.
        comes_out: the right value, or `Refused`.
    """

    tried: str
    make: Callable[[Path], Any]
    comes_out: Any


def every_row(*rows: Row) -> Any:
    """A test of every row, under its name."""
    names = [row.tried for row in rows]
    assert len(set(names)) == len(names)
    return pytest.mark.parametrize("row", rows, ids=names)


def check(row: Row, folder: Path, action: Callable[[Any], Any]) -> None:
    """Try a row: `action` is called with what it made."""
    given = row.make(folder)
    if not isinstance(row.comes_out, Refused):
        assert action(given) == row.comes_out
        return
    with pytest.raises(InputError) as caught:
        action(given)
    check_sentence(str(caught.value), row.comes_out, folder)


def check_sentence(sentence: str, refused: Refused, folder: Path) -> None:
    """One line that a person can read, with the part that is awaited."""
    assert refused.part.replace("HERE", str(folder)) in sentence
    assert "\n" not in sentence.strip()
    assert "Traceback" not in sentence
