"""Rows of files, folders, data sets and lists, as data frames."""

import bz2
import codecs
import glob
import gzip
import io
import json
import lzma
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pandas as pd
import pyarrow

from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError

Source: TypeAlias = (
    str
    | Path
    | pd.DataFrame
    | datasets.Dataset
    | datasets.DatasetDict
    | datasets.IterableDataset
    | datasets.IterableDatasetDict
    | Sequence[Any]
    | Mapping[str, Any]
)
"""A file, a folder or pattern of files, the id of a data set on the hub, a data set of `datasets`
(with splits or streamed too), a data frame, a list of dicts or quadruples, or a dict of lists."""

_OPENERS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_frame(source: Source, split: str = "train") -> pd.DataFrame:
    """The rows of a source.

    Args:
        split: which one to take where there are several.

    Raises:
        InputError: if it cannot be read.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, str | Path):
        return _of_files(str(source), split)
    if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        return read_frame(_split_of(source, split, f"the given {type(source).__name__}"))
    if isinstance(source, datasets.IterableDataset):
        source = list(source)
    elif hasattr(source, "to_pandas"):  # of datasets, pyarrow, polars
        return source.to_pandas()
    name = f"the given {type(source).__name__}"
    if isinstance(source, Mapping):
        try:
            return pd.DataFrame(dict(source))
        except ValueError as error:
            raise InputError(f"{name} is no table: {error}; give a dict of lists") from error
    if not isinstance(source, Sequence):
        raise InputError(
            f"{name} holds no rows; give a file, a folder, the id of a data set, a data set, a "
            "data frame, or a list of dicts"
        )
    rows = [asdict(row) if isinstance(row, Quadruple) else row for row in source]
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"{name}, row {number} is {row!r}; give a dict with a text a column")
    return pd.DataFrame(rows)


def kind_of(path: str | Path) -> str:
    """The suffix that names a file's format, `.csv` of `rows.CSV.gz`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in _OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_table(path: str | Path) -> bool:
    """True for a file of a known format, a folder, or a pattern of files."""
    return kind_of(path) in READERS or Path(path).is_dir() or _is_pattern(str(path))


def _is_pattern(source: str) -> bool:
    return any(sign in source for sign in "*?[")


def text_of(path: Path) -> str:
    """The text of a file in UTF-8 or, if it says so, UTF-16; its line ends as they are.

    Raises:
        InputError: if it is something else.
    """
    with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
        content = file.read()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text: str = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({error}); save it as such") from error
    if "\0" in text[:4]:
        raise InputError(f"{path} is not text in UTF-8; save it as such")
    return text


def _split_of(splits: Mapping[Any, Any], split: str, name: str) -> Any:
    if split not in splits:
        raise InputError(
            f"{name} has no split {split!r}; it has {', '.join(map(str, splits))}; give one of them"
        )
    return splits[split]


def _of_files(source: str, split: str) -> pd.DataFrame:
    path = Path(source)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return read_frame(datasets.load_from_disk(source), split)
    if path.is_dir():
        try:  # file names and the folder's README say what belongs to which split
            splits = datasets.load_dataset_builder(source).config.data_files
        except Exception as error:  # of many kinds
            if isinstance(error, OSError) and error.errno:  # of the cache of `datasets`
                raise
            raise InputError(f"the folder {path} holds no rows: {_first_line(error)}") from error
        files = [Path(file) for file in _split_of(splits, split, f"the folder {path}")]
    elif path.exists():
        files = [path]
    elif _is_pattern(source):
        files = sorted(Path(file) for file in glob.glob(source, recursive=True))
        if not files:
            raise InputError(f"there is no file {source}")
    elif kind_of(path) in READERS:
        raise InputError(f"there is no file {path}")
    else:
        try:
            return datasets.load_dataset(source, split=split).to_pandas()
        except Exception as error:  # hub, network and parsing errors alike
            raise InputError(
                f"{source!r} is neither a {', '.join(READERS)} file nor a data set that can be "
                f"loaded: {_first_line(error)}"
            ) from error
    frames = [_of_file(file) for file in files]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _of_file(path: Path) -> pd.DataFrame:
    kind = kind_of(path)
    if kind not in READERS:
        raise InputError(f"{path} is none of {', '.join(READERS)}")
    try:
        return READERS[kind](path)
    except InputError:
        raise
    except Exception as error:  # each reader has its own exceptions for a corrupt file
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as {kind}: {reason}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_parquet(path: Path) -> pd.DataFrame:
    with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
        return pd.read_parquet(file)


def _read_arrow(path: Path) -> pd.DataFrame:
    try:
        return pd.read_feather(path)
    except pyarrow.ArrowInvalid:  # a stream, as `datasets` writes them
        return datasets.Dataset.from_file(str(path)).to_pandas()


def _read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    """A text stays text, also where every cell of its column looks like a number or a date."""
    text = text_of(path)

    def read(**options: Any) -> pd.DataFrame:
        lines = io.StringIO(text, newline="")  # a carriage return in a text stays one
        return pd.read_csv(lines, sep=separator, index_col=False, keep_default_na=False, **options)

    header = read(nrows=0).columns
    if len(header) == 1:
        separator = next((sign for sign in ";\t|" if sign in header[0]), separator)
        header = read(nrows=0).columns
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return read(dtype={name: str for name in header if name != "concept_id"})
        except pd.errors.ParserWarning as error:
            raise InputError(
                f"{path} has rows with more cells than its header; put quotes around every text "
                f"that holds {separator!r}"
            ) from error


def _read_json(path: Path) -> pd.DataFrame:
    """A list of objects, one of them a line, or such a list inside an object."""
    text = text_of(path)
    if text.lstrip()[:1] != "{":
        return pd.DataFrame(json.loads(text))
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return _read_json_lines(path)
    lists = [value for value in content.values() if isinstance(value, list)]
    if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]):
        return pd.DataFrame(lists[0])
    is_row = not any(isinstance(value, list | dict) for value in content.values())
    return pd.DataFrame([content] if is_row else content)


def _read_json_lines(path: Path) -> pd.DataFrame:
    text = text_of(path)
    if text.lstrip()[:1] == "[":
        return pd.DataFrame(json.loads(text))
    # No other sign ends a line: a text may hold U+2028.
    return pd.DataFrame([json.loads(line) for line in text.split("\n") if line.strip()])


READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".ndjson": _read_json_lines,
    ".tsv": lambda path: _read_csv(path, "\t"),
    ".feather": _read_arrow,
    ".arrow": _read_arrow,
}
