"""A tiny model, rows and commands in a folder, as a user has them on a disk."""

from pathlib import Path

import pytest

from concept_das.cli.parser import main
from concept_das.data.reading import to_frame
from tests.concept_das.helpers import MORE_ROWS
from tests.tiny import save_tiny


def save_world(folder: Path) -> Path:
    """A tiny model in `model`, and `MORE_ROWS` in `rows.parquet`."""
    save_tiny(folder / "model")
    to_frame(MORE_ROWS).to_parquet(folder / "rows.parquet")
    return folder


def train(world: Path, out: Path, *more: str) -> list[str]:
    """The command that trains in a world."""
    return [
        *("train", "--model", f"{world}/model", "--device", "cpu"),
        *("--data", f"{world}/rows.parquet", "--out", str(out)),
        *("--layer", "-3", "--heldout", "3", "--epochs", "2"),
        *("--batch_size", "4", "--max_response_tokens", "6", "--wandb", "off", *more),
    ]


def steer(run: Path, *more: str) -> list[str]:
    """The command that steers by a run's vector."""
    return ["steer", "--vector", f"{run}/vector", "--device=cpu", "--max-new-tokens=5", *more]


def evaluate(run: Path, *more: str) -> list[str]:
    """The command that evaluates a run's vector."""
    return ["evaluate", "--vector", f"{run}/vector", "--device=cpu", "--multipliers=[1]", *more]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("concept-das: ")]
    assert error.rstrip().endswith(line)  # one line, and nothing after it
    return line.removeprefix("concept-das: ")
