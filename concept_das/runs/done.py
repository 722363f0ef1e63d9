"""The folder of a job: finished and noted so, or unfinished with what is kept of it."""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from concept_das.errors import InputError
from concept_das.runs.files import fingerprint_of, sha256_of, write_atomically

DONE_FILE = "done.json"
PARTIAL = "partial-"

# In the folder of unfinished work.
_MADE_BY_FILE = "made-by.json"

log = logging.getLogger(__name__)


def read_done(
    folder: Path, fingerprint: str, made_by: Mapping[str, Any] | None
) -> dict[str, str] | None:
    """SHA-256 of a finished job's files; None if it is of other inputs, or a file has changed.

    Args:
        made_by: what has to have made them; None for anything. Earlier releases did not note it.
    """
    try:
        done = json.loads((folder / DONE_FILE).read_bytes())
        files: dict[str, str] = done["files"]
        if done["fingerprint"] != fingerprint:
            return None
        if made_by is not None and not _same(done.get("made_by", made_by), made_by):
            return None
        whole = all(sha256_of(folder / name) == value for name, value in files.items())
    # The files may also disappear while another process replaces them.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return files if whole else None


def clear(folder: Path, scratch: Path, made_by: Mapping[str, Any]) -> None:
    """Remove leftovers of other inputs or of an interruption, except the job's own scratch.

    A folder that no job has written to is left alone: it may be the user's own.

    Raises:
        InputError: if it is such a folder.
    """
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    if names and not any(name == DONE_FILE or name.startswith(PARTIAL) for name in names):
        raise InputError(
            f"{folder} holds files but neither {DONE_FILE} nor partial work of a benchmark; "
            "delete it or choose another folder"
        )
    noted = scratch / _MADE_BY_FILE
    if noted.exists() and not _same(json.loads(noted.read_bytes()), made_by):
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    if made_by and not noted.exists():
        write_atomically(noted, json.dumps(made_by).encode())
    if DONE_FILE in names:
        log.warning("%s is made again: %s", folder, _reason(folder, made_by))
    for path in folder.iterdir():
        if path == scratch:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def finish(
    folder: Path, scratch: Path, fingerprint: str, made_by: Mapping[str, Any]
) -> dict[str, str]:
    """Note that a job is done, and remove its scratch.

    Returns:
        SHA-256 of its files.
    """
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and scratch not in path.parents
    }
    done: dict[str, Any] = {"fingerprint": fingerprint, "files": files}
    if made_by:
        done["made_by"] = made_by
    write_atomically(folder / DONE_FILE, json.dumps(done, indent=1).encode())
    shutil.rmtree(scratch)
    return files


def _reason(folder: Path, made_by: Mapping[str, Any]) -> str:
    """Why finished work is made again, in words."""
    before: Any = {}
    with suppress(ValueError, KeyError, TypeError):
        before = json.loads((folder / DONE_FILE).read_bytes())["made_by"]
    changed = [
        name for name in made_by if name in before and not _same(before[name], made_by[name])
    ]
    if changed:
        return f"{', '.join(changed)} changed since"
    return "it is damaged or of other inputs or options"


def _same(one: Any, other: Any) -> bool:
    """True if both are the same as JSON."""
    return fingerprint_of(one, sort_keys=True) == fingerprint_of(other, sort_keys=True)
