"""Reading quadruples from whatever holds rows, and checking every cell."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pandas as pd

from concept_das.data.conversations import (
    CONVERSATION_COLUMNS,
    prompt_and_answer,
    prompt_in,
    turns_of,
)
from concept_das.data.frames import Source, read_frame
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError

TEXT_COLUMNS = ("negative_input", "negative_output", "positive_input", "positive_output")


_ALL_TEXT_COLUMNS = (*TEXT_COLUMNS, "concept", "concept_genre")


def read_quadruples(
    source: Source, *, concept_id: int | None = None, split: str = "train"
) -> list[Quadruple]:
    """Read and check quadruples.

    Args:
        source: a `.parquet`, `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.json`, `.feather` or `.arrow`
            file, with `.gz` or without; a folder or pattern (`train-*.parquet`) of such files; the
            id of a data set on the hub; a data set, data frame, list of dicts, or dict of lists.
        concept_id: keep only the rows of this concept.
        split: which one to take where there are several.

    Raises:
        InputError: naming the file, row and column that cannot be used.
    """
    name = str(source) if isinstance(source, str | Path) else f"the given {type(source).__name__}"
    rows = quadruples_from_frame(read_frame(source, split), name)
    if concept_id is not None:
        known = sorted({row.concept_id for row in rows})
        rows = [row for row in rows if row.concept_id == concept_id]
        if not rows:
            raise InputError(f"{name} has no rows of concept {concept_id}; it has {known}")
    return rows


def quadruples_from_frame(frame: pd.DataFrame, name: str = "the data") -> list[Quadruple]:
    """Check every cell of a data frame and turn it into quadruples.

    Raises:
        InputError: on a missing column, a cell that is neither text nor, for an input, a
            conversation, an empty one, or a concept_id that is not a whole number.
    """
    frame = _with_both_sides(frame, name)
    found = [one for one in CONVERSATION_COLUMNS if one in frame.columns]
    if found and TEXT_COLUMNS[0] not in frame.columns:
        raise InputError(
            f"{name} holds conversations in {found[0]!r}, and no pairs with and without a concept; "
            "name the conversations of each side negative_messages and positive_messages, or put "
            f"texts into the columns {', '.join(TEXT_COLUMNS)}"
        )
    texts = [column for column in _ALL_TEXT_COLUMNS if column in frame.columns]
    check_columns(frame, TEXT_COLUMNS, name)
    for column in TEXT_COLUMNS:
        is_input = column.endswith("_input")
        frame = _mapped(frame, column, column, prompt_in if is_input else _single_turn, name)
    check_texts(frame, texts, name, filled=TEXT_COLUMNS)
    records = cast("list[dict[str, Any]]", frame[texts].to_dict("records"))
    if "concept_id" in frame.columns:
        for row, (record, value) in enumerate(zip(records, frame["concept_id"], strict=True)):
            try:
                record["concept_id"] = _whole_number(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(
                    f"{name}, row {row}, column 'concept_id': {value!r} is not a whole number"
                ) from error
    return [Quadruple(**record) for record in records]


def check_columns(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Make sure that a table has these columns, and rows.

    Raises:
        InputError: naming the first column that is missing.
    """
    if frame.empty:
        raise InputError(f"{name} has no rows")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            f"{name} has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}"
        )


def check_texts(
    frame: pd.DataFrame, columns: Sequence[str], name: str, *, filled: Sequence[str]
) -> None:
    """Make sure that every cell of these columns is text, and those of `filled` are not empty.

    Raises:
        InputError: naming the first cell that is not.
    """
    for column in columns:
        for row, value in enumerate(frame[column]):
            if not isinstance(value, str):
                raise InputError(f"{name}, row {row}, column {column!r}: {value!r} is not text")
            if column in filled and not value.strip():
                raise InputError(f"{name}, row {row}, column {column!r} is empty; fill or drop it")


def _with_both_sides(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Conversations of both sides become prompts and outputs, the model's last turns."""
    for side in ("negative", "positive"):
        column = f"{side}_messages"
        if column in frame.columns and f"{side}_input" not in frame.columns:
            frame = _mapped(frame, column, f"{side}_output", lambda cell: _both_of(cell)[1], name)
            frame = _mapped(frame, column, f"{side}_input", lambda cell: _both_of(cell)[0], name)
    return frame


def _mapped(
    frame: pd.DataFrame, column: str, to: str, change: Callable[[Any], Any], name: str
) -> pd.DataFrame:
    cells = []
    for row, cell in enumerate(frame[column]):
        try:
            cells.append(change(cell))
        except InputError as error:
            raise InputError(f"{name}, row {row}, column {column!r}: {error}") from error
    return frame.assign(**{to: pd.Series(cells, index=frame.index, dtype=object)})


def _both_of(cell: Any) -> tuple[str, str]:
    found = prompt_and_answer(cell)
    if found is None:
        raise InputError("this is no conversation that ends with the model's answer; add that turn")
    return found


def _single_turn(cell: Any) -> Any:
    """The text of a conversation of one turn; anything else as it is."""
    turns = turns_of(cell)
    return turns[0][1] if turns is not None and len(turns) == 1 else cell


def _whole_number(value: Any) -> int:
    """Of a number or its digits: a column with a gap comes as floats or as text."""
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[+-]?[0-9]+(\.0*)?\s*", value):
            raise ValueError
        return int(value.split(".")[0])
    number = int(value)
    # From 2**53 on, a float may be the neighbour of the number that was meant.
    if number != value or (isinstance(value, float) and abs(value) >= 2**53):
        raise ValueError
    return number


def to_frame(rows: Sequence[Quadruple]) -> pd.DataFrame:
    """The quadruples as a data frame, one column a field."""
    return pd.DataFrame([asdict(row) for row in rows])
