"""Names, splits and texts that `tests/in_the_wild/test_data_files.py` does not try."""

import gzip
from pathlib import Path

import datasets
import pandas as pd
import pytest

from concept_das.data.conversations import turns_of
from concept_das.data.frames import is_table, kind_of, read_frame, text_of
from concept_das.errors import InputError
from tests.concept_das.helpers import unchecked


@pytest.mark.parametrize(
    ("name", "kind", "table"),
    [
        ("a.csv", ".csv", True),
        ("A.CSV.GZ", ".csv", True),
        ("a.b.jsonl", ".jsonl", True),
        ("a.txt", ".txt", False),
        ("a.gz", "", False),
        ("a", "", False),
        ("a-*", "", True),
    ],
)
def test_the_kind_of_a_file(name: str, kind: str, table: bool) -> None:
    assert kind_of(name) == kind
    assert is_table(name) == table


def test_a_split_is_chosen(tmp_path: Path) -> None:
    frames = {name: pd.DataFrame({"a": [name]}) for name in ("train", "test")}
    splits = datasets.DatasetDict(
        {name: datasets.Dataset.from_pandas(frame) for name, frame in frames.items()}
    )
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
        with unchecked():  # beartype does not know the type of a DatasetDict's values
            assert read_frame(splits, name)["a"].tolist() == [name]
        assert read_frame(tmp_path, name)["a"].tolist() == [name]
    with pytest.raises(
        InputError, match="has no split 'dev'; it has train, test; give one of them"
    ):
        read_frame(tmp_path, "dev")


def test_text_keeps_its_line_ends(tmp_path: Path) -> None:
    text = "a\r\nb\rc\n"
    for name, content in (
        ("a.txt", text.encode()),
        ("b.txt", text.encode("utf-8-sig")),
        ("c.txt", text.encode("utf-16")),
        ("d.txt.gz", gzip.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(content)
        assert text_of(tmp_path / name) == text


@pytest.mark.parametrize(
    ("cell", "turns"),
    [
        ([{"role": "user", "content": "Hi"}], [("user", "Hi")]),
        (
            [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}],
            [("user", "Hi"), ("assistant", "Yo")],
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], [("user", "Hi")]),
        ([{"role": "user", "content": [{"type": "image"}]}], None),
        ([{"role": "user", "content": None}], None),
        ([{"role": "user"}], None),
        (["Hi"], None),
        ([], None),
        ("Hi", None),
        ({"role": "user", "content": "Hi"}, None),
        (3, None),
        (None, None),
    ],
)
def test_turns_of_a_conversation(cell: object, turns: object) -> None:
    assert turns_of(cell) == turns
