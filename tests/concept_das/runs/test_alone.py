import fcntl
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from concept_das.errors import InputError
from concept_das.runs.alone import alone_in
from tests.benchmarks.processes import forked


def test_a_second_process_is_told_who_is_at_work(tmp_path: Path) -> None:
    place = re.escape(f"{tmp_path / 'run'}")
    who = rf"process {os.getpid()} on {socket.gethostname()} since \d{{4}}-\d\d-\d\d \d\d:"
    with alone_in(tmp_path / "run"):
        with (
            pytest.raises(InputError, match=rf"^{place} is being worked on by {who}"),
            alone_in(tmp_path / "run"),
        ):
            pytest.fail("both are in")
        with alone_in(tmp_path / "run", "rows.csv"), alone_in(tmp_path):
            pass
    assert not (tmp_path / "run").exists()


def test_the_folder_stays_if_there_is_something_in_it(tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"):
        (tmp_path / "run/a").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]
    with alone_in(tmp_path / "run"):
        (tmp_path / "run/a").unlink()
    assert (tmp_path / "run").exists()  # it was there before


def _dies(folder: Path) -> None:
    with alone_in(folder):
        os.kill(os.getpid(), 9)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    assert forked(_dies, tmp_path)() == -9
    assert f"on {socket.gethostname()} since" in (tmp_path / ".run.lock").read_text()
    with alone_in(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".run.lock").read_text()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_removed_while_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = fcntl.flock, []

    def slow(file: int, how: int) -> None:
        if not calls:
            (tmp_path / ".run.lock").unlink()
        calls.append(file)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with alone_in(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / ".run.lock").exists()


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    with alone_in(tmp_path):
        pass
    assert "cannot be locked" in caplog.text
