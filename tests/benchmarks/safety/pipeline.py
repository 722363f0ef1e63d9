"""Runs of the safety benchmarks on a tiny model."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from tests.benchmarks.processes import die_in, forked

# A vector of two epochs on six pairs, three test prompts, five tokens.
SMALL = (
    *("--rows=6", "--tests=3", "--layer=1", "--new-tokens=5", "--wandb=off", "--device=cpu"),
    '--changes={"all": {"epochs": 2}}',
    "--multipliers=[0.5, 1]",
)


def fake_scores(
    model: Any, tokenizer: Any, tasks: Sequence[str], steering: Any = None, **options: Any
) -> pd.DataFrame:
    """As `capability_scores` returns it; steering costs the last question."""
    scores = {f"{tasks[0]}/{i}": 1.0 if steering is None or i < 3 else 0.0 for i in range(4)}
    value = sum(scores.values()) / 4
    row = {"task": tasks[0], "metric": "acc", "value": value, "stderr": 0.1, "samples": 4}
    return pd.DataFrame([{**row, "scores": scores}])


def rows_of(dry_run: str) -> dict[str, dict[str, int]]:
    """The table that a dry run prints, by method; a total has no multipliers and is left out."""
    lines = [line.split() for line in dry_run.splitlines()]
    (header,) = (cells for cells in lines if cells[:1] == ["method"])
    rows = [cells for cells in lines if len(cells) == len(header) and cells != header]
    return {
        name: dict(zip(header[1:], (int(n.replace(",", "")) for n in numbers), strict=True))
        for name, *numbers in rows
    }


def killed_at(
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    stage: str,
    chance: int,
) -> int | None:
    """Run a command in a process that is killed at a stage's n-th write; its exit code."""
    return forked(_run_and_die, main, arguments, stage, chance)()


def _run_and_die(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], stage: str, chance: int
) -> None:
    die_in(stage, chance)
    os._exit(main(arguments))
