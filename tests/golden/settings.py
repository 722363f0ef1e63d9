"""Parts of the record that train nothing: help texts, defaults, presets and recipes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from concept_das import METHODS, find_method
from tests.golden.files import write_json, write_text
from tests.golden.running import benchmark, concept_das, succeed
from tests.golden.surface import PRESET_BENCHMARKS, preset_settings

COMMANDS = (
    *("data make", "data axbench", "data check", "train", "evaluate", "steer", "export"),
    *("inspect", "methods", "compare", "sweep", "demo"),
)
BENCHMARKS = ("axbench", "refusal", "backdoor", "organisms", "speed")
ORGANISMS = ("refusal", "backdoor")
RECIPES = (
    *("gemma-2-2b-axbench-l10", "gemma-2-2b-axbench-l20", "gemma-2-2b-refusal-l10"),
    *("gemma-2-9b-axbench-l20", "gemma-2-9b-axbench-l31", "llama-3.1-8b-refusal-l12"),
    *("olmo-2-1b-axbench-l8", "phi-3.5-mini-refusal-l16", "qwen-2.5-14b-axbench-l24"),
    *("qwen-2.5-3b-axbench-l18", "qwen-2.5-7b-axbench-l14"),
)


def record_help(out: Path, work: Path) -> None:
    """Record what `--help` prints, in a terminal of 100 columns."""
    write_text(out / "concept-das.txt", succeed(concept_das("--help")).out)
    write_text(out / "concept-das-data.txt", succeed(concept_das("data", "--help")).out)
    for words in COMMANDS:
        text = succeed(concept_das(*words.split(), "--help")).out
        write_text(out / f"concept-das-{words.replace(' ', '-')}.txt", text)
    for name in BENCHMARKS:
        write_text(out / f"benchmarks-{name}.txt", succeed(benchmark(name, "--help")).out)
    for name in ORGANISMS:
        text = succeed(benchmark("organisms", name, "--help")).out
        write_text(out / f"benchmarks-organisms-{name}.txt", text)


def record_settings(out: Path, work: Path) -> None:
    """Every hyper-parameter of every method, recipe and preset, and every flag's default."""
    write_json(
        out / "methods.json",
        {
            name: {"directions": method.directions, "config": asdict(find_method(name).config())}
            for name, method in METHODS.items()
        },
    )
    write_text(out / "methods.txt", succeed(concept_das("methods")).out)
    given = ("--data=rows.parquet", "--out=runs/x")
    recipes = {name: _resolved("train", "--config", name, *given) for name in RECIPES}
    write_json(out / "recipes.json", recipes)
    defaults = {words: _resolved(*words.split()) for words in COMMANDS if words != "methods"}
    for name in METHODS:
        for command in ("train", "sweep"):
            defaults[f"{command} --method={name}"] = _resolved(command, f"--method={name}")
    for name in PRESET_BENCHMARKS:
        printed = succeed(benchmark(name, "--print_config")).out
        defaults[f"benchmarks.{name}"] = yaml.safe_load(printed)
        write_json(out / f"presets-{name}.json", preset_settings(name))
    write_json(out / "defaults.json", defaults)


def _resolved(*arguments: str) -> Any:
    return yaml.safe_load(succeed(concept_das(*arguments, "--print_config")).out)


def record_plans(out: Path, work: Path) -> None:
    """Record what `python -m benchmarks.axbench --dry-run` says of every preset."""
    changes = json.dumps({"all": {"epochs": 3}, "cdas": {"rank": 2}})
    for name in preset_settings("axbench"):
        text = succeed(benchmark("axbench", f"--preset={name}", "--dry-run")).out
        write_text(out / f"{name}.txt", text)
    more = ("--methods=cdas,lang", f"--changes={changes}", "--concepts=0:7")
    text = succeed(benchmark("axbench", "--preset=gemma-2-2b-l10", "--dry-run", *more)).out
    write_text(out / "changed.txt", text)
