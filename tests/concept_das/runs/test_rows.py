import json
import math
from pathlib import Path

import pytest

from concept_das.errors import InputError
from concept_das.runs.rows import RowLog


def filled(path: Path, fingerprint: str = "f") -> None:
    with RowLog(path, fingerprint) as log:
        log.append("a", {"text": "ä\n\u2028", "score": 0.1})
        log.append("b", {"text": "", "score": math.nan})


def test_rows_are_kept_in_the_order_asked_for(tmp_path: Path) -> None:
    filled(tmp_path / "log.jsonl")
    with RowLog(tmp_path / "log.jsonl", "f") as log:
        assert log.missing(["c", "b", "d", "a"]) == ["c", "d"]
        log.append("c", {"text": "t", "score": 1.0})
        table = log.frame(["c", "b", "a"])
    assert list(table["text"]) == ["t", "", "ä\n\u2028"]
    assert table["score"].isna().tolist() == [False, True, False]
    assert table["score"][2] == 0.1
    assert list(table.index) == [0, 1, 2]


def test_a_row_is_the_same_before_and_after_reading(tmp_path: Path) -> None:
    with RowLog(tmp_path / "log", "f") as log:
        log.append("a", {"x": (1, 2)})
        now = log.frame(["a"])
    with RowLog(tmp_path / "log", "f") as log:
        assert log.frame(["a"]).to_dict() == now.to_dict() == {"x": {0: [1, 2]}}


def test_what_is_on_disk_is_never_written_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written = []
    with RowLog(path, "f") as log:
        number = path.stat().st_ino
        for i in range(5):
            before = path.read_bytes()
            log.append(f"{i}", {"x": "y"})
            assert path.read_bytes().startswith(before)
            written.append(path.stat().st_size - len(before))
    with RowLog(path, "f") as log:
        log.append("5", {"x": "y"})
    assert path.stat().st_ino == number
    assert len(set(written)) == 1


def test_a_last_line_cut_anywhere_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    filled(path)
    whole = path.read_bytes()
    second = whole.rindex(b"\n", 0, -1) + 1
    for end in range(second, len(whole)):
        path.write_bytes(whole[:end])
        with RowLog(path, "f") as log:
            assert log.missing(["a", "b"]) == ["b"]
            log.append("b", {"text": "", "score": math.nan})
        assert path.read_bytes() == whole


def test_rows_of_another_fingerprint_do_not_stay(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    with RowLog(tmp_path / "log", "g") as log:
        assert log.missing(["a", "b"]) == ["a", "b"]
    with RowLog(tmp_path / "log", "f") as log:
        assert log.missing(["a", "b"]) == ["a", "b"]


def test_a_key_is_written_once(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    before = (tmp_path / "log").read_bytes()
    with RowLog(tmp_path / "log", "f") as log, pytest.raises(ValueError, match="'a' already"):
        log.append("a", {"text": "again", "score": 1.0})
    assert (tmp_path / "log").read_bytes() == before


def test_the_first_of_two_rows_of_a_key_stays(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    with (tmp_path / "log").open("a") as file:
        file.write(json.dumps({"key": "a", "row": {"text": "second", "score": 2.0}}) + "\n")
    with RowLog(tmp_path / "log", "f") as log:
        assert log.frame(["a"])["score"].tolist() == [0.1]


def test_rows_have_the_same_names(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    with RowLog(tmp_path / "log", "f") as log:
        with pytest.raises(ValueError, match="'c' has"):
            log.append("c", {"text": "t", "rating": 1})
        assert log.missing(["c"]) == ["c"]


def test_a_value_that_json_cannot_hold_leaves_no_trace(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    before = (tmp_path / "log").read_bytes()
    with RowLog(tmp_path / "log", "f") as log:
        with pytest.raises(TypeError):
            log.append("c", {"text": "t", "score": object()})
        assert log.missing(["c"]) == ["c"]
    assert (tmp_path / "log").read_bytes() == before


def test_a_table_needs_every_row_once(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    with RowLog(tmp_path / "log", "f") as log:
        with pytest.raises(KeyError, match="'c'"):
            log.frame(["a", "c"])
        with pytest.raises(ValueError, match="twice"):
            log.frame(["a", "a"])


@pytest.mark.parametrize("content", ["notes", "notes\n", '{"key": "a", "row": {}}\n', "", "[]\n"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    if content == "":
        with RowLog(path, "f") as log:
            assert log.missing(["a"]) == ["a"]
        return
    with pytest.raises(InputError, match=r"notes\.txt"):
        RowLog(path, "f")
    assert path.read_text() == content


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:9] + b"\n" + lines[2])
    with pytest.raises(InputError, match="damaged"):
        RowLog(path, "f")


def test_rows_of_another_fingerprint_are_refused_if_they_must_be_kept(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    before = (tmp_path / "log").read_bytes()
    with pytest.raises(InputError, match="belongs to a run with other settings; delete it"):
        RowLog(tmp_path / "log", "g", keep_others=True)
    assert (tmp_path / "log").read_bytes() == before


def test_without_a_file_the_rows_are_in_memory() -> None:
    with RowLog(None, "f") as log:
        log.append("a", {"x": (1, 2)})
        assert log.missing(["a", "b"]) == ["b"]
        assert log.frame(["a"]).to_dict() == {"x": {0: [1, 2]}}


def test_unfinished_work_of_the_first_release_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text('{"signature": "f", "batches": [[1]]}')
    with RowLog(tmp_path / "log", "f") as log:
        assert log.missing(["a"]) == ["a"]
    assert "starting again" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    with RowLog(tmp_path / "log", "f") as log, open("/dev/full", "ab", buffering=0) as full:
        log._file, own = full, log._file
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/log'"):
            log.append("a", {"x": 1})
        log._file = own
        log.append("a", {"x": 1})
    with RowLog(tmp_path / "log", "f") as log:
        assert log.missing(["a"]) == []
