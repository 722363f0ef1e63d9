"""Files of quadruples and instructions, as the commands read and write them."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import read_quadruples, to_frame
from concept_das.errors import InputError
from concept_das.runs.files import write_atomically

log = logging.getLogger(__name__)

WRITERS = {
    ".parquet": lambda frame: frame.to_parquet(index=False),
    ".csv": lambda frame: frame.to_csv(index=False).encode(),
    ".jsonl": lambda frame: frame.to_json(orient="records", lines=True, force_ascii=False).encode(),
}


def check_writable(out: Path) -> None:
    """Make sure before any work that the rows can be written."""
    if out.suffix not in WRITERS:
        raise InputError(f"cannot write {out}; choose {', '.join(WRITERS)}")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically, without its index, in the format the suffix names."""
    write_atomically(path, WRITERS[path.suffix](frame))


def write_rows(path: Path, rows: list[Quadruple]) -> None:
    """Write quadruples atomically in the format the suffix names."""
    write_table(path, to_frame(rows))


def finish_rows(out: Path, rows: list[Quadruple], asked: int) -> None:
    """Write the rows and drop the partial file they grew in."""
    if not rows:
        raise InputError("no row is usable: every answer was empty or ran in a loop")
    write_rows(out, rows)
    out.with_suffix(".partial.json").unlink(missing_ok=True)
    log.info("%d of %d rows kept in %s", len(rows), asked, out)


def read_instructions(path: Path) -> list[str]:
    """Instructions, one a line (.txt) or {"instruction": ...} (.jsonl), without repeats."""
    if not path.exists():
        raise InputError(f"there is no file {path}")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix == ".jsonl":
        try:
            lines = [json.loads(line)["instruction"] for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} has a line without an 'instruction' field") from error
    if not lines:
        raise InputError(f"{path} holds no instructions")
    return list(dict.fromkeys(lines))


def by_concept(rows: Sequence[Quadruple]) -> dict[int, list[Quadruple]]:
    """The rows of each concept, by its number."""
    found: dict[int, list[Quadruple]] = {}
    for row in rows:
        found.setdefault(row.concept_id, []).append(row)
    return found


def read_concepts(sources: Sequence[str]) -> dict[int, list[Quadruple]]:
    """Quadruples of several files by concept.

    Raises:
        InputError: if two files hold a concept of the same number.
    """
    found: dict[int, list[Quadruple]] = {}
    for source in sources:
        own = by_concept(read_quadruples(source.strip()))
        for number in own:
            if number in found:
                raise InputError(
                    f"{source} holds rows of concept {number}, as another file does; give its "
                    "rows another concept_id"
                )
        found |= own
    return found
