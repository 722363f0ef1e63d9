"""Options of the training engines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from concept_das.errors import InputError

Engine = Literal["auto", "pyvene"]


@dataclass(frozen=True)
class EngineOptions:
    """The way training is computed; it changes speed and memory, not the result.

    Args:
        engine: auto (replay cached hidden states where the model allows it) or pyvene (run the
            whole model every step).
        batch_tokens: tokens of one forward and backward pass, padding included.
        together: concepts trained at once; a step then holds a batch of rows of each.
        cache_gb: memory for cached hidden states, in gigabytes; half of what is free if not given.
            What does not fit goes to a file.
        cache_folder: folder for that file; the system's temporary folder if not given.
    """

    engine: Engine = "auto"
    batch_tokens: int = 2048
    together: int = 8
    cache_gb: float | None = None
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise InputError(f"unknown engine {self.engine!r}; choose auto or pyvene")
        for name in ("batch_tokens", "together"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


DEFAULT_ENGINE = EngineOptions()
