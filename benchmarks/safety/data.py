"""Writes and reads the files of the data stage: training rows, test prompts and their counts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from concept_das.data.files import write_rows
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import read_quadruples
from concept_das.errors import InputError
from concept_das.runs.files import write_atomically
from concept_das.runs.stages import Job

ROWS_FILE = "rows.jsonl"
PROMPTS_FILE = "prompts.json"
COUNTS_FILE = "counts.json"

# Prompts by the name of their set.
PromptSets = Mapping[str, Sequence[str]]


def write_data(
    job: Job, rows: list[Quadruple], prompts: PromptSets, counts: Mapping[str, int]
) -> None:
    """Write the training quadruples, the test prompts and their numbers.

    Raises:
        InputError: if a test prompt is trained on.
    """
    check_unseen(rows, prompts)
    write_rows(job.folder / ROWS_FILE, rows)
    sizes = {"training rows": len(rows)} | {f"{k} prompts": len(v) for k, v in prompts.items()}
    for name, content in ((PROMPTS_FILE, prompts), (COUNTS_FILE, {**sizes, **counts})):
        write_atomically(job.folder / name, json.dumps(content, indent=1).encode())


def check_unseen(rows: Sequence[Quadruple], prompts: PromptSets) -> None:
    """Make sure that no test prompt is trained on.

    Raises:
        InputError: naming one that is.
    """
    trained = {text for row in rows for text in (row.negative_input, row.positive_input)}
    for name, texts in prompts.items():
        if both := trained & set(texts):
            raise InputError(
                f"{min(both)!r} is trained on and also among the {name} prompts of the test; "
                "remove it from one of the two"
            )


def release_files(
    folder: Path, behaviour: str, places: Sequence[str], names: Sequence[Sequence[str]]
) -> list[Path]:
    """The authors' files, in the folder that is given, in `behaviour` in it, or in a checkout.

    Args:
        places: folders of the files in a checkout of the release.
        names: the names that each file may have, the best first.

    Raises:
        InputError: naming a file that is missing.
    """
    above = [folder, folder / behaviour, *(folder / place for place in places)]
    known = [name for names_of_one in names for name in names_of_one]
    folder = next((one for one in above if any((one / name).exists() for name in known)), folder)
    found = []
    for names_of_one in names:
        there = [folder / name for name in names_of_one if (folder / name).exists()]
        if not there:
            raise InputError(
                f"{folder} holds no {' or '.join(names_of_one)}; give the folder with the "
                f"release's {behaviour} data, or leave --data out for the project's own prompts"
            )
        found.append(there[0])
    return found


def read_rows(folder: Path) -> list[Quadruple]:
    """The training quadruples."""
    return read_quadruples(folder / ROWS_FILE)


def read_prompt_sets(folder: Path) -> dict[str, list[str]]:
    """The test prompts by set, each set in order."""
    return json.loads((folder / PROMPTS_FILE).read_bytes())


def read_counts(folder: Path) -> dict[str, int]:
    """The number of rows and prompts of each kind."""
    return json.loads((folder / COUNTS_FILE).read_bytes())
