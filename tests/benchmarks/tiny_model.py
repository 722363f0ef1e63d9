"""A tiny model in a folder, as `--model` takes it, and as a benchmark's subject."""

from pathlib import Path

from benchmarks.steps import Subject
from concept_das.cli.options import ChatOptions, ModelOptions


def subject_of(folder: Path, system: str | None = None) -> Subject:
    return Subject(ModelOptions(model=str(folder), device="cpu"), ChatOptions(system=system))
