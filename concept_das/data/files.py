"""Files of quadruples and instructions, as the commands read and write them."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from concept_das.data.conversations import CONVERSATION_COLUMNS, prompt_and_answer, prompt_in
from concept_das.data.frames import is_table, read_frame, text_of
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import read_quadruples, to_frame
from concept_das.errors import InputError
from concept_das.runs.files import check_writable, write_atomically

log = logging.getLogger(__name__)


def _to_csv(frame: pd.DataFrame) -> bytes:
    plain = frame.to_csv(index=False)
    # A carriage return without quotes around its text would end the row.
    quoted = frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC) if "\r" in plain else plain
    return quoted.encode()


WRITERS = {
    ".parquet": lambda frame: frame.to_parquet(index=False),
    ".csv": _to_csv,
    ".jsonl": lambda frame: frame.to_json(orient="records", lines=True, force_ascii=False).encode(),
}


def check_rows_writable(out: Path) -> None:
    """Make sure before any work that the rows can be written."""
    if out.suffix not in WRITERS:
        raise InputError(f"cannot write {out}; choose {', '.join(WRITERS)}")
    check_writable(out)


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


def read_instructions(path: Path, *, once: bool = True) -> list[str]:
    """Instructions of a file.

    Args:
        path: a text file with one a line, or any source of rows with a column `instruction` (text
            or a conversation), or with conversations in `messages`, of which all before the model's
            last answer is taken.
        once: leave out repeats.

    Raises:
        InputError: if there is no such file, or a row has no instruction.
    """
    if is_table(path):
        texts = _instructions_of(read_frame(path), str(path))
    elif path.exists():
        lines = io.StringIO(text_of(path), newline=None).read().split("\n")
        texts = [line for line in lines if line.strip()]
        if blank := len(lines) - len(texts) - (not lines[-1]):
            log.warning("%d blank lines of %s are left out", blank, path)
    else:
        raise InputError(f"there is no file {path}")
    if not texts:
        raise InputError(f"{path} holds no instructions")
    different = list(dict.fromkeys(texts))
    if once and len(different) < len(texts):
        log.warning("%d repeats in %s are left out", len(texts) - len(different), path)
    return different if once else texts


def _instructions_of(frame: pd.DataFrame, name: str) -> list[str]:
    columns = [one for one in ("instruction", *CONVERSATION_COLUMNS, 0) if one in frame.columns]
    if not columns and not frame.empty:
        raise InputError(
            f"{name} has no column 'instruction'; it has {', '.join(map(str, frame.columns))}"
        )
    texts = []
    for row, cell in enumerate(frame[columns[0]] if columns else ()):
        where = f"{name}, row {row}" + (f", column {columns[0]!r}" if columns[0] else "")
        answered = prompt_and_answer(cell)
        text = prompt_in(cell) if answered is None else answered[0]
        if not isinstance(text, str):
            raise InputError(f"{where}: {cell!r} is no instruction in text")
        if not text.strip():
            raise InputError(f"{where} is empty; fill or drop it")
        texts.append(text)
    return texts


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
