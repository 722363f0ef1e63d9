"""`python -m benchmarks.paper` lists the paper's tables; with a table's name it makes it.

    python -m benchmarks.paper axbench-main --dry-run
    python -m benchmarks.paper axbench-main --out runs/axbench-main --concepts 0:10

Flags that are not --out are handed to every command that the table is made of. Each writes a folder
of its own in OUT and goes on where it was; OUT/table.md has their numbers beside the published
ones.
"""

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.beside import write_beside
from benchmarks.paper.entries import Entry, read_entries, shown
from concept_das.cli import main as concept_das
from concept_das.errors import InputError

PROG = "python -m benchmarks.paper"


def main(argv: Sequence[str] | None = None) -> int:
    """List the tables or make one; 0 on success, 2 on unusable input, as its commands."""
    parser = argparse.ArgumentParser(
        prog=PROG, description="List the paper's tables, or make one.", allow_abbrev=False
    )
    parser.add_argument("table", nargs="?", help="name of the table; without one all are listed")
    parser.add_argument(
        "--out", type=Path, help="folder of the table; runs/paper/TABLE if not given"
    )
    options, more = parser.parse_known_args(argv)
    entries = read_entries()
    if options.table is None and not more:
        print("\n\n".join(entry.text() for entry in entries.values()))
        return 0
    try:
        if options.table not in entries:
            raise InputError(
                f"there is no table {options.table!r}; choose from {', '.join(entries)}"
            )
        entry = entries[options.table]
        return run(entry, options.out or Path("runs/paper") / entry.name, more)
    except InputError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2


def run(entry: Entry, out: Path, more: Sequence[str]) -> int:
    """Run an entry's commands, and write its table.

    Args:
        more: flags for each of them.

    Raises:
        InputError: if a flag that the reader has to give is missing.
    """
    given = _given(more)
    dry = given.dry_run.lower() not in ("false", "no")
    for flag, what in entry.asks.items():
        if any(word.split("=")[0] == flag for word in more):
            continue
        if not dry:
            raise InputError(f"{entry.name} needs {flag}: {what}")
        print(f"planned without {flag}, which a run needs: {what}")
    for name, command in entry.runs.items():
        module, *words = shlex.split(command)
        print(f"{name}: {shown(command)}", flush=True)
        if module == "concept-das":
            code = concept_das(words)
        else:
            function = importlib.import_module(f"{module}.__main__").main
            code = function([*words, *more, f"--out={out / name}"])
        if code:
            return int(code)
    if not dry:
        table = write_beside(entry, out, given.model)
        print(f"open {table.resolve()}" if table else "")
    return 0


def _given(words: Sequence[str]) -> argparse.Namespace:
    """Flags of the commands that matter here too."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    parser.add_argument("--dry-run", "--dry_run", nargs="?", const="true", default="false")
    return parser.parse_known_args(words)[0]


if __name__ == "__main__":
    sys.exit(main())
