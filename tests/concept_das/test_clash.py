"""Another package in the place of `objectives`: one sentence, where it is needed and not before."""

import subprocess
import sys
from pathlib import Path

import pytest

from concept_das.clash import check_objectives

SENTENCE = "concept-das brings a package named objectives, and the one "


def python(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """An interpreter that finds a folder's packages before ours."""
    front = f"import sys; sys.path.insert(0, {str(path)!r})"
    if words[0] == "-c":
        words = ("-c", f"{front}\n{words[1]}")
    else:
        words = ("-c", f"{front}\nfrom concept_das.cli import main\nsys.exit(main({list(words)}))")
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


@pytest.fixture(params=["class Objective: ...", "import nothing_of_this_name"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with another `objectives`."""
    (tmp_path / "objectives").mkdir()
    (tmp_path / "objectives/__init__.py").write_text(request.param)
    return tmp_path


@pytest.mark.parametrize("other", ["class Objective: ..."], indirect=True)
def test_the_package_is_imported_and_says_it_where_objectives_are_needed(other: Path) -> None:
    program = """
import concept_das
from concept_das import Quadruple, load_vector
assert load_vector("pirate").rank == 1
try:
    concept_das.train_vector
except concept_das.InputError as error:
    print(error)
"""
    done = python(other, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(SENTENCE)
    assert done.stdout.count("\n") == 1
    assert "pip uninstall objectives" in done.stdout


def test_a_command_says_it_in_one_sentence(other: Path) -> None:
    done = python(other, "methods")
    assert done.returncode == 2
    assert done.stderr.startswith(f"concept-das: {SENTENCE}")
    assert done.stderr.count("\n") == 1


def test_our_own_is_accepted() -> None:
    check_objectives()
