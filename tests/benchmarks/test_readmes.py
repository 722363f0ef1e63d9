"""The commands that the READMEs give exist, with the flags that they give them."""

import ast
import importlib
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.axbench import presets as axbench_presets
from benchmarks.axbench.__main__ import axbench
from benchmarks.backdoor import presets as backdoor_presets
from benchmarks.backdoor.__main__ import backdoor
from benchmarks.refusal import presets as refusal_presets
from benchmarks.refusal.__main__ import refusal
from benchmarks.steps import UNUSED_OPTIONS
from concept_das.cli.configs import underscored
from concept_das.cli.parser import COMMANDS, REPLACED, _parser_of

ROOT = Path(__file__).parent.parent.parent
FUNCTIONS: Mapping[str, tuple[Callable[..., None], Mapping[str, object]]] = {
    "benchmarks.axbench": (axbench, axbench_presets.PRESETS),
    "benchmarks.backdoor": (backdoor, backdoor_presets.PRESETS),
    "benchmarks.refusal": (refusal, refusal_presets.PRESETS),
}
FILES = [
    ROOT / "README.md",
    ROOT / "results/README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "benchmarks").rglob("README.md"),
]
OURS = {"objectives", "interventions", "concept_das", "benchmarks"}
# Flags that the text names of lm-eval, pip and srun, and of benchmarks.launching.
OTHERS = {"--model_args", "--no_deps", "--ntasks", "--cluster", "--folder", "--gpus_per_task"}


def commands() -> list[str]:
    """Whatever runs one of the benchmarks, by itself or through a launcher, without comments."""
    lines = [
        line.split("#")[0].strip()
        for file in FILES
        for language, block in re.findall(r"```(.*?)\n(.*?)```", file.read_text(), flags=re.DOTALL)
        if language in ("", "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    named = "|".join(map(re.escape, FUNCTIONS))
    return list(dict.fromkeys(line for line in lines if re.search(rf"(?:{named}) ", line)))


@pytest.mark.parametrize("line", commands())
def test_a_command_is_understood(line: str) -> None:
    words = shlex.split(line)
    place = next(i for i, word in enumerate(words) if word in FUNCTIONS)
    function, presets = FUNCTIONS[words[place]]
    flags = [underscored(word) for word in words[place + 1 :]]
    assert _parser_of(function).parse_args(flags).preset in presets


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_code_imports_what_exists(file: Path) -> None:
    for block in re.findall(r"```python.*?\n(.*?)```", file.read_text(), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_every_benchmark_is_there() -> None:
    for name in FUNCTIONS:
        assert any(name in line for line in commands())


def flags_in_passing() -> list[str]:
    """Flags within the text, as `--flag` or `--flag VALUE`."""
    texts = [re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL) for file in FILES]
    texts.append((ROOT / "CHANGELOG.md").read_text())
    codes = [code for text in texts for code in re.findall(r"`([^`]+)`", text)]
    return sorted({flag for code in codes for flag in re.findall(r"(?<!\S)--[\w.-]+", code)})


def test_a_flag_named_in_passing_exists() -> None:
    parsers = [_parser_of(function, UNUSED_OPTIONS) for function, _presets in FUNCTIONS.values()]
    parsers += [_parser_of(one, REPLACED.get(one, frozenset())) for one in COMMANDS.values()]
    actions = [action for parser in parsers for action in parser._actions]
    known = {underscored(flag) for action in actions for flag in action.option_strings}
    named = flags_in_passing()
    assert "--before_question" in named
    assert {underscored(flag) for flag in named} - known == OTHERS
