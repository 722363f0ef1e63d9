from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from concept_das.data.encoding import encode_quadruples
from concept_das.data.quadruples import Quadruple, choose_quadruples, data_hash, split_quadruples
from concept_das.data.reading import TEXT_COLUMNS, read_quadruples, to_frame
from concept_das.errors import InputError
from tests.concept_das.helpers import ROWS, tiny_chat

# Texts that careless readers turn into something else.
AWKWARD = (
    replace(ROWS[0], negative_output='A "quoted", comma\nand line'),
    replace(ROWS[1], negative_output="None", positive_output="NA"),
    replace(ROWS[2], negative_input="12", positive_output="  true "),
    replace(ROWS[3], positive_input="Überfluß 船"),
)

WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".parquet": lambda frame, path: frame.to_parquet(path),
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    ".json": lambda frame, path: frame.to_json(path, orient="records"),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("as_text", [True, False])
def test_files_are_read_as_they_were_written(tmp_path: Path, suffix: str, as_text: bool) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](to_frame(AWKWARD), path)
    assert read_quadruples(str(path) if as_text else path) == list(AWKWARD)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_a_column_of_numbers_stays_text(tmp_path: Path, suffix: str) -> None:
    rows = [
        replace(row, negative_output=str(i), positive_output="2024-01-01")
        for i, row in enumerate(ROWS)
    ]
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](to_frame(rows), path)
    assert read_quadruples(path) == rows


def test_the_index_of_a_frame_does_not_matter() -> None:
    assert read_quadruples(to_frame(ROWS).set_index(pd.Index([7] * len(ROWS)))) == list(ROWS)


def test_concept_columns_are_optional_and_others_are_ignored() -> None:
    frame = to_frame(ROWS)[[*TEXT_COLUMNS]].assign(source="a book")
    expected = [Quadruple(*(getattr(row, name) for name in TEXT_COLUMNS)) for row in ROWS]
    assert read_quadruples(frame) == expected


def test_one_concept_of_several() -> None:
    rows = [replace(row, concept_id=i % 2) for i, row in enumerate(ROWS)]
    assert read_quadruples(to_frame(rows), concept_id=1) == rows[1::2]
    with pytest.raises(InputError, match=r"has no rows of concept 9; it has \[0, 1\]"):
        read_quadruples(to_frame(rows), concept_id=9)


@pytest.mark.parametrize("column", TEXT_COLUMNS)
def test_a_missing_column(tmp_path: Path, column: str) -> None:
    path = tmp_path / "rows.csv"
    to_frame(ROWS).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(InputError, match=f"{path} has no column '{column}'; it has "):
        read_quadruples(path)


@pytest.mark.parametrize("column", TEXT_COLUMNS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        (float("nan"), "nan is not text"),
        (None, "is not text"),
        (3, "3 is not text"),
    ],
)
def test_an_unusable_cell(column: str, value: Any, message: str) -> None:
    frame = to_frame(ROWS)
    cells = frame[column].tolist()
    frame[column] = pd.Series([*cells[:3], value, *cells[4:]], dtype=object)
    with pytest.raises(InputError, match=f"row 3, column '{column}'.*{message}"):
        read_quadruples(frame)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_a_missing_cell_of_a_file(tmp_path: Path, suffix: str) -> None:
    frame = to_frame(ROWS)
    frame.loc[2, "positive_output"] = None
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](frame, path)
    with pytest.raises(InputError, match=f"{path}, row 2, column 'positive_output'"):
        read_quadruples(path)


@pytest.mark.parametrize("value", ["three", None, 1.5, float("inf")])
def test_a_concept_id_that_is_no_number(value: Any) -> None:
    frame = to_frame(ROWS)
    frame["concept_id"] = pd.Series([0, 0, value, 0, 0], dtype=object)
    with pytest.raises(InputError, match=r"row 2, column 'concept_id': .* not a whole number"):
        read_quadruples(frame)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_concept_id_of_a_file(tmp_path: Path, suffix: str) -> None:
    frame = to_frame(ROWS).astype({"concept_id": float})
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](frame, path)
    assert [row.concept_id for row in read_quadruples(path)] == [3] * len(ROWS)
    frame.loc[2, "concept_id"] = None
    WRITERS[suffix](frame, path)
    with pytest.raises(InputError, match=f"{path}, row 2, column 'concept_id'"):
        read_quadruples(path)


@pytest.mark.parametrize("column", ["concept", "concept_genre"])
def test_a_concept_that_is_no_text(column: str) -> None:
    frame = to_frame(ROWS)
    frame[column] = pd.Series(["a", None, "b", "", "c"], dtype=object)
    with pytest.raises(InputError, match=f"row 1, column '{column}'.*is not text"):
        read_quadruples(frame)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_a_corrupt_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](to_frame(ROWS), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=f"{path} cannot be read as {suffix}"):
        read_quadruples(path)


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.touch()
    with pytest.raises(InputError, match=f"{path} (cannot be read|has no)"):
        read_quadruples(path)


def test_neither_a_file_nor_a_data_set() -> None:
    with pytest.raises(InputError, match="'nobody/nothing' is neither a .parquet"):
        read_quadruples("nobody/nothing")


def test_the_hash_follows_the_rows() -> None:
    assert data_hash(ROWS) == data_hash(list(ROWS))
    assert data_hash(ROWS) != data_hash(ROWS[::-1])
    assert data_hash(ROWS) != data_hash([*ROWS[:-1], replace(ROWS[-1], negative_output="No")])


@pytest.mark.parametrize("heldout", [0, 1, 4])
def test_a_split_is_disjoint_and_complete(heldout: int) -> None:
    train, held = split_quadruples(ROWS, heldout, seed=1)
    assert len(held) == heldout
    assert sorted(map(ROWS.index, train + held)) == list(range(len(ROWS)))


