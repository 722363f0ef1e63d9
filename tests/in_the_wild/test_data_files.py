"""Quadruples in the files, folders and objects that people have them in."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pytest

from concept_das.data.files import write_rows
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import TEXT_COLUMNS, read_quadruples, to_frame
from tests.concept_das.helpers import ROWS, unchecked
from tests.in_the_wild.rows import Refused, Row, check, every_row

RECORDS = [asdict(row) for row in ROWS]
FRAME = to_frame(ROWS)
CSV = FRAME.to_csv(index=False)
JSONL = "".join(f"{json.dumps(record)}\n" for record in RECORDS)
ALL = list(ROWS)

# Texts that careless readers and writers turn into something else.
AWKWARD = [
    replace(ROWS[0], negative_output='A "quoted", comma\nand line', positive_input="a;b\tc|d"),
    replace(ROWS[1], negative_output="None", positive_output="NA", concept="null"),
    replace(ROWS[2], negative_input="12", negative_output="1e5", positive_output="  true "),
    replace(ROWS[3], positive_input="Überfluß 船 🏴‍☠️"),
    replace(
        ROWS[4], negative_input="a\rb", negative_output="a\r\nb", positive_output="u\u2028v\x85w"
    ),
]
BIG = [replace(ROWS[0], concept_id=2**53), replace(ROWS[1], concept_id=2**53 + 1)]


def file(name: str, content: str | bytes) -> Callable[[Path], str]:
    """Write a file and give its path."""

    def make(folder: Path) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def saved(name: str, rows: list[Quadruple]) -> Callable[[Path], Path]:
    """Rows as the library writes them."""

    def make(folder: Path) -> Path:
        write_rows(folder / name, rows)
        return folder / name

    return make


def files(source: str, contents: Mapping[str, str | bytes]) -> Callable[[Path], str]:
    """Write several files and give a place among them."""

    def make(folder: Path) -> str:
        for name, content in contents.items():
            file(name, content)(folder)
        return str(folder / source)

    return make


def to_disk(data: Any) -> Callable[[Path], str]:
    """A folder as `save_to_disk` of `datasets` leaves it."""

    def make(folder: Path) -> str:
        data.save_to_disk(str(folder / "saved"))
        return str(folder / "saved")

    return make


def given(value: Any) -> Callable[[Path], Any]:
    """An object instead of a file."""
    return lambda _: value


def packed(frame: pd.DataFrame, how: str) -> bytes:
    found = io.BytesIO()
    getattr(frame, f"to_{how}")(found)
    return found.getvalue()


def with_cell(column: str, cell: Any) -> list[dict[str, Any]]:
    return [{**RECORDS[0], column: cell}]


def both_sides() -> str:
    """A row of two whole conversations."""
    cells = {
        f"{side}_messages": [
            {"role": "user", "content": RECORDS[0][f"{side}_input"]},
            {"role": "assistant", "content": RECORDS[0][f"{side}_output"]},
        ]
        for side in ("negative", "positive")
    }
    return json.dumps({**cells, **{k: RECORDS[0][k] for k in ("concept_id", "concept")}})


PARQUET = packed(FRAME, "parquet")
HALVES = [packed(FRAME.iloc[:2], "parquet"), packed(FRAME.iloc[2:], "parquet")]
DATASET = datasets.Dataset.from_pandas(FRAME)
SPLITS = datasets.DatasetDict({"test": DATASET.select([0]), "train": DATASET})
CHAT = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}]
SHAREGPT = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}]
CONFIGS = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: mine.jsonl
---
"""


def column_of(ids: list[Any]) -> str:
    return "".join(
        json.dumps({**record, "concept_id": number}) + "\n"
        for record, number in zip(RECORDS, ids, strict=False)
    )


