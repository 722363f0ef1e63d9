"""The door: help and `import concept_das` come at once, and steering loads what it needs only."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from concept_das.cli import main
from concept_das.cli.parser import COMMANDS

SLOW = ("torch", "transformers", "pyvene", "datasets", "pandas", "matplotlib", "scipy", "wandb")


def loaded_by(program: str, modules: tuple[str, ...] = SLOW) -> set[str]:
    """Those of the modules that a fresh interpreter has loaded after a program."""
    report = f"print('loaded', *[m for m in {modules!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\n{report}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(found.stdout.splitlines()[-1].split()[1:])


def test_the_package_loads_nothing_slow() -> None:
    assert loaded_by("import concept_das, concept_das.methods, interventions, objectives") == set()


@pytest.mark.parametrize("words", ["", *COMMANDS])
def test_help_loads_nothing_slow(words: str) -> None:
    arguments = [*words.split(), "--help"]
    program = f"""
from concept_das.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert end.code == 0
"""
    assert loaded_by(program) == set()


def test_steering_loads_what_transformers_loads_and_no_more() -> None:
    beyond = ("pyvene", "datasets", "pandas", "matplotlib", "wandb", "scipy", "sklearn")
    program = f"""
import torch, transformers.modeling_utils, transformers.generation.utils
before = {{m for m in {beyond!r} if m in sys.modules}}
from concept_das import steer
for name in before:  # what transformers itself loads does not count
    del sys.modules[name]
"""
    assert loaded_by(program, beyond) == set()


def test_every_public_name_is_there() -> None:
    program = """
import concept_das, concept_das.exports, concept_das.methods, interventions, objectives
for package in (concept_das, concept_das.exports, concept_das.methods, interventions, objectives):
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
"""
    assert "pyvene" in loaded_by(program)


def test_the_installed_command_is_the_command_line() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="concept-das")
    assert command.load() is main


def test_every_kind_of_vector_is_read_by_load_vector_alone() -> None:
    """Vectors are read without pyvene; what other methods saved brings its method along."""
    program = """
from pathlib import Path
from concept_das import load_vector
load_vector("pirate")
assert "pyvene" not in sys.modules
kinds = {type(load_vector(path.parent)).__name__ for path in Path(FOLDER).rglob("vector.json")}
assert {"SteeringVector", "Adapter", "LearnedEdit", "SteeringPrompt"} <= kinds, kinds
"""
    folder = Path(__file__).parents[1] / "golden/saved"
    assert "pyvene" in loaded_by(program.replace("FOLDER", repr(str(folder))))
