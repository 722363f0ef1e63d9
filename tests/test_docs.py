"""The documentation site: its pages are there, its errors are those of the code, and it builds."""

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.paper.entries import read_entries
from concept_das.cli.configs import underscored
from concept_das.cli.parser import build_parser
from concept_das.methods import METHODS

ROOT = Path(__file__).parent.parent


def messages_of(path: Path) -> list[str]:
    """The texts of a file, `…` in place of what is put into them."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            texts.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


def test_the_errors_that_are_explained_are_those_of_the_code() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    texts = [text for path in (ROOT / "concept_das").rglob("*.py") for text in messages_of(path)]
    assert len(explained) >= 25
    for message in explained:
        assert any(message.strip("… ") in text for text in texts), message


def test_every_page_of_the_site_is_there() -> None:
    pages = re.findall(r"([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert {"README.md", "docs/start.md", "results/README.md"} <= set(pages)
    missing = [page for page in pages if not (ROOT / page).exists() and "*" not in page]
    assert missing == ["/summary.md"]  # a pattern
    written = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert written <= set(pages)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Makes the pages of a module in docs/site, by their paths."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/site"))
    return lambda module: dict(importlib.import_module(module).pages())


def test_a_page_for_each_method_says_what_it_is_for(site: Callable[[str], dict[str, str]]) -> None:
    pages = site("method_pages")
    assert set(pages) == {f"docs/methods/{name}.md" for name in METHODS}
    for name, method in METHODS.items():
        assert re.search(r"\bUse it\b", inspect.getdoc(type(method)) or ""), name
        assert (
            f"::: {type(method).__module__}.{type(method).__name__}\n"
            in pages[f"docs/methods/{name}.md"]
        )
        command = re.search(
            r"^concept-das (train .*)$", pages[f"docs/methods/{name}.md"], re.MULTILINE
        )
        parser = build_parser(name, only="train")
        assert (
            parser.parse_args([underscored(word) for word in command[1].split()]).train.method
            == name
        )
    cdas = pages["docs/methods/cdas.md"]
    assert "::: objectives.divergences.jensen_shannon" in cdas
    assert "| `learning_rate` | 0.04 |" in cdas
    assert re.search(r"\| cdas@spread \| +0.78", cdas)  # results/blocks


def test_a_page_for_each_table_of_the_paper(site: Callable[[str], dict[str, str]]) -> None:
    pages = site("paper_pages")
    assert set(pages) == {f"docs/paper/{name}.md" for name in read_entries()}
    main = pages["docs/paper/axbench-main.md"]
    assert "\npython -m benchmarks.paper axbench-main --out runs/axbench-main\n" in main
    assert "google/gemma-2-9b-it: 9.2 billion weights" in main
    assert re.search(r"\| cdas +\| fair +\| +0.631 \| +0.608 \| +0.992 \| +0.518 \|", main)
    links = {link for text in pages.values() for link in re.findall(r"\]\(([^)]+)\)", text)}
    assert links
    assert all((ROOT / "docs" / link.removeprefix("../")).exists() for link in links)


def test_a_page_of_every_message(site: Callable[[str], dict[str, str]]) -> None:
    (page,) = site("error_pages").values()
    assert "## `concept_das/models/blocks.py`" in page
    assert page.count("\n- `") > 400
    explained = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert "`layer … is out of range" in explained
    assert "- `layer … is out of range" in page


@pytest.mark.skipif(importlib.util.find_spec("nbconvert") is None, reason="the extra docs")
def test_a_page_for_each_notebook(site: Callable[[str], dict[str, str]]) -> None:
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.py")}
    assert notebooks == {name for name in site("notebook_pages") if name.endswith(".md")}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for made in ("docs/methods/cdas_learned", "docs/paper/refusal", "notebooks/first_steps"):
        assert (tmp_path / made / "index.html").exists()
    api = (tmp_path / "docs/api/index.html").read_text(encoding="utf-8")
    assert "load_vector" in api
    assert "DistributedInterchangeIntervention" in api
    assert (tmp_path / "docs/swap.svg").exists()
