"""Submitting a benchmark to a Slurm cluster, by submitit.

    python -m benchmarks.launching --folder logs --nodes 2 --tasks-per-node 4 --timeout-min 600 \
        -- benchmarks.axbench --preset gemma-2-2b-l20 --out runs/axbench

Every task runs the command after `--` as `python -m` would. They need no process group: submitit
starts them by srun, which tells each its number, and by that it takes its share
(`concept_das.runs.processes`). What they write must be on a file system that all nodes share.
"""

import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from concept_das.cli.parser import run_command
from concept_das.errors import InputError

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.helpers import DelayedSubmission


@dataclass(frozen=True)
class Command:
    """`python -m MODULE ARGUMENTS...`, in the process that calls it, which is a task's own.

    Attributes:
        words: the module and its arguments, as on the command line.
    """

    words: tuple[str, ...]

    def __call__(self) -> None:
        """Run it.

        Raises:
            RuntimeError: if it exits otherwise than with 0; submitit would take its leaving for an
                interruption.
        """
        sys.argv = list(self.words)
        try:
            runpy.run_module(self.words[0], run_name="__main__", alter_sys=True)
        except SystemExit as error:
            if error.code not in (None, 0):
                raise RuntimeError(f"{self.words[0]} left with {error.code}") from error

    def checkpoint(self) -> "DelayedSubmission":
        """The command that submitit queues again before the time limit; it resumes the work."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def main(argv: Sequence[str]) -> int:
    """The command line: options, `--`, a module and its own options."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    words = tuple(argv[end + 1 :])

    def submit(
        folder: Path,
        nodes: int = 1,
        tasks_per_node: int = 1,
        gpus_per_task: int = 1,
        timeout_min: int = 60,
        partition: str | None = None,
        cluster: Literal["slurm", "local"] = "slurm",
    ) -> None:
        """Submit a benchmark to Slurm and come back at once: OPTIONS -- MODULE ITS OPTIONS.

        Args:
            folder: for logs and submitit's own files, on a file system that all nodes share.
            nodes: number of machines.
            tasks_per_node: processes, one for each GPU.
            gpus_per_task: 0 for none; under Slurm each task sees its own alone.
            timeout_min: minutes until Slurm ends the job; before, it is queued again, thrice at
                most.
            partition: the cluster's default if not given.
            cluster: slurm, or local to start the tasks on this machine.
        """
        numbers = {"nodes": nodes, "tasks_per_node": tasks_per_node, "timeout_min": timeout_min}
        for name, number in {**numbers, "gpus_per_task": gpus_per_task}.items():
            least = 0 if name == "gpus_per_task" else 1
            if number < least:
                raise InputError(f"{name} is {number}; it must be at least {least}")
        if cluster == "local" and nodes > 1:
            raise InputError(f"this machine is one node, not {nodes}; give --nodes 1")
        if not words or not _is_module(words[0]):
            raise InputError(
                f"there is no module {' '.join(words[:1])!r} to submit; give one after --, from "
                "the checkout's folder, such as -- benchmarks.axbench"
            )
        options: dict[str, Any] = {**numbers, "slurm_partition": partition}
        if gpus_per_task:
            options["slurm_gpus_per_task"] = gpus_per_task
            if cluster == "local":
                options["gpus_per_node"] = gpus_per_task * tasks_per_node
        executor = _executor(folder, cluster)
        executor.update_parameters(name="concept-das", **options)
        job = executor.submit(Command(words)).job_id
        print(f"job {job}; its output goes to {folder}/{job}_TASK_log.out")

    return run_command(submit, argv[:end], "python -m benchmarks.launching")


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _executor(folder: Path, cluster: str) -> "AutoExecutor":
    try:
        import submitit

        return submitit.AutoExecutor(folder, cluster=cluster)
    except ImportError as error:
        raise InputError(
            "submitting needs submitit; install it with pip install 'concept-das[scale]'"
        ) from error
    except RuntimeError as error:
        raise InputError(
            "Slurm's srun is not on this machine; submit from the cluster's login node"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
