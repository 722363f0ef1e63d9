"""Divide the pieces of a benchmark among processes, and read a user's selection of pieces."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from concept_das.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class _Launcher:
    """Names of the environment variables that a launcher sets for each process.

    Attributes:
        rank, world: the process's number, and the number of processes.
        local_rank, local_world: the same among the processes of its node.
    """

    rank: str
    world: str
    local_rank: str
    local_world: str


_LAUNCHERS = (
    _Launcher("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun, accelerate
    # submitit's executor without a cluster, which has one node
    _Launcher(
        "SUBMITIT_LOCAL_GLOBALID",
        "SUBMITIT_LOCAL_NTASKS",
        "SUBMITIT_LOCAL_LOCALID",
        "SUBMITIT_LOCAL_NTASKS",
    ),
    # srun. SLURM_NTASKS does not serve: a batch script has it too, with SLURM_PROCID=0, although
    # no other processes were started. Only srun sets the number of tasks of a step.
    _Launcher("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the work on one folder.

    Attributes:
        rank: number of the process, 0-based.
        world: number of processes.

    Raises:
        InputError: if the rank is not below the number of processes.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InputError(
                f"process {self.rank} of {self.world} cannot be: ranks are 0-based and below the "
                "number of processes"
            )

    def of(self, values: Sequence[T]) -> list[T]:
        """The values of this process: the i-th value belongs to rank i modulo world."""
        return list(values[self.rank :: self.world])


def shard_of_environment(environment: Mapping[str, str] | None = None) -> Shard:
    """The share of a process that torchrun, accelerate, submitit or srun started.

    Without such a launcher it is the only process. No process group is needed.

    Args:
        environment: the process's own if None.

    Raises:
        InputError: if a launcher's variable is missing or not a number.
    """
    variables = os.environ if environment is None else environment
    launcher = _launcher_of(variables)
    if launcher is None:
        if "RANK" in variables:
            raise InputError("RANK is set without WORLD_SIZE; set both or neither")
        return Shard()
    rank, world = launcher.rank, launcher.world
    try:
        return Shard(int(variables[rank]), int(variables[world]))
    except KeyError as error:
        raise InputError(f"{world} is set without {rank}; set both or neither") from error
    except ValueError as error:
        raise InputError(
            f"{rank}={variables[rank]!r} of {world}={variables[world]!r} is not a process; set "
            "both to numbers, 0-based below the second, or neither"
        ) from error


def device_of(shard: Shard, environment: Mapping[str, str] | None = None) -> str | None:
    """The GPU of a process that shares its node with others: `cuda:LOCAL_RANK`.

    The rank is taken modulo the number of GPUs that the process sees. If the launcher shows each
    process one GPU only, the result is `cuda:0`; if there are more processes than GPUs, some share.

    Args:
        environment: the process's own if None.

    Returns:
        None, for the default device, if the process is alone on its node, does not know its number
        there, or sees no GPU.

    Raises:
        InputError: if a variable of the launcher is not a number.
    """
    variables = os.environ if environment is None else environment
    launcher = _launcher_of(variables)
    if shard.world == 1 or launcher is None or launcher.local_rank not in variables:
        return None
    local_world = variables.get(launcher.local_world, str(shard.world))
    # Slurm counts by node: "2(x3),1" means three nodes with two processes and one node with one.
    if all(count == "1" for count in re.sub(r"\(x\d+\)", "", local_world).split(",")):
        return None
    text = variables[launcher.local_rank]
    if not re.fullmatch(r"[0-9]+", text):
        raise InputError(f"{launcher.local_rank}={text!r} is not a number from 0 on; unset it")
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(text) % count}" if count else None


def _launcher_of(variables: Mapping[str, str]) -> _Launcher | None:
    """The innermost launcher, as a launcher that srun started sees srun's variables too."""
    return next((one for one in _LAUNCHERS if one.world in variables), None)


def parse_range(text: str) -> list[int]:
    """Read a selection of numbers, e.g. of concepts.

    Args:
        text: numbers and half-open ranges with commas: "3", "0:100" (0 to 99), "0:10,20".

    Returns:
        The numbers, in the given order.

    Raises:
        InputError: if a part is neither a number nor a range, is empty, or repeats a number.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?::\s*([0-9]+)\s*)?", part)
        if match is None:
            raise InputError(
                f"{part!r} in {text!r} is neither a number nor a range; write 3, 0:100 or 0:10,20"
            )
        first = int(match[1])
        end = first + 1 if match[2] is None else int(match[2])
        if end <= first:
            raise InputError(
                f"the range {part.strip()!r} in {text!r} is empty; its end is not part of it, so "
                f"write {first}:{first + 1} for {first} alone"
            )
        again = sorted(set(range(first, end)).intersection(numbers))
        if again:
            raise InputError(f"{text!r} names {again[0]} twice; name every number once")
        numbers.extend(range(first, end))
    return numbers
