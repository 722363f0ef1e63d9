"""Which pieces of a benchmark a process works on: those asked for, and its share of them."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from concept_das.errors import InputError

T = TypeVar("T")

# SLURM_NTASKS would not do: a batch script has it too, with SLURM_PROCID=0, though nobody started
# the other processes. A step's number of tasks is there only under srun.
_NAMES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))


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
    """The process that torchrun, accelerate or srun started; the only one without them.

    No process group is needed.

    Args:
        environment: the process's own if None.

    Raises:
        InputError: if a variable that they set is missing or not a number.
    """
    variables = os.environ if environment is None else environment
    for rank, world in _NAMES:
        if world not in variables:
            continue
        try:
            return Shard(int(variables[rank]), int(variables[world]))
        except KeyError as error:
            raise InputError(f"{world} is set without {rank}; set both or neither") from error
        except ValueError as error:
            raise InputError(
                f"{rank}={variables[rank]!r} of {world}={variables[world]!r} is not a process; set "
                "both to numbers, 0-based below the second, or neither"
            ) from error
    if "RANK" in variables:
        raise InputError("RANK is set without WORLD_SIZE; set both or neither")
    return Shard()


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
