"""Reading quadruples from files, data sets and data frames, and checking every cell."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import datasets
import pandas as pd

from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError

TEXT_COLUMNS = ("negative_input", "negative_output", "positive_input", "positive_output")


_ALL_TEXT_COLUMNS = (*TEXT_COLUMNS, "concept", "concept_genre")


def read_quadruples(
    source: str | Path | datasets.Dataset | pd.DataFrame,
    *,
    concept_id: int | None = None,
    split: str = "train",
) -> list[Quadruple]:
    """Read and check quadruples.

    Args:
        source: a `.parquet`, `.csv`, `.jsonl` or `.json` file, a `datasets.Dataset`, a data frame,
            or the id of a data set on the hub.
        concept_id: keep only the rows of this concept.
        split: the split to take from a hub data set.

    Raises:
        InputError: naming the file, row and column that cannot be used.
    """
    name = str(source) if isinstance(source, (str, Path)) else f"the given {type(source).__name__}"
    frame = read_frame(source, split)
    rows = quadruples_from_frame(frame, name)
    if concept_id is not None:
        known = sorted({row.concept_id for row in rows})
        rows = [row for row in rows if row.concept_id == concept_id]
        if not rows:
            raise InputError(f"{name} has no rows of concept {concept_id}; it has {known}")
    return rows


def read_frame(
    source: str | Path | datasets.Dataset | pd.DataFrame, split: str = "train"
) -> pd.DataFrame:
    """Rows of a file, a `datasets.Dataset`, a data frame or a data set on the hub.

    Raises:
        InputError: if it cannot be read.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, datasets.Dataset):
        return source.to_pandas()
    path = Path(source)
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": pd.read_parquet,
        # A column of text stays text, also where every cell of it looks like a number or a date.
        ".csv": lambda p: pd.read_csv(
            p, keep_default_na=False, dtype=dict.fromkeys(_ALL_TEXT_COLUMNS, str)
        ),
        ".jsonl": lambda p: pd.read_json(p, lines=True, dtype=False),
        ".json": lambda p: pd.read_json(p, dtype=False),
    }
    if path.suffix in readers:
        if not path.exists():
            raise InputError(f"there is no file {path}")
        try:
            return readers[path.suffix](path)
        except Exception as error:  # each reader has its own exceptions for a corrupt file
            raise InputError(f"{path} cannot be read as {path.suffix}: {error}") from error
    if path.exists():
        raise InputError(f"{path} is none of {', '.join(readers)}")
    try:
        return datasets.load_dataset(str(source), split=split).to_pandas()
    except Exception as error:  # hub, network and parsing errors alike
        raise InputError(
            f"{source!r} is neither a {', '.join(readers)} file nor a data set that can be loaded: "
            f"{str(error).splitlines()[0]}"
        ) from error


def quadruples_from_frame(frame: pd.DataFrame, name: str = "the data") -> list[Quadruple]:
    """Check every cell of a data frame and turn it into quadruples.

    Raises:
        InputError: on a missing column, a cell that is not text, or an empty one, or a concept_id
            that is not a whole number.
    """
    texts = [column for column in _ALL_TEXT_COLUMNS if column in frame.columns]
    check_columns(frame, TEXT_COLUMNS, name)
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
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            f"{name} has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}"
        )
    if frame.empty:
        raise InputError(f"{name} has no rows")


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


def _whole_number(value: Any) -> int:
    """Of a number or its digits: a column with a gap comes as floats or as text."""
    number = float(value)
    if number != int(number):
        raise ValueError
    return int(number)


def to_frame(rows: Sequence[Quadruple]) -> pd.DataFrame:
    """The quadruples as a data frame, one column a field."""
    return pd.DataFrame([asdict(row) for row in rows])
