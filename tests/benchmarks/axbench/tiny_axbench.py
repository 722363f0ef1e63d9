"""AxBench in small: files like its own, a tiny model, a preset of seconds."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.axbench import __main__ as command
from benchmarks.axbench.presets import PRESETS
from benchmarks.command import Plan
from benchmarks.judges.options import JudgeOptions
from benchmarks.presets import Strengths
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.methods.registry import find_method
from concept_das.runs.running import WorkerOptions
from concept_das.training.options import EngineOptions
from tests.benchmarks.processes import die_in, forked
from tests.benchmarks.tiny_benchmark import without_figures

METHODS = ("cdas", "diffmean", "prompt")
PRESET = "tiny"


def add_preset() -> None:
    """A preset of the tiny model, known under its name in this process."""
    few = PRESETS["smollm2-135m"]
    configs = {
        name: find_method(name).config(epochs=2, batch_size=3, max_response_tokens=8)
        for name in METHODS
    }
    factors = {"cdas": (1.0, 2.0), "diffmean": (1.0, 2.0), "prompt": (1.0,)}
    PRESETS[PRESET] = replace(
        few,
        name=PRESET,
        recipe=replace(few.recipe, layer=1, configs=configs),
        grids={name: Strengths(name, own, "a test") for name, own in factors.items()},
        concept_ids=None,
        instructions_per_concept=4,
        new_tokens=6,
        rows=5,
        response_tokens=8,
    )


def run(root: Path, out: Path, **options: Any) -> None:
    """The command, in this process."""
    add_preset()
    plan = command.axbench(
        PRESET,
        ModelOptions(model=str(root / "model"), device="cpu"),
        ChatOptions(),
        options.pop("judging", JudgeOptions()),
        EngineOptions(),
        WorkerOptions(),
        data=str(root / "data"),
        out=out,
        wandb="off",
        **options,
    )
    assert plan is not None
    plan.run()


class Main:
    """The command line with the preset known, also in a worker.

    Of the processes that see the folder KILLS, one dies in each stage that has a file there with
    the number of the chance.
    """

    def plan(self, argv: Sequence[str]) -> Plan | None:
        add_preset()
        without_figures(pytest.MonkeyPatch())
        kills = Path(os.environ.get("KILLS", "nowhere"))
        for path in kills.glob("*.kill"):
            die_in(path.stem, int(path.read_text()), path.with_suffix(".killed"))
        return command.main.plan(argv)


main = Main()


def run_by_workers(root: Path, out: Path, *more: str) -> None:
    """The command with two workers of Ray."""
    line = [f"--preset={PRESET}", f"--model={root / 'model'}", "--device=cpu", f"--out={out}"]
    line += [f"--data={root / 'data'}", "--wandb=off", "--workers=2", *more]
    add_preset()
    plan = command.main.plan(line)
    assert plan is not None
    plan.run(plan.processes.of(__name__, line))


def _process(root: Path, out: Path, kill: tuple[str, int]) -> None:
    die_in(*kill)
    run(root, out)


def start(root: Path, out: Path, kill: tuple[str, int]) -> Callable[[], int | None]:
    """The command in a process of its own.

    Returns:
        Waits for its end and gives the exit code.
    """
    return forked(_process, root, out, kill)
