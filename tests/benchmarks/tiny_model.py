"""A tiny model in a folder, as `--model` takes it, and as a benchmark's subject."""

from pathlib import Path

from benchmarks.steps import Subject
from concept_das.cli.options import ChatOptions, ModelOptions
from tests.tiny import tiny_model, tiny_tokenizer


def save_tiny(folder: Path, seed: int = 0) -> Path:
    tiny_model(seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def subject_of(folder: Path, system: str | None = None) -> Subject:
    return Subject(ModelOptions(model=str(folder), device="cpu"), ChatOptions(system=system))
