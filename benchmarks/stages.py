"""A benchmark as stages of independent pieces of work: finished work stays, changed work is redone.

A stage of a piece (say, generation for one concept) is a job with a folder of its own,
`STAGE/PIECE/`; a stage that gathers (selection, report) is one job over all pieces, and a shared
one (the untouched model's answers) a job about none of them, both in `STAGE/`.
`done.json`, written last, holds the job's fingerprint and the SHA-256 of its files. A job is left
alone as long as both hold, and made from nothing otherwise: no file is ever added to.
"""

import logging
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.jobs import DONE_FILE, Job, Jobs, Piece, Slot, Stage
from benchmarks.sharding import Shard
from concept_das.errors import InputError

__all__ = ["Job", "Piece", "Stage", "run_stages", "stage_names"]

log = logging.getLogger(__name__)


def run_stages(
    stages: Sequence[Stage],
    pieces: Sequence[Piece],
    folder: Path,
    only: Collection[str] | None = None,
    shard: Shard = Shard(),  # noqa: B008 (frozen)
    interval: float = 5.0,
    timeout: float = 6 * 3600.0,
) -> None:
    """Run every job that is not done, stage by stage.

    With several processes on one folder each works on its share of the pieces, and the first on the
    stages that are one job. A process that needs another's work waits for it.

    Args:
        stages: in an order in which each comes after those it needs.
        pieces: the same in every process.
        folder: of the whole benchmark.
        only: names of the stages to run; all if None.
        shard: which of several processes this is.
        interval: seconds between two looks at what other processes have done.
        timeout: seconds without another job done after which a process stops waiting.

    Raises:
        InputError: if names are unusable, if a stage needs work that is missing or of other
            inputs, or if other processes do not finish theirs.
    """
    _check(stages, pieces, only)
    jobs = Jobs(stages, pieces, folder)
    chosen = [stage for stage in stages if only is None or stage.name in only]
    for stage in chosen:
        mine: list[Slot] = [(stage.name, piece.key) for piece in shard.of(pieces)]
        if stage.single:
            mine = [(stage.name, None)] if shard.rank == 0 else []
        needed = dict.fromkeys(need for slot in mine for need in jobs.needs(slot))
        lacking = jobs.unfinished(needed)
        others = {other.name for other in chosen} if shard.world > 1 else set()
        if nobodys := [slot for slot in lacking if slot[0] not in others]:
            raise InputError(
                f"{stage.name} needs {_names(nobodys)}, which is missing or of other inputs or "
                "options; run that stage first, or all of them"
            )
        if lacking:
            _wait(jobs, stage.name, lacking, interval, timeout)
        todo = jobs.unfinished(mine)
        log.info("%s: %d to do, %d done", stage.name, len(todo), len(mine) - len(todo))
        for slot in todo:
            jobs.run(slot)


def stage_names(stages: Sequence[Stage], names: str) -> list[str] | None:
    """The stages that a user names.

    Args:
        names: with commas between them; `train` stands for `train.cdas` and all its like; `all`.

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


def _wait(jobs: Jobs, name: str, lacking: Sequence[Slot], interval: float, timeout: float) -> None:
    """Look again and again until other processes have done their jobs."""
    left, since = list(lacking), time.monotonic()
    with tqdm(total=len(left), unit="job") as bar:
        while left:
            bar.set_description(f"{name} waits for {_names(left)}")
            if time.monotonic() - since >= timeout:
                raise InputError(
                    f"{name} has waited {timeout:g} s for {_names(left)} of other processes; start "
                    "those again, or run the benchmark in one process"
                )
            time.sleep(interval)
            before, left = left, jobs.unfinished(left)
            bar.update(len(before) - len(left))
            if len(left) < len(before):
                since = time.monotonic()


def _names(slots: Sequence[Slot]) -> str:
    """Jobs in words, the first few of each stage by name."""
    keys: dict[str, list[str]] = {}
    for stage, key in slots:
        keys.setdefault(stage, []).extend([] if key is None else [key])
    parts = []
    for stage, some in keys.items():
        more = f" and {len(some) - 5} more" if len(some) > 5 else ""
        parts.append(stage + (f" of {', '.join(some[:5])}{more}" if some else ""))
    return "; ".join(parts)


def _check(stages: Sequence[Stage], pieces: Sequence[Piece], only: Collection[str] | None) -> None:
    """Make sure that names can be folders, are unique, and come before their use."""
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
            if name.startswith("partial-") or name == DONE_FILE or names.count(name) > 1:
                raise InputError(f"the name {name!r} is taken; choose another")
