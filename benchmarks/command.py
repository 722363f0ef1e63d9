"""A benchmark's command: its flags describe a plan, which is run here or by workers."""

import logging
import sys
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from concept_das.cli.parser import called, guarded
from concept_das.runs.running import WorkerOptions, Workers, run_stages
from concept_das.runs.stages import Jobs, Piece, Stage
from concept_das.training.tracking import Tracker

UNUSED_OPTIONS = frozenset({"together"})
"""Of the groups of flags: a benchmark's job trains one concept."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A run of a benchmark.

    Attributes:
        folder: of the run; its report is in `report`.
        only: names of the stages to run; all if None.
        tracker: gets training curves, and the report's tables in the end.
        processes: who does the work.
    """

    stages: Sequence[Stage]
    pieces: Sequence[Piece]
    folder: Path
    only: Collection[str] | None
    tracker: Tracker
    processes: WorkerOptions

    def jobs(self) -> Jobs:
        """The jobs of the stages."""
        return Jobs(self.stages, self.pieces, self.folder, self.only)

    def run(self, workers: Workers | None = None) -> None:
        """Do what is not done, by workers or in this process."""
        page = self.folder / "report" / "report.html"
        try:
            run_stages(self.stages, self.pieces, self.folder, self.only, workers)
            if page.exists():
                for path in sorted(page.parent.glob("*.csv")):
                    table = pd.read_csv(path)
                    self.tracker.table(path.stem, list(table.columns), table.to_numpy().tolist())
                log.info("open %s", page.resolve())
        finally:
            self.tracker.finish()


def with_total(table: pd.DataFrame, total: "pd.Series[float]") -> str:
    """A dry run's table as text, with a last row `all`; it is empty where there is no total.

    Args:
        table: of whole numbers, with a row per `method`.
    """
    whole = pd.concat([table, pd.DataFrame([{"method": "all", **total}])]).astype(object)
    shown = whole.set_index("method").map(lambda n: "" if pd.isna(n) else f"{int(n):,}")
    return shown.reset_index().to_string(index=False)


@dataclass(frozen=True)
class Command:
    """`python -m MODULE`; called with the arguments, it gives the exit code.

    Attributes:
        module: the one that holds the command, as its `main`.
        planned: a function whose signature and docstring are the flags; it gives the plan, or None
            if there is nothing to run.
        without: fields of the groups of flags that it has no use for.
    """

    module: str
    planned: Callable[..., Plan | None]
    without: Set[str] = UNUSED_OPTIONS

    @property
    def prog(self) -> str:
        """The command in messages."""
        return f"python -m {self.module.removesuffix('.__main__')}"

    def plan(self, argv: Sequence[str]) -> Plan | None:
        """The run that a command line describes; a worker makes its jobs from it."""
        return called(self.planned, argv, self.prog, self.without)

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run it; 0 on success, 2 on unusable input, 130 on an interrupt."""
        given = sys.argv[1:] if argv is None else argv

        def run() -> None:
            plan = self.plan(given)
            if plan is not None:
                plan.run(plan.processes.of(self.module, given))

        return guarded(self.prog, run)
