"""Answers of an endpoint on disk, so that a rerun costs nothing."""

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

from concept_das.errors import InputError, OutsideError

_SECONDS_TO_WAIT = 60.0
"""For another process to finish its write, before it is said who that is."""

_TIMES_TO_WAIT = 10

T = TypeVar("T")

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    text TEXT NOT NULL,
    complete INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Answer:
    """An endpoint's answer.

    Attributes:
        complete: false if the answer was cut off at the token limit.
        prompt_tokens: billed for the question.
        completion_tokens: billed for the answer.
    """

    text: str
    complete: bool
    prompt_tokens: int
    completion_tokens: int


def canonical_request(base_url: str, request: Mapping[str, Any]) -> str:
    """The endpoint and everything sent to it, as json that is the same for the same request."""
    whole = {"base_url": base_url, **request}
    return json.dumps(whole, sort_keys=True, ensure_ascii=False)


def _key_of(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()


class AnswerCache:
    """A sqlite file of answers by the SHA-256 of their whole request, which is kept beside them.

    Threads share one object; several processes of a machine may open the same file, where the
    first answer to a request stays, and a killed one leaves it whole. SQLite relies on the locks of
    the file system, which not every network file system keeps: put it on a disk of the machine.

    Raises:
        InputError: if the file cannot be used as such a cache.
        OutsideError: here and from each method, if another process holds the file for minutes.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                path, timeout=_SECONDS_TO_WAIT, check_same_thread=False
            )
            self._patiently(self._make_table)
            self.get("")
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path} cannot be used as a cache of answers ({error}); name another file"
            ) from error

    def _make_table(self) -> None:
        with self._connection:
            self._connection.execute(_SCHEMA)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Do something with the file, and wait while another process holds it."""
        for _ in range(_TIMES_TO_WAIT):
            try:
                with self._lock:
                    return action()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                log.warning("%s is held by %s; waiting for it", self._path, _holders(self._path))
        raise OutsideError(
            f"{self._path} is held by {_holders(self._path)}; run again when that has ended, all "
            "answers in it are kept"
        )

    def get(self, canonical: str) -> Answer | None:
        """The answer to a canonical request, if there is one."""
        row = self._patiently(lambda: self._row(canonical))
        return None if row is None else Answer(row[0], bool(row[1]), row[2], row[3])

    def _row(self, canonical: str) -> tuple[str, int, int, int] | None:
        with closing(self._connection.cursor()) as cursor:
            row: tuple[str, int, int, int] | None = cursor.execute(
                "SELECT text, complete, prompt_tokens, completion_tokens FROM answers "
                "WHERE key = ?",
                (_key_of(canonical),),
            ).fetchone()
        return row

    def put(self, canonical: str, answer: Answer) -> Answer:
        """Keep an answer, at once and on disk.

        Returns:
            The answer to go by: another process's, if it was first.
        """
        row = (_key_of(canonical), canonical, *astuple(answer))

        def insert() -> None:
            with self._connection:
                self._connection.execute(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", row
                )

        self._patiently(insert)
        kept = self.get(canonical)
        assert kept is not None
        return kept

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _holders(path: Path) -> str:
    """The other processes of this machine that have a file open, in words."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            files = [] if process.pid == os.getpid() else process.open_files()
            if any(file.path == str(path.resolve()) for file in files):
                found.append(f"{process.name()} (process {process.pid})")
    return ", ".join(found) or "a process that cannot be seen from here"
