"""A built wheel holds all that the library reads, nothing else, and runs outside a checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from concept_das.cli.parser import COMMANDS

ROOT = Path(__file__).parent.parent
PACKAGES = ("objectives", "interventions", "concept_das")

pytestmark = pytest.mark.slow


def pip(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words, "--no-deps", "-q"],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder into which the wheel was installed.

    It is built from a copy, as setuptools leaves folders behind.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "-w", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-index", "--target", str(folder / "installed"), str(wheel))
    return folder / "installed"


def run(installed: Path, *words: str) -> str:
    """The output of an interpreter that finds the wheel's packages first, outside the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path, *packages: str) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for package in packages
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_holds_every_file_of_the_packages(installed: Path) -> None:
    """Modules, stubs, py.typed, recipes, resources, and whatever a new room carries."""
    assert files(installed, *PACKAGES) == files(ROOT, *PACKAGES)


def test_it_holds_nothing_else(installed: Path) -> None:
    found = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert found - {"bin"} == {*PACKAGES}


def test_commands_have_their_help(installed: Path) -> None:
    command = str(installed / "bin/concept-das")
    assert "usage: concept-das" in run(installed, command, "--help")
    for name in COMMANDS:
        assert "--config CONFIG" in run(installed, command, *name.split(), "--help")


def test_what_it_carries_is_read(installed: Path) -> None:
    program = f"""
import concept_das, interventions, objectives
from pathlib import Path
for package in (concept_das, interventions, objectives):
    assert Path(package.__file__).is_relative_to({str(installed)!r}), package.__file__
    for name in package.__all__:
        assert getattr(package, name) is not None
from concept_das.methods.recipes import read_recipe, recipe_names
from concept_das.data.shipped import read_resource, shipped_instructions
assert [read_recipe(name) for name in recipe_names()]
assert len(read_resource("unrelated")) and len(shipped_instructions(3, seed=0)) == 3
print(concept_das.load_vector("pirate").concept)
"""
    assert run(installed, "-c", program).startswith("Talk like a pirate")
