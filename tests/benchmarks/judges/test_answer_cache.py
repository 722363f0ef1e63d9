import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judges import answer_cache
from benchmarks.judges.answer_cache import Answer, AnswerCache, canonical_request
from concept_das.errors import InputError, OutsideError

REQUEST = {
    "model": "m",
    "messages": [{"role": "user", "content": "Wie geht's? ☺"}],
    "temperature": 0.0,
    "max_tokens": 300,
}
ANSWER = Answer("Rating: [[2]] ☺", True, 11, 7)


def test_an_answer_is_kept_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "answers.sqlite"
    canonical = canonical_request("http://a/v1", REQUEST)
    cut_off = Answer("Rat", False, 1, 2)
    with AnswerCache(path) as cache:
        assert cache.get(canonical) is None
        assert cache.put(canonical, ANSWER) == ANSWER
        cache.put("another", cut_off)
    with AnswerCache(path) as cache:
        assert cache.get(canonical) == ANSWER
        assert cache.get("another") == cut_off


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "c") as one, AnswerCache(tmp_path / "c") as two:
        one.put("request", ANSWER)
        assert two.put("request", Answer("later", True, 1, 1)) == ANSWER
        assert one.get("request") == ANSWER


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"temperature": 0.1},
        {"max_tokens": 301},
        {"messages": [{"role": "system", "content": "Wie geht's? ☺"}]},
        {"messages": [{"role": "user", "content": "Wie geht's?"}]},
        {"seed": 1},
    ],
)
def test_the_key_is_of_the_whole_request(change: dict[str, Any]) -> None:
    plain = canonical_request("http://a/v1", REQUEST)
    assert canonical_request("http://a/v1", {**REQUEST, **change}) != plain
    assert canonical_request("http://b/v1", REQUEST) != plain
    in_another_order = dict(reversed(REQUEST.items()))
    assert canonical_request("http://a/v1", in_another_order) == plain


def test_the_request_can_be_read_back(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "c") as cache:
        cache.put(canonical_request("http://a/v1", REQUEST), ANSWER)
    rows = sqlite3.connect(tmp_path / "c").execute("SELECT request FROM answers").fetchall()
    assert [json.loads(text) for (text,) in rows] == [{"base_url": "http://a/v1", **REQUEST}]


def test_threads_share_one_cache(tmp_path: Path) -> None:
    def use(i: int) -> str:
        request = str(i % 40)
        return cache.put(request, Answer(request, True, i, i)).text

    with AnswerCache(tmp_path / "c") as cache, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(160))) == [str(i % 40) for i in range(160)]


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    content = b"not a database at all, but long enough" * 40
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"notes\.txt cannot be used .*; name another file$"):
        AnswerCache(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE answers (question TEXT)")
    with pytest.raises(InputError, match=r"other\.sqlite"):
        AnswerCache(path)


OTHER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("INSERT INTO answers VALUES ('k', 'r', 't', 1, 1, 1)")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a write."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-S", "-c", OTHER, str(path), how]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("how", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_who_holds_the_file_is_said_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setattr(answer_cache, "_SECONDS_TO_WAIT", 0.01)
    monkeypatch.setattr(answer_cache, "_TIMES_TO_WAIT", 2)
    path = tmp_path / "c"
    with AnswerCache(path) as cache:
        cache.put("kept", ANSWER)
        with held(path, how) as process:
            holder = rf"{path} is held by \S+ \(process {process.pid}\)"
            with pytest.raises(OutsideError, match=rf"{holder}; run again .* are kept$"):
                cache.put("new", ANSWER)
            assert len(re.findall(rf"{holder}; waiting for it", caplog.text)) == 2
            if how == "BEGIN EXCLUSIVE":
                with pytest.raises(OutsideError, match=holder):
                    AnswerCache(path)
        # It was killed in the middle of its write.
        assert cache.put("new", ANSWER) == ANSWER
    with AnswerCache(path) as cache:
        assert cache.get("kept") == cache.get("new") == ANSWER
