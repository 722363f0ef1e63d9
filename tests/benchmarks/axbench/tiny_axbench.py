"""AxBench in small: files like its own, a tiny model, a preset of seconds."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.axbench import __main__ as command
from benchmarks.axbench.presets import PRESETS
from benchmarks.judges.options import JudgeOptions
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.methods.registry import find_method
from concept_das.runs.stages import Jobs, Slot
from concept_das.training.options import EngineOptions
from tests.benchmarks.processes import forked
from tests.tiny import tiny_model, tiny_tokenizer

CONCEPTS = {0: "words about ships", 1: "numbers of all kinds"}
WORDS = {
    0: ["mast", "sail", "deck", "anchor", "hull", "rope", "crew", "wave"],
    1: ["one", "two", "three", "ten", "six"],
}
METHODS = ("cdas", "diffmean", "prompt")
PRESET = "tiny"


def write_data(folder: Path) -> Path:
    """AxBench's training file, latent texts and AlpacaEval's instructions."""
    rows: list[dict[str, Any]] = []
    for number, concept in CONCEPTS.items():
        for i in range(8):
            words = WORDS[number]
            said = " ".join(words[(i + j) % len(words)] for j in range(3))
            rows.append(_row(number, concept, f"Say {i}", f"Aye {said} {i}", "positive"))
    rows += [
        _row(-1, "EEEEE", f"Tell {i}", f"Well, plain talk {i} here", "negative") for i in range(9)
    ]
    frame = pd.DataFrame(rows)
    folder.mkdir(parents=True, exist_ok=True)
    frame.drop(columns="category").to_parquet(folder / "tiny_train.parquet")
    latent = pd.concat(
        [frame[frame["concept_id"] == number] for number in CONCEPTS]
        + [
            frame[frame["concept_id"] == -1].assign(concept_id=number, output_concept=concept)
            for number, concept in CONCEPTS.items()
        ]
    )
    latent.to_parquet(folder / "tiny_latent_eval.parquet")
    asked = [{"instruction": f"Ask {i} of {i % 7}"} for i in range(70)]
    (folder / "alpaca_eval.json").write_text(json.dumps(asked))
    return folder


def _row(number: int, concept: str, asked: str, said: str, category: str) -> dict[str, Any]:
    return {
        "input": asked,
        "output": said,
        "output_concept": concept,
        "concept_genre": "text",
        "category": category,
        "dataset_category": "instruction",
        "concept_id": number,
    }


def write_model(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


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
        layer=1,
        configs=configs,
        factors=factors,
        concept_ids=None,
        instructions_per_concept=4,
        new_tokens=6,
        rows=5,
    )


def run(root: Path, out: Path, **options: Any) -> None:
    """The command, in this process."""
    add_preset()
    command.axbench(
        PRESET,
        ModelOptions(model=str(root / "model"), device="cpu"),
        ChatOptions(),
        options.pop("judging", JudgeOptions()),
        EngineOptions(),
        data=str(root / "data"),
        out=out,
        wandb="off",
        **options,
    )


def _process(
    root: Path, out: Path, kill: tuple[str, int] | None, environment: Mapping[str, str]
) -> None:
    os.environ.update(environment)
    if kill is not None:
        _kill_in(*kill)
    run(root, out)


def _kill_in(stage: str, chance: int) -> None:
    """Die by SIGKILL when jobs of a stage are about to write to disk for the n-th time."""
    run_job, sync, replace_file = Jobs.run, os.fsync, os.replace
    now = {"stage": "", "chances": 0}

    def watched(self: Jobs, slot: Slot) -> None:
        now["stage"] = slot[0]
        run_job(self, slot)

    def count() -> None:
        now["chances"] += now["stage"] == stage
        if now["chances"] == chance:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_rows(file: int) -> None:
        count()
        sync(file)

    def before_files(source: str, target: Path) -> None:
        count()
        replace_file(source, target)

    Jobs.run = watched  # type: ignore[method-assign]
    os.fsync, os.replace = before_rows, before_files  # type: ignore[assignment]


def start(
    root: Path,
    out: Path,
    kill: tuple[str, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Callable[[], int | None]:
    """The command in a process of its own.

    Returns:
        Waits for its end and gives the exit code.
    """
    return forked(_process, root, out, kill, environment or {})


def copy_without(whole: Path, out: Path, stage: str) -> None:
    """A finished run without a stage and the report."""
    shutil.copytree(whole, out)
    for name in (stage, "report"):
        shutil.rmtree(out / name, ignore_errors=True)
