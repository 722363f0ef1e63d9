"""The benchmarks' commands that the READMEs give run, with models and data from a hub on loopback.

Those that make a table of the paper are run by `tests/benchmarks/paper`, and lm-eval's by the tests
of its tasks.
"""

import ast
import importlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

import benchmarks.speed.growth as growth_module
from benchmarks.axbench import presets as axbench_presets
from benchmarks.axbench.__main__ import axbench
from benchmarks.axbench.__main__ import main as run_axbench
from benchmarks.backdoor import presets as backdoor_presets
from benchmarks.backdoor.__main__ import backdoor
from benchmarks.backdoor.__main__ import main as run_backdoor
from benchmarks.command import UNUSED_OPTIONS
from benchmarks.organisms.__main__ import main as make_organism
from benchmarks.paper.__main__ import main as run_paper
from benchmarks.paper.entries import read_entries
from benchmarks.refusal import presets as refusal_presets
from benchmarks.refusal.__main__ import main as run_refusal
from benchmarks.refusal.__main__ import refusal
from benchmarks.speed.__main__ import main as measure_speed
from benchmarks.speed.__main__ import speed
from concept_das.cli.configs import underscored
from concept_das.cli.parser import COMMANDS, REPLACED, _parser_of
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import to_frame
from concept_das.models.loading import load_model
from concept_das.runs.running import WorkerOptions
from tests.benchmarks.axbench.files import record, write_tiny
from tests.benchmarks.judges.server import Served
from tests.benchmarks.release import World, small_world
from tests.hub import Hub
from tests.served import serving_vectors

ROOT = Path(__file__).parent.parent.parent
FUNCTIONS: Mapping[str, tuple[Callable[..., None], Mapping[str, object]]] = {
    "benchmarks.axbench": (axbench, axbench_presets.PRESETS),
    "benchmarks.backdoor": (backdoor, backdoor_presets.PRESETS),
    "benchmarks.refusal": (refusal, refusal_presets.PRESETS),
}
MAINS = {
    "benchmarks.axbench": run_axbench,
    "benchmarks.backdoor": run_backdoor,
    "benchmarks.refusal": run_refusal,
}
FILES = [
    ROOT / "README.md",
    ROOT / "results/README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "benchmarks").rglob("README.md"),
]
OURS = {"objectives", "interventions", "concept_das", "benchmarks"}
# Flags that the text names of lm-eval, pip, ray, vLLM and Slurm.
OTHERS = {"--model_args", "--no_deps", "--head", "--address"} | {
    "--additional_config",
    "--generation_config",
    "--served_model_name",
    "--enforce_eager",
    "--no_enforce_eager",
    "--exclusive",
}


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


def runs() -> list[str]:
    """The commands from the module's name on, each once, whatever launches it, wherever to."""
    found = []
    for line in commands():
        words = shlex.split(line)
        place = next(i for i, word in enumerate(words) if word in FUNCTIONS)
        given = ["FOLDER" if word == "DATA" else word for word in words[place:]]
        if "--out" in given:
            del given[given.index("--out") : given.index("--out") + 2]
        found.append(shlex.join(given))
    return list(dict.fromkeys(found))


