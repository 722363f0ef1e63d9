"""A log of finished rows on disk: a killed process loses only the row it was working on."""

import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from concept_das.errors import InputError
from concept_das.runs.files import write_atomically

# The first release kept unfinished work as one JSON object with these names.
_FIRST_RELEASE = ({"settings", "answers"}, {"signature", "batches"})

log = logging.getLogger(__name__)


class RowLog:
    """A jsonl file to which rows are added one at a time, each under its own key.

    The first line holds the fingerprint of the inputs that the rows were made from. A log with
    another fingerprint is started again, so that rows of different inputs never mix. If a killed
    process left the last line half written, that line is dropped. One process writes at a time.

    Args:
        path: the file, which is made if it is missing; None keeps the rows in memory only.
        fingerprint: of everything that the rows depend on.
        keep_others: raise an error instead of starting again if the fingerprint is another.
        earlier: what an earlier release wrote in place of the fingerprint.

    Raises:
        InputError: if the file is not such a log, is damaged before its last line, or must be kept.
    """

    def __init__(
        self,
        path: Path | None,
        fingerprint: str,
        *,
        keep_others: bool = False,
        earlier: str | None = None,
    ) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._rows: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        kept = _whole_lines(path) if path.exists() else []
        if kept and _is_of_first_release(kept[0]):
            log.warning("%s is unfinished work of an older version; starting again", path)
            kept = []
        known = (fingerprint, earlier)
        if kept and _parse(path, kept[0], "fingerprint")["fingerprint"] not in known:
            if keep_others:
                raise InputError(f"{path} belongs to a run with other settings; delete it")
            log.info("%s was made from other inputs; starting again", path)
            kept = []
        for line in kept[1:]:
            entry = _parse(path, line, "key", "row")
            # The first row of a key stays: whatever read the log has seen that one.
            self._rows.setdefault(entry["key"], entry["row"])
        if kept:
            os.truncate(path, sum(map(len, kept)))
        else:
            write_atomically(path, _line({"fingerprint": fingerprint}))
        self._file = io.FileIO(path, "a")

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that have no row yet, in the given order."""
        return [key for key in keys if key not in self._rows]

    def append(self, key: str, row: Mapping[str, Any]) -> None:
        """Add a row. When this returns, the row is on disk.

        Args:
            row: values that JSON can hold; every row of a log has the same names.

        Raises:
            ValueError: if the key has a row already, or the names differ from the first row's.
        """
        if key in self._rows:
            raise ValueError(f"{self._path} has a row of {key!r} already")
        first = next(iter(self._rows.values()), row)
        if row.keys() != first.keys():
            raise ValueError(f"the row of {key!r} has {list(row)}, the first row {list(first)}")
        line = _line({"key": key, "row": dict(row)})
        if self._file is not None:
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError as error:  # which does not know the file's name
                raise type(error)(error.errno, error.strerror, str(self._path)) from error
        # Parsed back, so that a row is the same whether this process wrote it or an earlier one.
        self._rows[key] = json.loads(line)["row"]

    def frame(self, keys: Sequence[str]) -> pd.DataFrame:
        """One row per key, in the order of the given keys.

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
        if self._file is not None:
            self._file.close()


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, without an unfinished last line; the first is never half written."""
    lines = path.read_bytes().splitlines(keepends=True)
    return lines if len(lines) < 2 or lines[-1].endswith(b"\n") else lines[:-1]


def _is_of_first_release(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and set(entry) in _FIRST_RELEASE


def _parse(path: Path, line: bytes, *names: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise InputError(f"{path} is damaged or no log of rows; delete it to start again")
    return entry
