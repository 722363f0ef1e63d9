"""Instructions in the files that people have them in."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from concept_das.data.conversations import Conversation
from concept_das.data.files import read_instructions
from tests.in_the_wild.rows import Refused, Row, check, every_row
from tests.in_the_wild.test_data_files import CHAT, SHAREGPT, file, files, packed

TEXTS = ["Name a fruit", "Hi\u2028there", "12", "Hi, you"]
RECORDS = [{"instruction": text} for text in TEXTS]
JSONL = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in RECORDS)
FRAME = pd.DataFrame(RECORDS)


def image(*texts: str | None) -> dict[str, Any]:
    """A conversation in parts, those without text being images."""
    parts = [{"type": "text", "text": text} if text else {"type": "image"} for text in texts]
    system = {"role": "system", "content": "Be brief"}
    return {"messages": [system, {"role": "user", "content": parts}]}


def jsonl(*records: Any) -> Callable[[Path], str]:
    return file("a.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))


@every_row(
    Row("a line each", file("a.txt", "\n".join(TEXTS)), TEXTS),
    Row("lines that end", file("a.txt", "\n".join(TEXTS) + "\n"), TEXTS),
    Row("lines of windows", file("a.txt", "\r\n".join(TEXTS) + "\r\n"), TEXTS),
    Row("lines of an old mac", file("a.txt", "\r".join(TEXTS)), TEXTS),
    Row("lines in utf-16", file("a.txt", "\n".join(TEXTS).encode("utf-16")), TEXTS),
    Row("a byte order mark", file("a.txt", "\n".join(TEXTS).encode("utf-8-sig")), TEXTS),
    Row("lines of another suffix", file("a.md", "\n".join(TEXTS)), TEXTS),
    Row("lines of no suffix", file("prompts", "\n".join(TEXTS)), TEXTS),
    Row("packed lines", file("a.txt.gz", gzip.compress("\n".join(TEXTS).encode())), TEXTS),
    Row(
        "lines with signs that end lines elsewhere",
        file("a.txt", "a\x0bb\x85c\x1cd"),
        ["a\x0bb\x85c\x1cd"],
    ),
    Row("blank lines between", file("a.txt", "Hi\n\n  \nSing\n\n"), ["Hi", "Sing"]),
    Row("json lines", file("a.jsonl", JSONL), TEXTS),
    Row("json lines in capitals", file("A.JSONL", JSONL), TEXTS),
    Row("ndjson", file("a.ndjson", JSONL), TEXTS),
    Row("json", file("a.json", json.dumps(RECORDS)), TEXTS),
    Row("a json list of texts", file("a.json", json.dumps(TEXTS)), TEXTS),
    Row("json lines of texts", jsonl(*TEXTS), TEXTS),
    Row("csv", file("a.csv", FRAME.to_csv(index=False)), TEXTS),
    Row("csv with more columns", file("a.csv", FRAME.assign(id=1).to_csv()), TEXTS),
    Row("tsv", file("a.tsv", FRAME.to_csv(index=False, sep="\t")), TEXTS),
    Row("parquet", file("a.parquet", packed(FRAME, "parquet")), TEXTS),
    Row("packed json lines", file("a.jsonl.gz", gzip.compress(JSONL.encode())), TEXTS),
    Row("a folder", files(".", {"a.jsonl": JSONL}), TEXTS),
    Row("conversations", jsonl(*CHAT), ["Hi"]),
    Row("conversations of sharegpt", jsonl(*SHAREGPT), ["Hi"]),
    Row(
        "content in parts",
        jsonl(image("Hi", "!")),
        [Conversation.of([("system", "Be brief"), ("user", "Hi!")])],
    ),
    Row("a missing file", files("a.txt", {}), Refused("there is no file HERE/a.txt")),
    Row("a missing table", files("a.csv", {}), Refused("there is no file HERE/a.csv")),
    Row("an empty file", file("a.txt", "\n \n"), Refused("HERE/a.txt holds no instructions")),
    Row("an empty list", file("a.json", "[]"), Refused("HERE/a.json holds no instructions")),
    Row("null", jsonl({"instruction": None}), Refused("row 0, column 'instruction': None is no")),
    Row("a number", jsonl({"instruction": 3}), Refused("row 0, column 'instruction': 3 is no")),
    Row("a list", jsonl({"instruction": ["Hi"]}), Refused("column 'instruction': ['Hi'] is no")),
    Row(
        "a blank",
        jsonl(RECORDS[0], {"instruction": " "}),
        Refused("row 1, column 'instruction' is"),
    ),
    Row("a gap", jsonl(RECORDS[0], {}), Refused("row 1, column 'instruction': nan is no")),
    Row(
        "another column", jsonl({"prompt": "Hi"}), Refused("no column 'instruction'; it has prompt")
    ),
    Row("csv without a header", file("a.csv", "Hi\nSing\n"), Refused("it has Hi")),
    Row(
        "an image's content", jsonl(image("Hi", None)), Refused("row 0, column 'messages': [{'role")
    ),
    Row(
        "half a line", file("a.jsonl", JSONL[:-4]), Refused("a.jsonl cannot be read as .jsonl: Un")
    ),
    Row("latin-1", file("a.txt", "Äpfel".encode("latin-1")), Refused("a.txt is not text in UTF-8")),
    Row("an image", file("a.png", b"\x89PNG\r\n\x1a\n\0\0"), Refused("a.png is not text in UTF-8")),
)
def test_instructions(row: Row, tmp_path: Path) -> None:
    check(row, tmp_path, lambda path: read_instructions(Path(path), once=False))


def test_what_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = file("a.txt", "Hi\n\nHi\n\nSing\n")(tmp_path)
    assert read_instructions(Path(lines)) == ["Hi", "Sing"]
    assert f"2 blank lines of {lines} are left out" in caplog.text
    assert f"1 repeats in {lines} are left out" in caplog.text


def test_a_prompt_is_all_before_the_models_last_answer(tmp_path: Path) -> None:
    turns = [("system", "Be brief"), ("user", "Hi"), ("assistant", "Yo"), ("user", "And?")]
    chat = [{"role": role, "content": text} for role, text in turns]
    answered = [*chat, {"role": "assistant", "content": "Well."}]
    rows = jsonl(*({"messages": m} for m in (chat, answered, chat[1:3], answered[1:])))(tmp_path)
    whole = Conversation.of(turns)
    assert read_instructions(Path(rows), once=False) == [
        whole,
        whole,
        "Hi",
        Conversation.of(turns[1:]),
    ]
    as_cells = jsonl(*({"instruction": cell} for cell in (chat, json.dumps(chat), "Hi")))(tmp_path)
    assert read_instructions(Path(as_cells), once=False) == [whole, whole, "Hi"]