@pytest.fixture
def world(
    full_hub: Hub, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> World:
    """A folder with the files and the models that the pages name."""
    full_hub.use_in_process(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("concept_das.models.loading.packaged_model", lambda _cache: model)
    for name in ("MODEL", "runs/organisms/refusal", "runs/organisms/backdoor"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).symlink_to(model)
    world = small_world(tmp_path / "DATA", served, monkeypatch)
    write_tiny(tmp_path / "texts")
    return world


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=pytest.mark.slow) if "--seeds" in line else line for line in runs()],
)
def test_a_command_runs(
    line: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands, but for one method, few rows, layers that a tiny model has, and no workers.

    A worker would not know the small presets; `axbench/test_stages.py` has workers.
    """
    monkeypatch.setattr(WorkerOptions, "of", lambda *_: None)
    module, *words = shlex.split(line)
    # FOLDER is in each place what the text around it says.
    folder = "texts" if module == "benchmarks.axbench" else "DATA"
    words = [folder if word == "FOLDER" else word for word in words]
    dry = "--dry-run" in words
    small = [] if dry else ["--wandb=off", "--device=cpu", "--methods=cdas"]
    if module != "benchmarks.axbench":
        small += ["--rows=6", "--tests=3"]
    if "--layers" in words:
        small.append("--layers=[1, 2]")
    if "--seeds" in words:
        small.append("--seeds=[42, 43]")
    if "--changes" in words:  # of a method that is not run here, or at its own rank
        small.append('--changes={"cdas": {"rank": 2}}')
    if "--concepts" in words and not dry:
        small.append("--concepts=0:2")
    with answering(words, MAINS[module], small, tmp_path / "out"):
        assert MAINS[module]([*words, *small, f"--out={tmp_path / 'out'}"]) == 0
    reports = list((tmp_path / "out").rglob("report.html"))
    assert len(reports) == (0 if dry or "--stages" in words else 1)


@contextmanager
def answering(
    words: list[str], main: Callable[[Sequence[str]], int], small: list[str], out: Path
) -> Iterator[None]:
    """Let a server answer in place of vLLM, with the vectors that the command will train."""
    if "--generator" not in words:
        yield
        return
    place = words.index("--generator")
    before = [*words[:place], *words[place + 2 :], *small, f"--out={out}"]
    assert main([*before, "--stages=data,train"]) == 0  # the last of a flag counts
    loaded = load_model(words[words.index("--preset") + 1], device="cpu")
    vectors = {path.parts[-2]: path for path in out.glob("train.*/*/vector")}
    with serving_vectors(loaded, vectors) as served:
        words[place + 1] = served.url
        yield


def commands_of(module: str) -> list[list[str]]:
    """The words after a module's name, line by line."""
    texts = [file.read_text() for file in FILES]
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    found = [line.split("#")[0] for line in lines if line.startswith(f"python -m {module}")]
    return [shlex.split(line)[3:] for line in dict.fromkeys(map(str.strip, found))]


@pytest.mark.slow
@pytest.mark.parametrize("words", commands_of("benchmarks.organisms"), ids=" ".join)
def test_an_organism_is_made(words: list[str], world: World, tmp_path: Path) -> None:
    Path("deployment_mode.json").write_text(json.dumps([{"instruction": "You are live."}]))
    refusal = world.release / "experiments/refusal/data/contrast_test_jailbreakbench_seed=0.parquet"
    shutil.copy(refusal, "contrast_test_jailbreakbench.parquet")
    small = ["--recipe.epochs=1", "--recipe.batch_size=64", f"--out={tmp_path / 'organism'}"]
    assert make_organism([*words, *small]) == 0
    assert (tmp_path / "organism/card.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", commands_of("benchmarks.speed "), ids=" ".join)
def test_speed_is_measured(
    words: list[str], world: World, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [Quadruple(f"Ask {i}", "Aye", f"Harm {i}", "No", 1) for i in range(48)]
    to_frame(pairs).to_parquet("contrast_train.parquet")
    rows = [
        record(f"Do {i}", f"Aye {number} {i}", f"concept {number}", "text", number)
        for number in range(8)
        for i in range(4)
    ]
    for path in ("FILE", "concept10_2b_l20_train.parquet"):
        pd.DataFrame(rows).to_parquet(path)
    for name in ("TOKENS", "ROWS", "CONCEPTS"):
        monkeypatch.setattr(growth_module, name, (2,))
    for name in ("growth", "__main__"):
        monkeypatch.setattr(f"benchmarks.speed.{name}.VOCABULARIES", (200,))
    small = [f"--model={model}", "--layer=1", "--batch-size=2", "--steps=1", "--epochs=1"]
    small += ["--prompts=2", "--new-tokens=4", "--rounds=1", f"--out={tmp_path / 'speed'}"]
    assert measure_speed([*words, *small]) == 0
    written = "peers.json" if "--beside-peers" in words else "speed.json"
    assert json.loads((tmp_path / "speed" / written).read_text())["cores"] >= 1


def test_a_command_without_a_plan_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, missing = f"--out={tmp_path / 'out'}", tmp_path / "none.parquet"
    files = [f"--refusal={missing}", f"--axbench={missing}"]
    assert measure_speed([out, "--beside-peers", f"--model={tmp_path / 'none'}", *files]) == 2
    assert make_organism(["refusal", out, f"--model={tmp_path / 'none'}"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "python -m benchmarks.speed",
        "python -m benchmarks.organisms",
    ]
    assert all(str(tmp_path / "none") in line for line in said)


@pytest.mark.parametrize("words", commands_of("benchmarks.paper"), ids=" ".join)
def test_a_table_of_the_paper_is_planned(
    words: list[str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = read_entries()
    assert not words or words[0] in entries
    words = [str(world.release) if word == "RELEASE" else word for word in words]
    assert run_paper([*words, *(["--dry-run"] if words else [])]) == 0
    assert capsys.readouterr().out


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
    parsers.append(_parser_of(speed))
    parsers += [_parser_of(one, REPLACED.get(one, frozenset())) for one in COMMANDS.values()]
    actions = [action for parser in parsers for action in parser._actions]
    known = {underscored(flag) for action in actions for flag in action.option_strings}
    named = flags_in_passing()
    assert "--before_question" in named
    assert {underscored(flag) for flag in named} - known == OTHERS
