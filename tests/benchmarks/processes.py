"""Work in processes of their own, which may be killed."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any


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


def _quietly(target: Callable[..., object], *arguments: Any) -> None:
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    target(*arguments)
