"""A page with every error message of the library and of the benchmarks, from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = "docs/messages"

PACKAGES = ("concept_das", "benchmarks", "objectives", "interventions")

_INTRODUCTION = """\
# Every message

The errors that this project raises, by the module that raises them; `…` stands for a name or a
number. Each says what cannot be used and what to do. The commonest are explained in
[Errors](../errors.md).
"""


def pages() -> Iterator[tuple[str, str]]:
    """The path of the page and its text."""
    yield f"{FOLDER}/every.md", "\n".join([_INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if messages := list(dict.fromkeys(messages_raised(path.read_text(encoding="utf-8")))):
                yield f"## `{path.relative_to(ROOT).as_posix()}`\n"
                yield from (f"- {message}" for message in messages)
                yield ""


def messages_raised(source: str) -> Iterator[str]:
    """The messages of a module's own errors that are written where they are raised."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind = node.exc.func
            if isinstance(kind, ast.Name) and kind.id.endswith("Error"):
                text = _text(node.exc.args[0])
                if text.strip("… "):
                    yield f"`` {text} ``" if "`" in text else f"`{text}`"


def _text(node: ast.expr) -> str:
    """A string with `…` in place of what is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "…"
