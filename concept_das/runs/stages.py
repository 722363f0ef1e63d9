"""A benchmark as stages, so that finished work is kept and outdated work is made again.

A stage has one job for each piece of the benchmark, such as a concept, or a single job. A job
writes its files into a folder of its own. It is done if `done.json` there holds the fingerprint of
everything that the files depend on, and the files are unchanged.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concept_das.errors import InputError
from concept_das.runs.alone import alone_in
from concept_das.runs.done import DONE_FILE, PARTIAL, clear, finish, read_done
from concept_das.runs.files import fingerprint_of
from concept_das.runs.rows import RowLog

__all__ = ["Job", "Jobs", "Piece", "Stage", "stage_names"]

# A job's name: its stage, and the key of its piece, or None if the stage is one job.
Slot = tuple[str, str | None]

# SHA-256 of a job's files by their paths in its folder.
Files = dict[str, str]

# Seconds within which a process whose run was killed is gone, be it on another machine.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Piece:
    """A part of a benchmark that can be done without the others, such as a concept.

    Attributes:
        key: its name, and the name of its folder, e.g. concept-3.
        inputs: everything from outside that its results depend on, as JSON can hold it, e.g. the
            concept's text and the SHA-256 of the data.
    """

    key: str
    inputs: Any = None


@dataclass(frozen=True)
class Job:
    """The work of a stage on one piece; on all pieces if it gathers, on none if it is shared.

    Attributes:
        stage: the stage's name.
        pieces: the pieces this job covers: one, all, or none if the stage is shared.
        folder: where its files go; empty at the start but for `scratch`.
        fingerprint: SHA-256 of everything that its files depend on.
        sources: folders of the needed stages by name. A stage with a job for each piece has one
            folder per piece, in the order of the pieces.
    """

    stage: str
    pieces: tuple[Piece, ...]
    folder: Path
    fingerprint: str
    sources: Mapping[str, tuple[Path, ...]]

    @property
    def scratch(self) -> Path:
        """A folder that an interrupted job continues from; deleted once the job is done."""
        return self.folder / f"{PARTIAL}{self.fingerprint[:16]}"

    def source(self, stage: str) -> Path:
        """The only folder of a needed stage."""
        (folder,) = self.sources[stage]
        return folder

    def rows(self, name: str = "rows") -> RowLog:
        """A log of finished rows; it survives an interruption, but not a change of inputs."""
        return RowLog(self.scratch / f"{name}.jsonl", self.fingerprint)


@dataclass(frozen=True)
class Stage:
    """A step of a benchmark.

    Attributes:
        name: unique, and the name of its folder.
        run: writes a job's files below `job.folder`, each with `write_atomically`. It reads only
            the job's sources, the pieces' inputs and the options.
        needs: names of earlier stages whose files it reads.
        options: the part of the configuration that its files depend on, as JSON can hold it.
        made_by: what else made the files, as JSON can hold it: versions of libraries, weights, the
            sources of rules. Finished work is outdated if it was made by something else and the
            stage is to be run; work that another machine or release has left is taken as it is.
        gathers: the stage is one job over all pieces.
        shared: the stage is one job that uses none of the pieces, so it stays done when the pieces
            change. It may need shared stages only.
        version: raise it when a change of code changes the files.
    """

    name: str
    run: Callable[[Job], None]
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    gathers: bool = False
    shared: bool = False
    version: int = 1

    @property
    def single(self) -> bool:
        """True if the stage is one job instead of one for each piece."""
        return self.gathers or self.shared


def stage_names(stages: Sequence[Stage], names: str) -> list[str] | None:
    """Turn a user's list of stages into full names.

    Args:
        names: `all`, or names with commas between them; `train` stands for every `train.METHOD`.

    Returns:
        Full names in the stages' order; None for all.

    Raises:
        InputError: if there is no such stage.
    """
    if names == "all":
        return None
    listed = [name.strip() for name in names.split(",")]
    families = {stage.name: stage.name.partition(".")[0] for stage in stages}
    for name in listed:
        if name not in families and name not in families.values():
            known = ", ".join(dict.fromkeys(families.values()))
            raise InputError(f"there is no stage {name!r}; there are {known}")
    return [name for name, family in families.items() if name in listed or family in listed]


class Jobs:
    """All jobs of a benchmark: their inputs, their folders, and which of them are done.

    Args:
        stages: in an order in which each comes after those it needs.
        folder: of the whole benchmark.
        only: names of the stages that are to be run; all if None.

    Raises:
        InputError: if names are unusable, or a stage needs one that does not come before it.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        pieces: Sequence[Piece],
        folder: Path,
        only: Collection[str] | None = None,
    ) -> None:
        _check(stages, pieces, only)
        self._only = only
        self._stages = {stage.name: stage for stage in stages}
        self._pieces = {piece.key: piece for piece in pieces}
        self._folder = folder
        # Each is checked once: finished work stays valid while its inputs stay.
        self._done: dict[Slot, Files] = {}

    def chosen(self) -> list[Slot]:
        """The jobs of the stages that are to be run, in the stages' order."""
        return [
            (name, key)
            for name, stage in self._stages.items()
            if self._is_chosen(name)
            for key in ([None] if stage.single else self._pieces)
        ]

    def _is_chosen(self, stage: str) -> bool:
        return self._only is None or stage in self._only

    def before(self, slot: Slot) -> set[Slot]:
        """The chosen jobs that a job has to wait for."""
        found: set[Slot] = set()
        for need in self.needs(slot):
            found |= {need} if self._is_chosen(need[0]) else self.before(need)
        return found

    def check_needs(self, slots: Iterable[Slot]) -> None:
        """Make sure that all is there which is not to be run itself.

        Raises:
            InputError: naming what a stage lacks.
        """
        lacking: dict[str, dict[Slot, None]] = {}
        for slot in slots:
            for need in self.needs(slot):
                if self.files(need) is None:
                    lacking.setdefault(slot[0], {})[need] = None
        for stage, needs in lacking.items():
            raise InputError(
                f"{stage} needs {names_of(needs)}, which is missing or of other inputs or options; "
                "run that stage first, or all of them"
            )

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
        """The folder of a job's files."""
        stage, key = slot
        return self._folder / stage if key is None else self._folder / stage / key

    def pieces(self, slot: Slot) -> tuple[Piece, ...]:
        """The pieces that a job covers."""
        if slot[1] is not None:
            return (self._pieces[slot[1]],)
        return () if self._stages[slot[0]].shared else tuple(self._pieces.values())

    def fingerprint(self, slot: Slot) -> str | None:
        """SHA-256 of all that a job's files depend on; None while a job it needs is not done."""
        sources = []
        for need in self.needs(slot):
            if (files := self.files(need)) is None:
                return None
            sources.append([*need, files])
        stage = self._stages[slot[0]]
        pieces = [[piece.key, piece.inputs] for piece in self.pieces(slot)]
        whole = [stage.name, stage.version, stage.options, pieces, sources]
        return fingerprint_of(whole, sort_keys=True)

    def files(self, slot: Slot) -> Files | None:
        """The files of a job; None if it is not done."""
        if slot not in self._done:
            fingerprint = self.fingerprint(slot)
            files = None
            if fingerprint is not None:
                files = read_done(self.folder(slot), fingerprint, self._made_by(slot[0]))
            if files is None:
                return None
            self._done[slot] = files
        return self._done[slot]

    def _made_by(self, stage: str) -> Mapping[str, Any] | None:
        """The makers that a stage's files must have; None if it is taken as it is."""
        return self._stages[stage].made_by if self._is_chosen(stage) else None

    def note(self, slot: Slot, files: Files) -> None:
        """Note that a job is done, perhaps by another process, and has left these files."""
        self._done[slot] = files

    def run(self, slot: Slot) -> Files:
        """Make a job's files, continuing the same job if it was interrupted.

        One process at a time does so: a worker of a run that was killed may take a moment to end.

        Raises:
            InputError: if the folder holds files that no job has written, or if another process
                goes on with the job.
        """
        fingerprint = self.fingerprint(slot)
        assert fingerprint is not None
        stage = self._stages[slot[0]]
        sources = {
            name: tuple(self.folder(need) for need in self.needs(slot) if need[0] == name)
            for name in stage.needs
        }
        job = Job(stage.name, self.pieces(slot), self.folder(slot), fingerprint, sources)
        with alone_in(self._folder, "-".join(filter(None, slot)), patience=_PATIENCE):
            clear(job.folder, job.scratch, stage.made_by)
            stage.run(job)
            self._done[slot] = finish(job.folder, job.scratch, fingerprint, stage.made_by)
        return self._done[slot]


