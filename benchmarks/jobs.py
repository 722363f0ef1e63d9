"""Jobs of a benchmark: what each depends on, where its files are, and whether it is done."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rowlog import RowLog
from concept_das.errors import InputError
from concept_das.files import write_atomically

DONE_FILE = "done.json"

# (stage's name, piece's key or None of a stage that is one job)
Slot = tuple[str, str | None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part of a benchmark that needs no other, such as a concept.

    Attributes:
        key: its name, which is a folder's too, e.g. concept-3.
        inputs: what JSON can hold of everything from outside that its results depend on, e.g. the
            concept's text and the SHA-256 of the data.
    """

    key: str
    inputs: Any = None


@dataclass(frozen=True)
class Job:
    """A stage of one piece, or of all pieces if the stage gathers, or of none if it is shared.

    Attributes:
        stage: the stage's name.
        pieces: what it is about: one piece, all, or none if the stage is shared.
        folder: where its files go; empty at the start but for `scratch`.
        fingerprint: SHA-256 of everything that its files depend on.
        sources: folders of the needed stages by name; of a stage with a job for each piece, one
            per piece in their order.
    """

    stage: str
    pieces: tuple[Piece, ...]
    folder: Path
    fingerprint: str
    sources: Mapping[str, tuple[Path, ...]]

    @property
    def scratch(self) -> Path:
        """A folder for what an interrupted job goes on from; deleted once the job is done."""
        return self.folder / f"partial-{self.fingerprint[:16]}"

    def source(self, stage: str) -> Path:
        """The only folder of a needed stage."""
        (folder,) = self.sources[stage]
        return folder

    def rows(self, name: str = "rows") -> RowLog:
        """A log of finished rows, which outlives an interruption but not a change of inputs."""
        return RowLog(self.scratch / f"{name}.jsonl", self.fingerprint)


@dataclass(frozen=True)
class Stage:
    """A step of a benchmark.

    Attributes:
        name: unique; its folder's too.
        run: writes a job's files below `job.folder`, each with `write_atomically`. What it reads
            is in the job's sources, the pieces' inputs and the options, and nowhere else.
        needs: names of earlier stages whose files it reads.
        options: what of the configuration its files depend on, as JSON can hold it.
        gathers: it is one job over all pieces, not one for each.
        shared: it is one job about none of the pieces, so that it stays when there are others; it
            may need nothing but shared stages.
        version: to be raised when a change of code changes the files.
    """

    name: str
    run: Callable[[Job], None]
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    gathers: bool = False
    shared: bool = False
    version: int = 1

    @property
    def single(self) -> bool:
        """Whether it is one job, and not one for each piece."""
        return self.gathers or self.shared


class Jobs:
    """The jobs of a benchmark by slot, and which of them are done."""

    def __init__(self, stages: Sequence[Stage], pieces: Sequence[Piece], folder: Path) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._pieces = {piece.key: piece for piece in pieces}
        self._folder = folder
        # Looked at once: nothing that is done goes stale while its inputs stay.
        self._done: dict[Slot, dict[str, str]] = {}

    def needs(self, slot: Slot) -> list[Slot]:
        """The jobs whose files a job reads."""
        found: list[Slot] = []
        for need in self._stages[slot[0]].needs:
            if self._stages[need].single:
                found.append((need, None))
            elif slot[1] is None:
                found.extend((need, key) for key in self._pieces)
            else:
                found.append((need, slot[1]))
        return found

    def folder(self, slot: Slot) -> Path:
        """Where a job's files are."""
        stage, key = slot
        return self._folder / stage if key is None else self._folder / stage / key

    def pieces(self, slot: Slot) -> tuple[Piece, ...]:
        """What a job is about."""
        if slot[1] is not None:
            return (self._pieces[slot[1]],)
        return () if self._stages[slot[0]].shared else tuple(self._pieces.values())

    def fingerprint(self, slot: Slot) -> str | None:
        """SHA-256 of what a job's files depend on; None as long as a job it needs is not done."""
        sources = []
        for need in self.needs(slot):
            if (files := self.files(need)) is None:
                return None
            sources.append([*need, files])
        stage = self._stages[slot[0]]
        pieces = [[piece.key, piece.inputs] for piece in self.pieces(slot)]
        whole = [stage.name, stage.version, stage.options, pieces, sources]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def files(self, slot: Slot) -> dict[str, str] | None:
        """SHA-256 of a job's files by their paths in its folder; None if it is not done."""
        if slot not in self._done:
            fingerprint = self.fingerprint(slot)
            files = None if fingerprint is None else _read_done(self.folder(slot), fingerprint)
            if files is None:
                return None
            self._done[slot] = files
        return self._done[slot]

    def unfinished(self, slots: Iterable[Slot]) -> list[Slot]:
        """Those of the jobs that are not done."""
        return [slot for slot in slots if self.files(slot) is None]

    def run(self, slot: Slot) -> None:
        """Make a job's files from nothing, or from where the same job was interrupted.

        Raises:
            InputError: if the folder holds files that are none of a job's.
        """
        fingerprint = self.fingerprint(slot)
        assert fingerprint is not None
        stage = self._stages[slot[0]]
        sources = {
            name: tuple(self.folder(need) for need in self.needs(slot) if need[0] == name)
            for name in stage.needs
        }
        job = Job(stage.name, self.pieces(slot), self.folder(slot), fingerprint, sources)
        _clear(job)
        stage.run(job)
        files = {
            path.relative_to(job.folder).as_posix(): _sha256(path)
            for path in sorted(job.folder.rglob("*"))
            if path.is_file() and job.scratch not in path.parents
        }
        done = {"fingerprint": fingerprint, "files": files}
        write_atomically(job.folder / DONE_FILE, json.dumps(done, indent=1).encode())
        shutil.rmtree(job.scratch)
        self._done[slot] = files


def _clear(job: Job) -> None:
    """Remove what other inputs or an interruption have left, but for the job's own scratch.

    A folder that no job has written to is left alone: the name may be that of the user's own.
    """
    names = [path.name for path in job.folder.iterdir()] if job.folder.exists() else []
    if names and not any(name == DONE_FILE or name.startswith("partial-") for name in names):
        raise InputError(
            f"{job.folder} holds files but neither {DONE_FILE} nor partial work of a benchmark; "
            "delete it or choose another folder"
        )
    job.scratch.mkdir(parents=True, exist_ok=True)
    if DONE_FILE in names:
        log.warning("%s is made again: it is damaged or of other inputs or options", job.folder)
    for path in job.folder.iterdir():
        if path == job.scratch:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read_done(folder: Path, fingerprint: str) -> dict[str, str] | None:
    """A finished job's files; None if it is of another fingerprint or its files have changed."""
    try:
        done = json.loads((folder / DONE_FILE).read_bytes())
        files: dict[str, str] = done["files"]
        if done["fingerprint"] != fingerprint:
            return None
        whole = all(_sha256(folder / name) == value for name, value in files.items())
    # Also while another process replaces the files.
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if whole else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
