"""Submitting a benchmark to a Slurm cluster, by submitit.

    python -m benchmarks.launching --folder logs --nodes 2 --tasks-per-node 4 --timeout-min 600 \
        -- benchmarks.axbench --preset gemma-2-2b-l20 --out runs/axbench

Every task runs the command after `--` as `python -m` would. They need no process group: submitit
starts them by srun, which tells each its number, and by that it takes its share
(`concept_das.runs.processes`). What they write must be on a file system that all nodes share.
"""

import runpy
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from concept_das.errors import InputError

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.helpers import DelayedSubmission

Cluster = Literal["slurm", "local"]


@dataclass(frozen=True)
class Command:
    """`python -m MODULE ARGUMENTS...`, in this process.

    Attributes:
        module: what to run.
        arguments: as on the command line.
    """

    module: str
    arguments: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Run it.

        Raises:
            RuntimeError: if it exits otherwise than with 0; submitit would take its leaving for an
                interruption.
        """
        before, sys.argv = sys.argv, [self.module, *self.arguments]
        try:
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)
        except SystemExit as error:
            if error.code not in (None, 0):
                raise RuntimeError(f"{self.module} left with {error.code}") from error
        finally:
            sys.argv = before

    def checkpoint(self) -> "DelayedSubmission":
        """The command that submitit queues again before the time limit; it resumes the work."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def executor_of(
    folder: Path,
    *,
    nodes: int = 1,
    tasks_per_node: int = 1,
    gpus_per_task: int = 1,
    timeout_min: int = 60,
    partition: str | None = None,
    cluster: Cluster = "slurm",
) -> "AutoExecutor":
    """The submitit executor that starts so many tasks.

    Args:
        folder: for logs and submitit's own files, on a file system that all nodes share.
        gpus_per_task: 0 for none; under Slurm each task sees its own alone.
        timeout_min: minutes until Slurm ends the job; before, it is queued again, thrice at most.
        partition: the cluster's default if None.
        cluster: `local` starts the tasks on this machine, without Slurm.

    Raises:
        InputError: if submitit or Slurm is missing, or a number cannot be.
    """
    for name, value, least in (
        ("nodes", nodes, 1),
        ("tasks_per_node", tasks_per_node, 1),
        ("gpus_per_task", gpus_per_task, 0),
        ("timeout_min", timeout_min, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
    if cluster == "local" and nodes > 1:
        raise InputError(f"this machine is one node, not {nodes}; give --nodes 1")
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "submitting needs submitit; install it with pip install 'concept-das[scale]'"
        ) from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
    except RuntimeError as error:
        raise InputError(
            "Slurm's srun is not on this machine; submit from the cluster's login node"
        ) from error
    options: dict[str, Any] = {"nodes": nodes, "tasks_per_node": tasks_per_node}
    if partition is not None:
        options["slurm_partition"] = partition
    if gpus_per_task:
        options["slurm_gpus_per_task"] = gpus_per_task
        if cluster == "local":
            options["gpus_per_node"] = gpus_per_task * tasks_per_node
    executor.update_parameters(name="concept-das", timeout_min=timeout_min, **options)
    return executor


def submit(
    command_module: str,
    arguments: Sequence[str],
    folder: Path,
    *,
    nodes: int = 1,
    tasks_per_node: int = 1,
    gpus_per_task: int = 1,
    timeout_min: int = 60,
    partition: str | None = None,
    cluster: Cluster = "slurm",
) -> str:
    """Submit `python -m COMMAND_MODULE ARGUMENTS...` and come back at once.

    Args:
        command_module: to be found from the current folder, which is also the job's.
        arguments: of the command; for the others see `executor_of`.

    Returns:
        The job's id.

    Raises:
        InputError: if there is no such module, or see `executor_of`.
    """
    try:
        known = find_spec(command_module) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise InputError(
            f"there is no module {command_module}; submit from the checkout's folder, for instance "
            "benchmarks.axbench"
        )
    executor = executor_of(
        folder,
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        gpus_per_task=gpus_per_task,
        timeout_min=timeout_min,
        partition=partition,
        cluster=cluster,
    )
    return str(executor.submit(Command(command_module, tuple(arguments))).job_id)


def main(words: Sequence[str]) -> None:
    """The command line.

    Raises:
        InputError: if there is nothing after `--`; and see `submit`.
    """
    end = list(words).index("--") if "--" in words else len(words)
    own, command = words[:end], words[end + 1 :]
    parser = ArgumentParser(
        prog="python -m benchmarks.launching",
        description="Submit a benchmark to Slurm: OPTIONS -- MODULE ITS OPTIONS.",
    )
    parser.add_argument("--folder", type=Path, required=True, help="for logs, shared by all nodes")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--tasks-per-node", type=int, default=1, help="processes, one for each GPU")
    parser.add_argument("--gpus-per-task", type=int, default=1)
    parser.add_argument("--timeout-min", type=int, default=60, help="minutes of the job")
    parser.add_argument("--partition", help="the cluster's default if not given")
    parser.add_argument("--cluster", choices=("slurm", "local"), default="slurm")
    options = vars(parser.parse_args(own))
    if not command:
        raise InputError("nothing to submit; give the module after --, e.g. -- benchmarks.axbench")
    job = submit(command[0], command[1:], **options)
    print(f"job {job}; its output goes to {options['folder']}/{job}_TASK_log.out")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