def names_of(slots: Iterable[Slot]) -> str:
    """Name jobs in a sentence: each stage with its first few pieces."""
    keys: dict[str, list[str]] = {}
    for stage, key in slots:
        keys.setdefault(stage, []).extend([] if key is None else [key])
    parts = []
    for stage, some in keys.items():
        more = f" and {len(some) - 5} more" if len(some) > 5 else ""
        parts.append(stage + (f" of {', '.join(some[:5])}{more}" if some else ""))
    return "; ".join(parts)


def _check(stages: Sequence[Stage], pieces: Sequence[Piece], only: Collection[str] | None) -> None:
    """Check that names are unique and can be folders, and that stages come before their use."""
    seen: set[str] = set()
    shared: set[str] = set()
    for stage in stages:
        if unknown := [need for need in stage.needs if need not in seen]:
            raise InputError(f"{stage.name} needs {unknown[0]}, which is no earlier stage")
        if stage.shared and (own := [need for need in stage.needs if need not in shared]):
            raise InputError(f"{stage.name} is shared but needs {own[0]}, which is not")
        seen.add(stage.name)
        shared |= {stage.name} if stage.shared else set()
    if unknown := [name for name in only or () if name not in seen]:
        raise InputError(f"there is no stage {unknown[0]!r}; there are {', '.join(sorted(seen))}")
    if not pieces:
        raise InputError("give at least one piece of the benchmark, such as a concept")
    for names in ([stage.name for stage in stages], [piece.key for piece in pieces]):
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise InputError(f"{name!r} cannot name a folder; use letters, digits, _ . and -")
            if name.startswith(PARTIAL) or name == DONE_FILE or names.count(name) > 1:
                raise InputError(f"the name {name!r} is taken; choose another")
