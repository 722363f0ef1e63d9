"""The record's files: how they are written, and how two of them are compared."""

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

TOLERANCE = float(os.environ.get("GOLDEN_TOLERANCE", "1e-4"))
"""Largest difference of two numbers, absolute or relative. 1e-6 on the machine of the record."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_TIMES = ("seconds", "duration", "elapsed")


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a list of numbers in a line, floats to nine digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False)
    one_line = re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found.group()), text)
    path.write_text(f"{one_line}\n", encoding="utf-8")


def write_text(path: Path, text: str, places: Mapping[str, str] | None = None) -> None:
    """Text, with this machine's folders replaced by names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(without_places(text, places or {}).rstrip() + "\n", encoding="utf-8")


def write_table(path: Path, source: Path, places: Mapping[str, str] | None = None) -> None:
    """A command's .csv or .parquet table as .csv, without the columns that hold a time."""
    read = pd.read_parquet if source.suffix == ".parquet" else pd.read_csv
    frame = read(source)
    kept = [name for name in frame.columns if not any(time in name for time in _TIMES)]
    write_text(path, frame[kept].to_csv(index=False, float_format="%.9g"), places)


def write_markdown(path: Path, text: str, places: Mapping[str, str] | None = None) -> None:
    """A report, without the columns of its tables that hold a time."""
    lines, dropped = [], set[int]()
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) < 3:
            dropped = set()
        elif not dropped:
            dropped = {n for n, cell in enumerate(cells) if any(time in cell for time in _TIMES)}
        lines.append("|".join(cell for n, cell in enumerate(cells) if n not in dropped))
    write_text(path, "\n".join(lines), places)


def without_places(text: str, places: Mapping[str, str]) -> str:
    """The text with folders (the longest first) replaced by names."""
    for folder, name in sorted(places.items(), key=lambda item: -len(item[0])):
        text = text.replace(folder, name)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def differences(expected: Path, found: Path) -> list[str]:
    """The differences between two folders of the record, a line each."""
    names = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for folder in (expected, found)
    ]
    lines = [f"{name}: only in the record" for name in sorted(names[0] - names[1])]
    lines += [f"{name}: not in the record" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        texts = [(folder / name).read_text(encoding="utf-8") for folder in (expected, found)]
        compare = {".json": _compare_json, ".csv": _compare_csv, ".md": _compare_markdown}.get(
            Path(name).suffix, _compare_text
        )
        lines += [f"{name}: {line}" for line in compare(*texts)]
    return lines


def _compare_json(expected: str, found: str) -> Iterator[str]:
    yield from _compare_values("", json.loads(expected), json.loads(found))


def _compare_values(where: str, expected: Any, found: Any) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            if key not in expected or key not in found:
                yield f"{where}/{key}: only in the {'record' if key in expected else 'new one'}"
            else:
                yield from _compare_values(f"{where}/{key}", expected[key], found[key])
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: {len(expected)} entries in the record, {len(found)} now"
            return
        for number, pair in enumerate(zip(expected, found, strict=True)):
            yield from _compare_values(f"{where}/{number}", *pair)
    elif _is_float(expected) and _is_float(found):
        if not _near(float(expected), float(found)):
            yield f"{where}: {expected} in the record, {found} now"
    elif type(expected) is not type(found) or expected != found:
        yield f"{where}: {expected!r} in the record, {found!r} now"


def _compare_csv(expected: str, found: str) -> Iterator[str]:
    old, new = (list(csv.reader(text.splitlines())) for text in (expected, found))
    if len(old) != len(new) or old[:1] != new[:1]:
        yield f"{len(old)} lines of {old[:1]} in the record, {len(new)} of {new[:1]} now"
        return
    for number, (row, other) in enumerate(zip(old, new, strict=True)):
        for column, (cell, now) in enumerate(zip(row, other, strict=False)):
            if cell != now and not _near_texts(cell, now):
                name = old[0][column] if column < len(old[0]) else column
                yield f"line {number + 1}, {name}: {cell!r} in the record, {now!r} now"


def _compare_markdown(expected: str, found: str) -> Iterator[str]:
    """Words exactly; a rounded number may differ by one in its last place."""
    old, new = expected.splitlines(), found.splitlines()
    if len(old) != len(new):
        yield f"{len(old)} lines in the record, {len(new)} now"
        return
    for number, (line, now) in enumerate(zip(old, new, strict=True)):
        figures, others = _NUMBER.findall(line), _NUMBER.findall(now)
        same = _NUMBER.sub("#", line) == _NUMBER.sub("#", now) and all(
            map(_near_rounded, figures, others)
        )
        if not same:
            yield f"line {number + 1}: {line!r} in the record, {now!r} now"


def _compare_text(expected: str, found: str) -> Iterator[str]:
    old, new = expected.splitlines(), found.splitlines()
    for number, (line, now) in enumerate(zip(old, new, strict=False)):
        if line != now:
            yield f"line {number + 1}: {line!r} in the record, {now!r} now"
    if len(old) != len(new):
        yield f"{len(old)} lines in the record, {len(new)} now"


def _is_float(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _near(expected: float, found: float) -> bool:
    if math.isnan(expected) or math.isnan(found):
        return math.isnan(expected) and math.isnan(found)
    return math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _near_texts(expected: str, found: str) -> bool:
    try:
        return _near(float(expected), float(found))
    except ValueError:
        return False


def _near_rounded(expected: str, found: str) -> bool:
    if expected == found:
        return True
    places = len(expected.partition(".")[2]) if "e" not in expected else 0
    return bool(places) and abs(float(expected) - float(found)) < 1.5 * 10.0**-places
