"""Answers of an endpoint on disk, so that a rerun costs nothing."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from concept_das.errors import InputError

_SECONDS_TO_WAIT = 60.0
"""For another process to finish its write."""


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

    Threads share one object; several processes may open the same file, where the first answer to
    a request stays. No write-ahead log, so that a network file system serves.

    Raises:
        InputError: if the file is not such a cache.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=_SECONDS_TO_WAIT, check_same_thread=False)
        try:
            with self._connection:
                self._connection.execute(_SCHEMA)
            self.get("")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise InputError(
                f"{path} cannot be read as a cache of answers ({error}); delete it, or name another"
            ) from error

    def get(self, canonical: str) -> Answer | None:
        """The answer to a canonical request, if there is one."""
        with self._lock, closing(self._connection.cursor()) as cursor:
            row = cursor.execute(
                "SELECT text, complete, prompt_tokens, completion_tokens FROM answers "
                "WHERE key = ?",
                (_key_of(canonical),),
            ).fetchone()
        return None if row is None else Answer(row[0], bool(row[1]), row[2], row[3])

    def put(self, canonical: str, answer: Answer) -> Answer:
        """Keep an answer, at once and on disk.

        Returns:
            The answer to go by: another process's, if it was first.
        """
        row = (_key_of(canonical), canonical, *astuple(answer))
        with self._lock, self._connection:
            self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", row)
        kept = self.get(canonical)
        assert kept is not None
        return kept

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
