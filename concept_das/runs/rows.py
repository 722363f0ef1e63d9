"""Finished rows on disk, one by one, so that a killed process loses only the one at hand."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from concept_das.errors import InputError
from concept_das.runs.files import write_atomically


class RowLog:
    """A jsonl file that rows are only ever added to, each under a key of its own.

    The first line holds the fingerprint of what the rows were made from; a log of another
    fingerprint is begun again, so that rows of different inputs never meet. A last line that a
    killed process left half written is dropped. One process writes at a time.

    Args:
        path: the file; made if it is not there.
        fingerprint: of everything that the rows depend on.

    Raises:
        InputError: if the file is not such a log, or is damaged before its last line.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        kept = _whole_lines(path) if path.exists() else []
        if kept and _parse(path, kept[0], "fingerprint")["fingerprint"] != fingerprint:
            kept = []
        for line in kept[1:]:
            entry = _parse(path, line, "key", "row")
            # The first stays, as nothing else was seen before the second was written.
            self._rows.setdefault(entry["key"], entry["row"])
        if kept:
            os.truncate(path, sum(map(len, kept)))
        else:
            write_atomically(path, _line({"fingerprint": fingerprint}))
        self._file = path.open("ab", buffering=0)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that have no row yet, in their order."""
        return [key for key in keys if key not in self._rows]

    def append(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a row; it is on disk when this returns.

        Args:
            row: values that JSON can hold; every row of a log has the same names.

        Raises:
            ValueError: if the key has a row already, or the row other names than the first.
        """
        if key in self._rows:
            raise ValueError(f"{self._path} has a row of {key!r} already")
        first = next(iter(self._rows.values()), row)
        if row.keys() != first.keys():
            raise ValueError(f"the row of {key!r} has {list(row)}, the first row {list(first)}")
        line = _line({"key": key, "row": dict(row)})
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())
        # Read back, so that a row is the same whether this process made it or one before.
        self._rows[key] = json.loads(line)["row"]

    def frame(self, keys: Sequence[str]) -> pd.DataFrame:
        """One row per key, in the order of the keys, whatever the order they were written in.

        Raises:
            KeyError: if a key has no row.
            ValueError: if a key is given twice.
        """
        if missing := self.missing(keys):
            raise KeyError(f"{self._path} has no row of {', '.join(map(repr, missing[:5]))}")
        if len(set(keys)) < len(keys):
            raise ValueError("a key is given twice")
        return pd.DataFrame([self._rows[key] for key in keys])

    def __enter__(self) -> "RowLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file without a last one that does not end; the first is never half written."""
    lines = path.read_bytes().splitlines(keepends=True)
    return lines if len(lines) < 2 or lines[-1].endswith(b"\n") else lines[:-1]


def _parse(path: Path, line: bytes, *names: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise InputError(f"{path} is damaged or no log of rows; delete it to start again")
    return entry
