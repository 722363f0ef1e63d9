"""The documentation site: its pages are there, its errors are those of the code, and it builds."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from concept_das.methods.recipes import known_methods

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


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    methods = (tmp_path / "docs/every-method/index.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in re.sub(r"\s", "", methods) for name in known_methods())
    api = (tmp_path / "docs/api/index.html").read_text(encoding="utf-8")
    assert "load_vector" in api
    assert "DistributedInterchangeIntervention" in api
    assert (tmp_path / "docs/swap.svg").exists()
