"""Commands that are killed at random moments end with the files of an undisturbed run.

Ten kills of each command, spread over its duration. After each kill every file that stands in the
folder under its own name can be read; then the same command goes on.
"""

import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from concept_das.cli.parser import main
from concept_das.steering.artifact import load_vector
from tests.benchmarks.axbench import tiny_axbench
from tests.benchmarks.axbench.files import write_tiny
from tests.concept_das.cli.world import save_world, train

pytestmark = pytest.mark.slow

KILLS = 10

# What is left of a file that was being written, and of a lock.
LEFTOVERS = (".tmp", ".lock")


@dataclass(frozen=True)
class Work:
    """A command and its folder, which is always at the same place.

    Attributes:
        run: the command, in the process that calls it.
        out: the folder, or the file.
        before: copied there at the start, if anything.
    """

    run: Callable[[], int | None]
    out: Path
    before: Path | None = None

    def start_over(self) -> None:
        """An empty place, or what has to be there before."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, self.out)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("kills")
    write_tiny(folder / "data")
    assert main(train(save_world(folder), folder / "run")) == 0
    yield folder
    tiny_axbench.PRESETS.pop(tiny_axbench.PRESET, None)


def work_of(command: str, world: Path) -> Work:
    model, rows, out = world / "model", world / "rows.parquet", world / "out"
    on_model = (f"--model={model}", "--device=cpu")
    if command == "train":
        arguments = train(world, out, "--epochs=12")
    elif command == "evaluate":
        arguments = ["evaluate", "--vector", f"{out}/vector", "--device=cpu", "--batch-size=2"]
        return Work(lambda: main(arguments), out, before=world / "run")
    elif command == "data make":
        arguments = ["data", "make", *on_model, "--concept=Sing", f"--out={out}/rows.csv"]
        arguments += ["--count=24", "--max-new-tokens=12", "--batch-tokens=600"]
    elif command == "compare":
        arguments = ["compare", *on_model, f"--data={rows}", f"--out={out}", "--layer=1"]
        arguments += ["--methods=cdas,diffmean,prompt", "--seeds=[1, 2]", "--heldout=4"]
        arguments += ["--generations=2", "--new-tokens=6", "--multipliers=[1, 2]", "--wandb=off"]
        arguments += ['--changes={"cdas": {"epochs": 3}}']
    else:
        return Work(lambda: tiny_axbench.run(world, out, methods="cdas,prompt", concepts="1"), out)
    return Work(lambda: main(arguments), out)


def forked(work: Work, seconds: float | None = None) -> int | None:
    """Run it in a process of its own, which is killed after so many seconds.

    Returns:
        The exit code; None if it was killed.
    """

    def quietly() -> None:
        with open(work.out.parent / "stderr", "w") as file:
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(work.run() or 0)

    process = multiprocessing.get_context("fork").Process(target=quietly)
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return None if process.exitcode == -9 else process.exitcode


def check_readable(folder: Path) -> None:
    """Read every file under its own name, and every vector."""
    for path in folder.rglob("*"):
        if path.suffix == ".csv":
            pd.read_csv(path)
        elif path.suffix == ".parquet":
            pd.read_parquet(path)
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())
        elif path.suffix == ".json" and ".partial" not in path.name and "partial-" not in str(path):
            json.loads(path.read_text())
        if path.name == "vector.safetensors" and "vector.json" in os.listdir(path.parent):
            load_vector(path.parent)


def content(folder: Path) -> dict[str, object]:
    """Every file by its name; tables without the columns that hold a time."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.suffix in LEFTOVERS or path.parent.name.startswith("partial-"):
            continue
        if path.suffix == ".csv":
            table = pd.read_csv(path)
            timed = [column for column in table if "seconds" in column]
            found[name] = table.drop(columns=timed).to_csv()
        elif path.suffix == ".safetensors":  # whose header is of a time, or of a file with one
            found[name] = {key: value.tolist() for key, value in load_file(path).items()}
        elif path.name == "vector.json":
            described = json.loads(path.read_text())
            described["metrics"].pop("seconds", None)
            found[name] = {**described, "tensors_sha256": ""}
        elif name not in ("comparison.html", "summary.md", "report/report.html"):  # show seconds
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize("command", ["train", "evaluate", "data make", "compare", "axbench"])
def test_killed_runs_end_as_undisturbed_ones(command: str, world: Path) -> None:
    work, draws = work_of(command, world), random.Random(command)
    work.start_over()
    since = time.monotonic()
    assert forked(work) == 0, (world / "stderr").read_text()
    duration = time.monotonic() - since
    expected = content(work.out)
    assert expected
    work.start_over()
    kills = 0
    while kills < KILLS:
        code = forked(work, draws.uniform(0, duration))
        assert code in (None, 0), (world / "stderr").read_text()
        check_readable(work.out)
        if code is None:
            kills += 1
        else:
            assert content(work.out) == expected
            work.start_over()
    assert forked(work) == 0, (world / "stderr").read_text()
    assert content(work.out) == expected