def test_a_split_follows_its_seed() -> None:
    rows = [replace(ROWS[0], negative_input=f"n{i}", positive_input=f"p{i}") for i in range(40)]
    assert split_quadruples(rows, 10, seed=1) == split_quadruples(rows, 10, seed=1)
    assert split_quadruples(rows, 10, seed=1) != split_quadruples(rows, 10, seed=2)


def inputs(text: str) -> Quadruple:
    """A row whose inputs are two letters."""
    return replace(ROWS[0], negative_input=text[0], positive_input=text[1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("texts", "together", "expected"),
    [
        ("aA aA bB bB cC cC dD", ["aA", "bB", "cC", "dD"], 3),  # repeated rows
        ("aA aB bC bD cE cF dG", ["a", "b", "c", "d"], 3),  # one neutral, two concept prompts
        ("aZ bZ cY dY eX fX gW", ["Z", "Y", "X", "W"], 3),
        ("aA bA bB cC dC dD eE", ["aAbB", "cCdD", "e"], 3),  # over a row between
        ("ab bc cd ef gh ij kl", ["abcd", "ef", "gh", "ij", "kl"], 3),  # on the other side
        ("aA aA bB bB", ["aA", "bB"], 2),
    ],
)
def test_rows_that_share_an_input_stay_on_one_side(
    texts: str, together: list[str], expected: int, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [inputs(text) for text in texts.split()]
    train, held = split_quadruples(rows, 3, seed)
    assert len(held) == expected
    assert len(train) + len(held) == len(rows)
    for group in together:
        sides = {
            row in held
            for row in rows
            if row.negative_input in group or row.positive_input in group
        }
        assert len(sides) == 1, group
    assert "share an input with another and stay on its side" in caplog.text


def test_rows_that_all_share_one_side_are_told_and_split(caplog: pytest.LogCaptureFixture) -> None:
    rows = [inputs(f"{letter}A") for letter in "abcdef"] + [inputs("aA")]
    train, held = split_quadruples(rows, 2, seed=1)
    assert len(held) == 2
    assert (rows[0] in train) != (rows[0] in held)
    assert "all rows share an input with others" in caplog.text
    with pytest.raises(InputError, match="cannot hold out 2 of 7 rows: there are 1 with different"):
        split_quadruples([rows[0]] * 7, 2, seed=1)


def test_a_split_without_equal_inputs_is_that_of_earlier_releases(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [inputs(chr(65 + i) + chr(97 + i)) for i in range(20)]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(20)[:6].tolist()
        expected = [row for i, row in enumerate(rows) if i in order]
        assert split_quadruples(rows, 6, seed)[1] == expected
        assert choose_quadruples(rows, 6, seed) == expected
    assert caplog.text == ""
    assert choose_quadruples([rows[0]] * 9, 6, 0) == [rows[0]] * 6


@pytest.mark.parametrize("heldout", [-1, len(ROWS), 99])
def test_too_many_held_out(heldout: int) -> None:
    with pytest.raises(InputError, match=f"cannot hold out {heldout} of {len(ROWS)} rows"):
        split_quadruples(ROWS, heldout, seed=1)


def test_both_directions_of_a_row() -> None:
    chat, row = tiny_chat(), ROWS[0]
    (encoded,) = encode_quadruples([row], chat)
    neutral, concept = chat.prompt(row.negative_input), chat.prompt(row.positive_input)
    assert encoded.elicit.base.prompt == encoded.suppress.source.prompt == neutral
    assert encoded.elicit.source.prompt == encoded.suppress.base.prompt == concept
    for pair, text in (
        (encoded.elicit, row.positive_output),
        (encoded.suppress, row.negative_output),
    ):
        assert pair.base.response == pair.source.response == chat.text_ids(text)


def test_the_directions_change_places_with_the_columns() -> None:
    swapped = [
        Quadruple(r.positive_input, r.positive_output, r.negative_input, r.negative_output)
        for r in ROWS
    ]
    here, there = (encode_quadruples(rows, tiny_chat()) for rows in (ROWS, swapped))
    assert [row.elicit for row in here] == [row.suppress for row in there]
    assert [row.suppress for row in here] == [row.elicit for row in there]


def test_responses_are_cut() -> None:
    (row,) = encode_quadruples(ROWS[:1], tiny_chat(), max_response_tokens=3)
    assert row.elicit.base.response == tiny_chat().text_ids("Arr")
    assert row.suppress.source.response == tiny_chat().text_ids("An ")


def test_a_row_longer_than_the_context() -> None:
    rows = [ROWS[3], replace(ROWS[0], positive_input="x" * 100)]
    longest = len(tiny_chat().prompt("x" * 100).ids) + len("Arr, an apple!")
    assert encode_quadruples(rows, tiny_chat(), max_positions=longest)
    with pytest.raises(
        InputError, match=f"row 1 needs {longest} tokens but the model takes {longest - 1}"
    ):
        encode_quadruples(rows, tiny_chat(), max_positions=longest - 1)


def test_responses_are_not_cut_to_nothing() -> None:
    with pytest.raises(InputError, match="max_response_tokens is 0; it must be at least 1"):
        encode_quadruples(ROWS[:1], tiny_chat(), max_response_tokens=0)


def test_the_row_of_a_refused_prompt_is_named() -> None:
    rows = [Quadruple("Hi", "a", "Hi, pirate", "b"), Quadruple(" ", "a", "Hi, pirate", "b")]
    with pytest.raises(InputError, match="row 1: an instruction is empty; remove the row"):
        encode_quadruples(rows, tiny_chat())
