"""Work in processes of their own, which may be killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from concept_das.runs.stages import Files, Jobs, Slot


def forked(
    target: Callable[..., object], *arguments: Any, seconds: float = 300
) -> Callable[[], int | None]:
    """Start a function in a fork of this process, its standard error being thrown away.

    Returns:
        Waits for its end and gives the exit code, -9 if it was killed.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_quietly, args=(target, *arguments)
    )
    process.start()

    def wait() -> int | None:
        process.join(seconds)
        return process.exitcode

    return wait


def die_in(stage: str, chance: int, note: Path | None = None) -> None:
    """Die by SIGKILL when jobs of a stage are about to write a row or a file for the n-th time.

    Args:
        note: a file that is written then; where it is already, nothing happens, so that of several
            processes one dies.
    """
    if note is not None and note.exists():
        return
    run_job, sync, replace_file = Jobs.run, os.fsync, os.replace
    now = {"stage": "", "chances": 0}

    def watched(self: Jobs, slot: Slot) -> Files:
        now["stage"] = slot[0]
        return run_job(self, slot)

    def count() -> None:
        now["chances"] += now["stage"] == stage
        if now["chances"] == chance:
            if note is not None:
                try:
                    note.touch(exist_ok=False)
                except FileExistsError:
                    return
            os.kill(os.getpid(), signal.SIGKILL)

    def before_rows(file: int) -> None:
        count()
        sync(file)

    def before_files(source: str, target: Path) -> None:
        count()
        replace_file(source, target)

    Jobs.run = watched  # type: ignore[method-assign]
    os.fsync, os.replace = before_rows, before_files  # type: ignore[assignment]


def _quietly(target: Callable[..., object], *arguments: Any) -> None:
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    target(*arguments)
