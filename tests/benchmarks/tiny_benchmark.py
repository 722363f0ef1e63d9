"""A benchmark of sums in the shape of the real ones, which can kill its own process."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from concept_das.errors import InputError
from concept_das.runs.files import write_atomically
from concept_das.runs.running import WorkerOptions, run_stages
from concept_das.runs.stages import Job, Jobs, Piece, Stage
from concept_das.training.tracking import NoTracker
from tests.benchmarks.processes import forked

PIECES = [Piece(f"concept-{i}", {"start": i}) for i in range(3)]
ROWS = ("a", "b", "c")
EACH = ("data", "train", "factors", "generate", "judge", "test")
GATHERING = ("select", "report")
NEEDS = {
    "data": (),
    "train": ("data",),
    "factors": ("data", "train"),
    "generate": ("train", "factors"),
    "judge": ("generate",),
    "select": ("judge",),
    "test": ("train", "select"),
    "report": ("test", "select"),
}


@dataclass
class Worker:
    """Works on rows, writes down each that is kept, and does mischief at the n-th chance.

    Attributes:
        kill: the stage and the number of the chance.
        mischief: kills this process, if it is nothing else.
        once: a file that is made then, if only one process is to do it.
    """

    trace: Path
    kill: tuple[str, int] | None = None
    mischief: Callable[[], None] | None = None
    once: Path | None = None
    chances: int = field(default=0)

    def chance(self, stage: str) -> None:
        if self.kill is None or self.kill[0] != stage:
            return
        self.chances += 1
        if self.chances != self.kill[1]:
            return
        if self.once is not None:
            if self.once.exists():
                return
            self.once.touch()
        if self.mischief is not None:
            self.mischief()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self, job: Job, options: Mapping[str, Any]) -> None:
        tables = [
            pd.read_parquet(folder / "table.parquet")
            for folders in job.sources.values()
            for folder in folders
        ]
        total = sum(float(table["value"].sum()) for table in tables)
        start = sum(piece.inputs["start"] for piece in job.pieces)
        with job.rows() as log:
            for key in log.missing(ROWS):
                value = total / 3 + start + ord(key) + options.get("add", 0)
                self.chance(job.stage)
                log.append(key, {"key": key, "value": value})
                with self.trace.open("a") as file:
                    file.write(f"{job.stage} {'+'.join(p.key for p in job.pieces)} {key}\n")
            table = log.frame(ROWS)
        self.chance(job.stage)
        write_atomically(job.folder / "table.parquet", table.to_parquet())
        self.chance(job.stage)
        write_atomically(job.folder / "more" / "sum.json", json.dumps(total).encode())
        self.chance(job.stage)


def stages_of(
    worker: Worker, options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Stage]:
    options = options or {}
    return [
        Stage(
            name,
            partial(worker.run, options=options.get(name, {})),
            needs,
            options.get(name, {}),
            gathers=name in GATHERING,
        )
        for name, needs in NEEDS.items()
    ]


def run(
    folder: Path,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    pieces: Collection[Piece] = tuple(PIECES),
    only: Collection[str] | None = None,
) -> list[str]:
    """Run it in this process.

    Returns:
        The rows that were worked on, "stage pieces key".
    """
    trace = folder.parent / "run.trace"
    trace.write_text("")
    run_stages(stages_of(Worker(trace), options), list(pieces), folder, only)
    return trace.read_text().splitlines()


def start(
    folder: Path, trace: Path, kill: tuple[str, int] | None = None
) -> Callable[[], int | None]:
    """Start it in a process of its own.

    Returns:
        Waits for its end and gives the exit code.
    """
    return forked(run_stages, stages_of(Worker(trace, kill)), PIECES, folder)


@dataclass(frozen=True)
class TinyPlan:
    """The plan that a worker takes its jobs from."""

    made: Jobs
    tracker: NoTracker = field(default_factory=NoTracker)

    def jobs(self) -> Jobs:
        return self.made


class Main:
    """The benchmark as a command line: FOLDER TRACE, and STAGE NUMBER MISCHIEF at that chance.

    MISCHIEF is a name of this class. With ONCE at the end only one process does it.
    """

    def plan(self, argv: Sequence[str]) -> TinyPlan:
        folder, trace, *more = argv
        worker = Worker(Path(trace))
        if more:
            worker.kill = (more[0], int(more[1]))
            worker.mischief = partial(getattr(self, more[2]), Path(folder))
            worker.once = Path(f"{trace}.once") if more[3:] == ["ONCE"] else None
        return TinyPlan(Jobs(stages_of(worker), PIECES, Path(folder)))

    def dies(self, folder: Path) -> None:
        """The process is gone."""
        os.kill(os.getpid(), signal.SIGKILL)

    def kills_the_driver(self, folder: Path) -> None:
        """The command is gone, and its worker goes on."""
        os.kill(int(os.environ["DRIVER"]), signal.SIGKILL)

    def kills_its_machine(self, folder: Path) -> None:
        """Ray on this machine is gone."""
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def errs(self, folder: Path) -> None:
        """An error that a job may raise."""
        raise InputError("that cannot be; give another")

    def runs_again(self, folder: Path) -> None:
        """A second command on the folder."""
        run_stages([Stage("s", print)], PIECES, folder)


main = Main()


def run_by_workers(
    out: Path, trace: Path, *mischief: str, workers: int = 2, cluster: str | None = None
) -> None:
    """Run it by workers of Ray, of which one or all do a mischief."""
    line = (str(out), str(trace), *mischief)
    doers = WorkerOptions(workers, cluster).of("tests.benchmarks.tiny_benchmark", line)
    run_stages(stages_of(Worker(trace)), PIECES, out, workers=doers)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def without_figures(patch: pytest.MonkeyPatch) -> None:
    """Leave the figures out of reports: drawing takes longest, and other tests look at them."""
    for benchmark in ("axbench", "safety"):
        patch.setattr(f"benchmarks.{benchmark}.report.figure_png", lambda _figure: b"PNG")


def copy_without(whole: Path, out: Path, stage: str) -> None:
    """A finished run without a stage and the report."""
    shutil.copytree(whole, out)
    for name in (stage, "report"):
        shutil.rmtree(out / name, ignore_errors=True)


if __name__ == "__main__":
    os.environ["DRIVER"] = str(os.getpid())
    run_by_workers(*map(Path, sys.argv[1:3]), *sys.argv[3:])