@every_row(
    # files
    Row("csv", file("a.csv", CSV), ALL),
    *(
        Row(f"awkward texts as {kind}", saved(f"a.{kind}", AWKWARD), AWKWARD)
        for kind in ("csv", "parquet", "jsonl")
    ),
    Row("csv of windows", file("a.csv", CSV.replace("\n", "\r\n")), ALL),
    Row("csv with a byte order mark", file("a.csv", CSV.encode("utf-8-sig")), ALL),
    Row("csv in utf-16", file("a.csv", CSV.encode("utf-16")), ALL),
    Row(
        "excel's unicode text",
        file("a.csv", FRAME.to_csv(index=False, sep="\t").encode("utf-16")),
        ALL,
    ),
    Row("csv with semicolons", file("a.csv", FRAME.to_csv(index=False, sep=";")), ALL),
    Row("csv with bars", file("a.csv", FRAME.to_csv(index=False, sep="|")), ALL),
    Row("csv with its index", file("a.csv", FRAME.to_csv()), ALL),
    Row("csv, all in quotes", file("a.csv", FRAME.to_csv(quoting=csv.QUOTE_ALL)), ALL),
    Row("tsv", file("a.tsv", FRAME.to_csv(index=False, sep="\t")), ALL),
    Row("packed csv", file("a.csv.gz", gzip.compress(CSV.encode())), ALL),
    Row("packed json lines", file("a.jsonl.gz", gzip.compress(JSONL.encode())), ALL),
    Row("packed parquet", file("a.parquet.gz", gzip.compress(PARQUET)), ALL),
    Row("feather", file("a.feather", packed(FRAME, "feather")), ALL),
    Row("parquet in capitals", file("A.PARQUET", PARQUET), ALL),
    Row("json lines in capitals", file("A.JSONL", JSONL), ALL),
    Row("ndjson", file("a.ndjson", JSONL), ALL),
    Row("json lines of windows", file("a.jsonl", JSONL.replace("\n", "\r\n\r\n")), ALL),
    Row("json lines in utf-16", file("a.jsonl", JSONL.encode("utf-16")), ALL),
    Row("json", file("a.json", json.dumps(RECORDS, indent=2)), ALL),
    Row("json lines in a json file", file("a.json", JSONL), ALL),
    Row("a json list in a jsonl file", file("a.jsonl", json.dumps(RECORDS)), ALL),
    Row("one json object", file("a.json", json.dumps(RECORDS[0])), ALL[:1]),
    Row("json by column", file("a.json", FRAME.to_json()), ALL),
    Row("json of lists", file("a.json", json.dumps(FRAME.to_dict("list"))), ALL),
    Row("nested json", file("a.json", json.dumps({"version": "1", "data": RECORDS})), ALL),
    # folders
    Row("a folder", files(".", {"a.parquet": HALVES[0], "b.parquet": HALVES[1]}), ALL),
    Row(
        "a folder as on the hub",
        files(
            ".",
            {
                "data/train-00000-of-00002.parquet": HALVES[0],
                "data/train-00001-of-00002.parquet": HALVES[1],
                "data/test-00000-of-00001.parquet": PARQUET,
                "README.md": "# Rows",
            },
        ),
        ALL,
    ),
    Row(
        "a folder with a card",
        files(".", {"README.md": CONFIGS, "mine.jsonl": JSONL, "other.jsonl": "{}"}),
        ALL,
    ),
    Row("a run's folder", files(".", {"train.parquet": PARQUET, "heldout.parquet": PARQUET}), ALL),
    Row("a saved data set", to_disk(DATASET), ALL),
    Row("a saved data set with splits", to_disk(SPLITS), ALL),
    Row(
        "a pattern",
        files("train-*.parquet", {f"train-{i}.parquet": half for i, half in enumerate(HALVES)}),
        ALL,
    ),
    Row("a pattern over folders", files("**/a.csv", {"x/y/a.csv": CSV, "x/b.csv": "no"}), ALL),
    # objects
    Row("dicts", given(RECORDS), ALL),
    Row("quadruples", given(ROWS), ALL),
    Row("a dict of lists", given(FRAME.to_dict("list")), ALL),
    Row("a data frame", given(FRAME.sample(frac=1, random_state=0).sort_index()), ALL),
    Row("a data set", given(DATASET), ALL),
    Row("a data set with splits", given(SPLITS), ALL),
    Row("a streamed data set", given(DATASET.to_iterable_dataset()), ALL),
    Row("a table of pyarrow", given(pa.Table.from_pandas(FRAME)), ALL),
    # cells
    Row("ids beyond 2**53 in csv", saved("a.csv", BIG), BIG),
    Row("ids beyond 2**53 in json lines", saved("a.jsonl", BIG), BIG),
    Row("ids beyond 2**53 in parquet", saved("a.parquet", BIG), BIG),
    Row("ids as text", file("a.jsonl", column_of(["3"] * 5)), ALL),
    Row("ids as fractions", file("a.jsonl", column_of([3.0] * 5)), ALL),
    Row(
        "a turn of a conversation as a cell",
        given(with_cell("negative_input", [{"role": "user", "content": "Name a fruit"}])),
        ALL[:1],
    ),
    Row(
        "a turn of sharegpt as a cell",
        given(with_cell("negative_output", [{"from": "gpt", "value": "An apple."}])),
        ALL[:1],
    ),
    Row(
        "a turn as its json",
        given(with_cell("negative_input", '[{"role": "user", "content": "Name a fruit"}]')),
        ALL[:1],
    ),
    Row(
        "conversations of both sides",
        file("a.jsonl", both_sides()),
        ALL[:1],
    ),
    Row(
        "half a conversation",
        file("a.jsonl", both_sides().replace("assistant", "user")),
        Refused("column 'negative_messages': this is no conversation that ends with the model's"),
    ),
    # refused
    Row("no rows", given([]), Refused("the given list has no rows")),
    Row("an empty json list", file("a.json", "[]"), Refused("HERE/a.json has no rows")),
    Row("an empty file", file("a.csv", ""), Refused("HERE/a.csv cannot be read as .csv: No colum")),
    Row("nothing", given(None), Refused("the given NoneType holds no rows; give a file, a")),
    Row("a generator", given(iter(RECORDS)), Refused("the given list_iterator holds no rows")),
    Row("texts", given(["Hi"]), Refused("the given list, row 0 is 'Hi'; give a dict")),
    Row(
        "uneven lists", given({"a": ["x"], "b": []}), Refused("the given dict is no table: All ar")
    ),
    Row(
        "splits without train",
        given(datasets.DatasetDict({"test": DATASET})),
        Refused("the given DatasetDict has no split 'train'; it has test; give one of them"),
    ),
    Row("an empty folder", files(".", {}), Refused("the folder HERE holds no rows: The directory")),
    Row(
        "a folder of a test split",
        files(".", {"test-0.parquet": PARQUET}),
        Refused("the folder HERE has no split 'train'; it has test"),
    ),
    Row("a pattern of nothing", files("*.csv", {}), Refused("there is no file HERE/*.csv")),
    Row("a missing file", files("a.tsv", {}), Refused("there is no file HERE/a.tsv")),
    Row("an excel file", file("a.xlsx", b"PK"), Refused("HERE/a.xlsx is none of .parquet, .csv")),
    Row("a zip file", file("a.csv.zip", b"PK"), Refused("HERE/a.csv.zip is none of .parquet")),
    Row(
        "a packed file that is none",
        file("a.csv.gz", CSV),
        Refused("HERE/a.csv.gz cannot be read as .csv: Not a gzipped file"),
    ),
    Row(
        "half a packed file",
        file("a.jsonl.gz", gzip.compress(JSONL.encode())[:-20]),
        Refused("HERE/a.jsonl.gz cannot be read as .jsonl: Compressed file ended before"),
    ),
    Row(
        "csv in latin-1",
        file("a.csv", CSV.replace("apple", "Äpfel").encode("latin-1")),
        Refused("HERE/a.csv is not text in UTF-8 ('utf-8' codec can't decode byte 0xc4"),
    ),
    Row(
        "utf-16 without a mark",
        file("a.jsonl", JSONL.encode("utf-16-le")),
        Refused("HERE/a.jsonl is not text in UTF-8; save it as such"),
    ),
    Row(
        "commas without quotes",
        file("a.csv", f"{','.join(TEXT_COLUMNS)}\na, b,c,d,e\nf, g,h,i,j\n"),
        Refused("HERE/a.csv has rows with more cells than its header; put quotes around every"),
    ),
    Row(
        "a cell too few",
        file("a.csv", f"{','.join(TEXT_COLUMNS)}\na,b,c\n"),
        Refused("HERE/a.csv, row 0, column 'positive_output' is empty; fill or drop it"),
    ),
    Row(
        "other columns",
        given([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        Refused("the given list has no column 'negative_input'; it has prompt, chosen, rejected"),
    ),
    Row(
        "conversations",
        given(CHAT),
        Refused("the given list holds conversations in 'messages', and no pairs with and without"),
    ),
    Row(
        "conversations of sharegpt",
        file("a.json", json.dumps(SHAREGPT)),
        Refused("HERE/a.json holds conversations in 'conversations', and no pairs"),
    ),
    Row(
        "two turns in a cell",
        given(with_cell("negative_input", CHAT[0]["messages"])),
        Refused("row 0, column 'negative_input': the conversation ends with the model's answer"),
    ),
    Row(
        "a gap",
        given([*RECORDS, {"negative_input": "a"}]),
        Refused("row 5, column 'negative_output': nan is not text"),
    ),
    Row(
        "an id with an underscore",
        file("a.jsonl", column_of(["7_0"])),
        Refused("HERE/a.jsonl, row 0, column 'concept_id': '7_0' is not a whole number"),
    ),
    Row(
        "a large id as a fraction",
        file("a.jsonl", column_of([2.0**53])),
        Refused("row 0, column 'concept_id': 9007199254740992.0 is not a whole number"),
    ),
    Row(
        "an id that is true", given(with_cell("concept_id", "true")), Refused("'true' is not a wh")
    ),
)
def test_quadruples(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path.parent / "cache"))

    def read(source: Any) -> list[Quadruple]:
        with unchecked():
            return read_quadruples(source)

    check(row, tmp_path, read)
