"""Which pieces of a benchmark a process works on: those asked for, and its share of them."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from concept_das.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class _Launcher:
    """The variables by which a launcher tells a process who it is.

    Attributes:
        rank, world: number of the process, and of all.
        local_rank, local_world: the same on its own node.
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
    # srun. SLURM_NTASKS would not do: a batch script has it too, with SLURM_PROCID=0, though nobody
    # started the other processes. A step's number of tasks is there only under srun.
    _Launcher("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the work on one folder.

    Attributes:
        rank: number of the process, 0-based.
        world: how many there are.

    Raises:
        InputError: if there is no such process.
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
        """The process's own values: the i-th belongs to rank i modulo world."""
        return list(values[self.rank :: self.world])


def shard_of_environment(environment: Mapping[str, str] | None = None) -> Shard:
    """The process that torchrun, accelerate, submitit or srun started; the only one without them.

    No process group is needed.

    Args:
        environment: the process's own if None.

    Raises:
        InputError: if a variable that they set is missing or not a number.
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

    Counted modulo the GPUs that the process sees: where the launcher shows each process its own
    alone, that is `cuda:0`, and more processes than GPUs take turns.

    Args:
        environment: the process's own if None.

    Returns:
        None, for the default device, if the process is the only one of its node, does not know its
        number there, or sees no GPU.

    Raises:
        InputError: if a variable of the launcher is not a number.
    """
    variables = os.environ if environment is None else environment
    launcher = _launcher_of(variables)
    if shard.world == 1 or launcher is None or launcher.local_rank not in variables:
        return None
    local_world = variables.get(launcher.local_world, str(shard.world))
    # Slurm counts each node's: "2(x3),1" are three nodes of two and one of one.
    if all(count == "1" for count in re.sub(r"\(x\d+\)", "", local_world).split(",")):
        return None
    text = variables[launcher.local_rank]
    if not re.fullmatch(r"[0-9]+", text):
        raise InputError(f"{launcher.local_rank}={text!r} is not a number from 0 on; unset it")
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(text) % count}" if count else None


def _launcher_of(variables: Mapping[str, str]) -> _Launcher | None:
    """The innermost launcher: one that srun started sees srun's variables too."""
    return next((one for one in _LAUNCHERS if one.world in variables), None)


def parse_range(text: str) -> list[int]:
    """The numbers that a selection names, e.g. of concepts.

    Args:
        text: numbers and half-open ranges between commas: "3", "0:100" (0 to 99), "0:10,20".

    Returns:
        The numbers, in the order given.

    Raises:
        InputError: if a part is neither, holds nothing, or names a number again.
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
