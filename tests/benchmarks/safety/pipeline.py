"""A tiny model in a folder, and runs of the safety benchmarks on it."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from concept_das.runs.rows import RowLog
from concept_das.runs.stages import Job
from tests.benchmarks.processes import forked
from tests.tiny import tiny_model, tiny_tokenizer

# A vector of two epochs on six pairs, three test prompts, five tokens.
SMALL = (
    *("--rows=6", "--tests=3", "--layer=1", "--new-tokens=5", "--wandb=off", "--device=cpu"),
    '--changes={"all": {"epochs": 2}}',
    "--multipliers=[0.5, 1]",
)


def save_tiny(folder: Path, seed: int = 0) -> Path:
    tiny_model(seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def fake_scores(
    model: Any, tokenizer: Any, tasks: Sequence[str], steering: Any = None, **options: Any
) -> pd.DataFrame:
    """As `capability_scores` returns it; steering costs the last question."""
    scores = {f"{tasks[0]}/{i}": 1.0 if steering is None or i < 3 else 0.0 for i in range(4)}
    value = sum(scores.values()) / 4
    row = {"task": tasks[0], "metric": "acc", "value": value, "stderr": 0.1, "samples": 4}
    return pd.DataFrame([{**row, "scores": scores}])


def killed_at(
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    stage: str,
    chance: int,
) -> int | None:
    """Run a command in a process that is killed when a stage writes its n-th row, or at its end.

    Args:
        chance: 0 to kill it when its files are written but the job is not done.
    """
    return forked(_run_and_die, main, arguments, stage, chance)()


def _run_and_die(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], stage: str, chance: int
) -> None:
    append, running, written = RowLog.append, "", 0
    rows = Job.rows

    def noting(job: Job, *names: str) -> RowLog:
        nonlocal running
        running = job.stage
        return rows(job, *names)

    def appending(log: RowLog, key: str, row: Mapping[str, Any]) -> None:
        nonlocal written
        append(log, key, row)
        written += running == stage
        if running == stage and written == chance:
            os.kill(os.getpid(), signal.SIGKILL)

    Job.rows, RowLog.append = noting, appending
    if chance == 0:
        import concept_das.runs.stages as module

        original = module.write_atomically

        def writing(path: Path, content: bytes) -> None:
            if path.name == module.DONE_FILE and stage in path.as_posix():
                os.kill(os.getpid(), signal.SIGKILL)
            original(path, content)

        module.write_atomically = writing
    os._exit(main(arguments))
