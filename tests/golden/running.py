"""Run the project's commands in this process and keep what they print."""

import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class Outcome:
    """The end of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The sentence a command ends with when it cannot go on; `error:` lines of bad flags."""
        lines = self.err.splitlines()
        for number, line in enumerate(lines):
            if line.startswith(("concept-das: ", "python -m benchmarks.")):
                return line
            if "error: " in line:
                rest = (one.strip() for one in lines[number:])
                return " ".join(rest)[line.index("error: ") :].strip()
        return ""


def concept_das(*arguments: str) -> Outcome:
    """`concept-das ARGUMENTS`."""
    from concept_das.cli import main

    return _outcome(lambda: main(list(arguments)))


def benchmark(name: str, *arguments: str) -> Outcome:
    """`python -m benchmarks.NAME ARGUMENTS`."""

    def run() -> Any:
        with mock.patch.object(sys, "argv", [name, *arguments]):
            runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)

    return _outcome(run)


def succeed(outcome: Outcome) -> Outcome:
    """The outcome, if the command did what it was asked to.

    Raises:
        RuntimeError: with what it said, if it did not.
    """
    if outcome.code != 0:
        raise RuntimeError(f"a command of the record failed: {outcome.err[-2000:]}")
    return outcome


def _outcome(run: Callable[[], Any]) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), quiet():
        try:
            code = run()
        except SystemExit as stop:
            code = stop.code
    return Outcome(int(code or 0), out.getvalue(), err.getvalue())


@contextmanager
def quiet() -> Iterator[None]:
    """Offline, untracked, and with a terminal of one width."""
    fixed = {
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "offline",
    }
    with mock.patch.dict(os.environ, fixed):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
            os.environ.pop(name, None)
        yield
