import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from concept_das.errors import InputError
from concept_das.runs.files import check_writable, sources_of, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/a"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [one.name for one in path.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_content_and_no_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def replace(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(type(error)) as caught:
        write_atomically(path, b"new")
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    for path in (tmp_path / "a/b", tmp_path / "a/b/c"):
        with pytest.raises(OSError, match=str(path)):
            write_atomically(path, b"new")
        with pytest.raises(InputError, match=f"cannot write {path}: {tmp_path}/a is a file"):
            check_writable(path)
    assert (tmp_path / "a").read_text() == "mine"


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_checking_writes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new/folder/a")
    check_writable(Path("relative"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="it is a folder; name a file"):
        check_writable(tmp_path)


def test_the_code_of_modules_is_told_apart_but_not_by_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "made_rules"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "phrases.py").write_text("PHRASES = ['I cannot']  # the first\n")
    (package / "table.csv").write_text("a,b")
    monkeypatch.syspath_prepend(tmp_path)
    found = {sources_of("made_rules"), sources_of("made_rules.phrases")}
    assert len(found) == 2
    (package / "phrases.py").write_text("# The first.\nPHRASES = [\n    'I cannot',\n]\n")
    assert {sources_of("made_rules"), sources_of("made_rules.phrases")} == found
    (package / "phrases.py").write_text("PHRASES = ['I will not']\n")
    assert not {sources_of("made_rules"), sources_of("made_rules.phrases")} & found
    (package / "table.csv").write_text("a,c")
    assert sources_of("made_rules", "made_rules.phrases") not in found
    with pytest.raises(ImportError, match="there is no module made_rules.none"):
        sources_of("made_rules.none")
